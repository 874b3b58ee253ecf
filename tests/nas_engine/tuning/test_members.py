"""Scores of supernet members, here and on actors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nas_engine.interrupt import Interrupt
from nas_engine.tuning import MemberJob, score_members
from search_spaces import SearchSpace, Supernet
from search_spaces.errors import RunError

from .conftest import make_small_config

Scores = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def members(space: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> MemberJob:
    """A job over an untrained supernet and a few of the digits."""
    directory = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    (directory / "supernet").mkdir()
    save_file(Supernet(space).state_dict(), directory / "supernet" / "weights.safetensors")
    sample = {"batch_size": 32, "recalibration_batches": 2, "workers": 2, "images": 40}
    return MemberJob.of(make_small_config(data={"limit": 200}, sample=sample), space, directory)


@pytest.fixture(scope="module")
def codes(space: SearchSpace) -> list[str]:
    rng = np.random.default_rng(0)
    return list(dict.fromkeys(space.canonical(space.sample(rng)).code for _ in range(12)))


def scores_of(job: MemberJob, codes: list[str]) -> Scores:
    scores: Scores = {}
    score_members(job, codes, lambda code, score: scores.update({code: score}))
    return scores


def test_a_job_is_what_the_run_says(members: MemberJob, tmp_path: Path) -> None:
    assert (members.space, members.workers, members.images) == ("nasbench201", 2, 40)
    assert members.parameters["input_shape"] == (1, 8, 8)
    assert members.parameters["channels"] == 4
    assert members.weights.is_absolute()


def test_scores_do_not_depend_on_the_order(members: MemberJob, codes: list[str]) -> None:
    alone = replace(members, workers=1)
    scores = scores_of(alone, codes)
    assert set(scores) == set(codes)
    assert scores_of(alone, codes[::-1]) == scores
    assert all(0 <= s["accuracy"] <= 1 and np.isfinite(s["loss"]) for s in scores.values())
    assert len({s["loss"] for s in scores.values()}) > 1


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("ray_cluster")
def test_scores_do_not_depend_on_the_worker(members: MemberJob, codes: list[str]) -> None:
    assert scores_of(members, codes) == scores_of(replace(members, workers=1), codes)


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("ray_cluster")
def test_missing_weights_are_named(members: MemberJob, codes: list[str], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no supernet weights at"):
        scores_of(replace(members, weights=tmp_path / "none.safetensors"), codes)


def test_stopping(members: MemberJob, codes: list[str]) -> None:
    stop = Interrupt()
    arrived = []

    def on_result(code: str, score: dict[str, float]) -> None:
        arrived.append(code)
        stop.set()

    score_members(replace(members, workers=1), codes, on_result, stop)
    assert 0 < len(arrived) < len(codes)


def test_nothing_to_score(members: MemberJob) -> None:
    assert scores_of(members, []) == {}
