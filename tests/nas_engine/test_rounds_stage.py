"""NAO's rounds as a stage of a run: their files, going on after a stop, and what later stages make of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nas_engine.config import Config, make_config
from nas_engine.context import Context
from nas_engine.stages import predict, sample
from predictors.nao import SEARCH, moves
from search_spaces import Supernet
from search_spaces.errors import ConfigError, DataError
from tests.small import SMALL

ROUNDS = {"count": 3, "first": 0.5, "seeds": 0.3}


def configured(results: Path, **more: Any) -> Config:
    """Untrained shared weights in the run's directory: the rounds ask the same of them as of trained ones."""
    sections = {
        "sample": {"architectures": 20, "workers": 1, "images": 20, "strategy": "nao", "rounds": ROUNDS},
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
    return json.loads(context.path("sample", "rounds.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def small_models() -> Iterator[None]:
    """Models that fit in no time; what the rounds find is none of these tests' concern."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moves, "SEARCH", {**SEARCH, "members": 1, "hidden": 8, "embedding": 4, "max_steps": 20})
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Context:
    context = begun(configured(tmp_path_factory.mktemp("whole")))
    assert sample(context)["architectures"] == 20
    return context


def test_what_they_leave(whole: Context) -> None:
    told = state(whole)
    assert [len(codes) for codes in told["codes"]] == [10, 5, 5]
    pairs = zip(chain(*told["codes"]), chain(*told["scores"]), strict=True)
    assert dict(pairs) == scored(whole)
    assert len(scored(whole)) == 20


@pytest.mark.parametrize("stop_after", [2, 13])
def test_going_on_after_a_stop(whole: Context, tmp_path: Path, stop_after: int) -> None:
    config = configured(tmp_path)
    stopped = begun(config, stop_after)
    assert sample(stopped) == {}
    assert stop_after <= len(scored(stopped)) < 20
    again = begun(config)
    assert sample(again)["architectures"] == 20
    assert scored(again) == scored(whole)
    assert state(again) == state(whole)


def test_later_stages_go_on_with_their_scores(whole: Context) -> None:
    assert predict(whole)["members"] == 20


def test_a_changed_setting_is_not_mixed_with_an_old_state(whole: Context, tmp_path: Path) -> None:
    config = configured(tmp_path)
    assert sample(begun(config, 2)) == {}
    other = configured(tmp_path, sample={**config.sample.model_dump(), "rounds": {**ROUNDS, "seeds": 0.5}})
    with pytest.raises(DataError, match=r"seeds 0\.3, now it is 0\.5"):
        sample(begun(other))


def test_random_members_leave_no_rounds(tmp_path: Path) -> None:
    context = begun(configured(tmp_path, sample={"architectures": 10, "workers": 1, "images": 20}))
    assert sample(context)["architectures"] == 10
    assert not context.path("sample", "rounds.json").exists()


def test_too_many_rounds_are_told_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="10 architectures leave 5 for the 8 rounds after the first"):
        make_config({"sample": {"strategy": "nao", "architectures": 10, "rounds": {"count": 9}}})
