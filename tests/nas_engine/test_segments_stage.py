"""Segment-wise search as a stage of a run: its files, going on after a stop, and what later stages make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nas_engine.config import Config, make_config
from nas_engine.context import Context
from nas_engine.stages import predict, sample
from nas_engine.stages.segmenting import segment_search
from predictors.segments import segment_members
from search_spaces import Supernet
from search_spaces.errors import ConfigError
from tests.small import SMALL

SEGMENTS = {"count": 2, "keep": 3, "check": 0.25}


def configured(results: Path, **more: Any) -> Config:
    """Untrained shared weights in the run's directory: the search asks the same of them as of trained ones."""
    sections = {
        "sample": {"architectures": 24, "workers": 1, "images": 20, "strategy": "segments", "segments": SEGMENTS},
        "predictor": {"name": "gcn", "members": 1, "folds": 2, "max_steps": 20, "head": 16, "hidden": 8},
    }
    return make_config({**SMALL, "results": str(results), **sections, **more})


def begun(config: Config, stop_after: int | None = None) -> Context:
    """A run with shared weights, which stops once so many members are scored."""
    context = Context(config)
    weights = context.path("supernet", "weights.safetensors")
    if not weights.exists():
        weights.parent.mkdir(parents=True)
        torch.manual_seed(0)
        save_file(Supernet(context.space).state_dict(), weights)

    def stop() -> bool:
        return stop_after is not None and len(scored(context)) >= stop_after

    context.stop = stop
    return context


def scored(context: Context) -> dict[str, float]:
    path = context.path("sample", "scores.jsonl")
    rows = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return {row["code"]: row["accuracy"] for row in rows}


def state(context: Context) -> dict[str, Any]:
    return json.loads(context.path("sample", "segments.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Context:
    context = begun(configured(tmp_path_factory.mktemp("whole")))
    assert sample(context)["architectures"] == 24
    return context


def test_what_it_leaves(whole: Context) -> None:
    told = state(whole)
    assert [(r["segment"], r["kind"], len(r["codes"])) for r in told["rounds"]] == [
        (0, "sample", 9),
        (0, "check", 3),
        (1, "sample", 9),
        (1, "check", 3),
    ]
    scores = scored(whole)
    assert {c: s for r in told["rounds"] for c, s in zip(r["codes"], r["scores"], strict=True)} == scores
    assert len(told["super_cells"]) == 1
    assert [c["score"] for c in told["super_cells"][0]] == sorted(c["score"] for c in told["super_cells"][0])[::-1]
    assert len({c["cost"] for c in told["super_cells"][0]}) > 1


@pytest.mark.parametrize("stop_after", [2, 20])
def test_going_on_after_a_stop(whole: Context, tmp_path: Path, stop_after: int) -> None:
    config = configured(tmp_path)
    stopped = begun(config, stop_after)
    assert sample(stopped) == {}
    assert stop_after <= len(scored(stopped)) < 24
    again = begun(config)
    assert sample(again)["architectures"] == 24
    assert scored(again) == scored(whole)
    assert state(again) == state(whole)


def test_later_stages_go_on_with_its_scores(whole: Context) -> None:
    assert predict(whole)["members"] == 24
    codes = list(segment_members(state(whole), whole.space))
    assert set(scored(whole)) <= set(codes)
    assert len(codes) > 100


def test_random_members_leave_no_segments(tmp_path: Path) -> None:
    context = begun(configured(tmp_path, sample={"architectures": 10, "workers": 1, "images": 20}))
    assert sample(context)["architectures"] == 10
    assert not context.path("sample", "segments.json").exists()


def test_segments_that_cannot_be_are_told_before_scoring(tmp_path: Path) -> None:
    config = configured(tmp_path, sample={"strategy": "segments", "segments": {"count": 9}})
    with pytest.raises(ConfigError, match="9 segments do not fit the 6 choices"):
        segment_search(Context(config))


def test_unknown_costs_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown cost 'mac': did you mean 'macs'"):
        make_config({"sample": {"segments": {"cost": "mac"}}})
