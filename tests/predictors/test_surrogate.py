"""What a search believes: results are remembered, running members are no news, the slow learner learns now and then."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from predictors import kendall_tau
from predictors.gp import Kernel, Posterior, Watch
from predictors.ranking import normal_scores
from predictors.reading import Members, Reader
from predictors.surrogate import Surrogate
from search_spaces import Architecture, SearchSpace, make_space
from search_spaces.errors import ConfigError


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return make_space("nasbench201", {"input_shape": (3, 8, 8), "channels": 4, "cells": 1})


def convolutions(members: list[Architecture]) -> np.ndarray:
    """A quality that the wiring decides: convolutions, which count for more on the way past both inner nodes."""
    return np.array([sum(i >= 3 for i in a.indices) + 2.0 * (a.indices[0] == 4) - (a.indices[3] == 0) for a in members])


@pytest.fixture(scope="module")
def drawn(space: SearchSpace) -> list[Architecture]:
    rng = np.random.default_rng(0)
    return list({a.code: a for a in (space.canonical(space.sample(rng)) for _ in range(400))}.values())


def read(space: SearchSpace, members: list[Architecture]) -> Members:
    return Reader.of(space).read(members)


@pytest.mark.parametrize("learner", [None, "gcn"])
def test_it_ranks_what_it_has_not_seen(space: SearchSpace, drawn: list[Architecture], learner: str | None) -> None:
    seen, unseen = drawn[:40], drawn[40:]
    surrogate = Surrogate(space, learner=learner).fit(read(space, seen), convolutions(seen), learned=40)
    mean, std = surrogate.believe(read(space, unseen))
    assert kendall_tau(convolutions(unseen), mean) > 0.6
    assert (std > 0).all()
    told, sure = surrogate.believe(read(space, seen))
    assert kendall_tau(convolutions(seen), told) > 0.8
    assert sure.mean() < std.mean()


def test_running_members_are_expected_to_bring_no_news(space: SearchSpace, drawn: list[Architecture]) -> None:
    seen, running, rest = drawn[:20], drawn[20:24], drawn[24:]
    known = read(space, seen), convolutions(seen)
    alone = Surrogate(space, learner=None).fit(*known, learned=0)
    beside = Surrogate(space, learner=None).fit(*known, learned=0, running=read(space, running))
    before, after = alone.believe(read(space, running)), beside.believe(read(space, running))
    assert after[0] == pytest.approx(before[0], abs=0.05)
    assert (after[1] < before[1]).all()
    assert (beside.believe(read(space, rest))[1] <= alone.believe(read(space, rest))[1] + 1e-9).all()


def test_the_slow_learner_learns_anew_only_from_other_results(
    space: SearchSpace, drawn: list[Architecture], monkeypatch: pytest.MonkeyPatch
) -> None:
    surrogate = Surrogate(space, learner="gcn")
    assert surrogate._learner is not None
    calls: list[int] = []
    monkeypatch.setattr(
        surrogate._learner, "learn", lambda seen, target, folds: (calls.append(len(seen)), target[: len(seen)])[1]
    )
    monkeypatch.setattr(surrogate._learner, "rank", lambda members: (np.zeros(len(members)), np.ones(len(members))))
    scores = convolutions(drawn)
    for count, learned in ((12, 10), (20, 20), (25, 20), (31, 30)):  # ten results are too few for it
        surrogate.fit(read(space, drawn[:count]), scores[:count], learned=learned)
    changed = scores[:31].copy()
    changed[3] += 1
    surrogate.fit(read(space, drawn[:31]), changed, learned=30)
    assert calls == [20, 30, 30]


def test_scores_are_placed_among_the_results(space: SearchSpace, drawn: list[Architecture]) -> None:
    scores = np.array([3.0, 1.0, 2.0, 5.0])
    surrogate = Surrogate(space, learner=None).fit(read(space, drawn[:4]), scores, learned=0)
    assert surrogate.targets == pytest.approx(normal_scores(scores))
    assert surrogate.target_of(2.0) == pytest.approx(surrogate.targets[2])
    assert surrogate.targets[0] < surrogate.target_of(4.0) < surrogate.targets[3]


def test_a_learner_must_rank(space: SearchSpace) -> None:
    with pytest.raises(ConfigError, match="gives no ranking"):
        Surrogate(space, learner="zerocost")


def test_a_watch_says_what_the_posterior_says() -> None:
    """However observations come in: one by one, several at once, or others instead of those that came last."""
    rng = torch.Generator().manual_seed(0)
    points, seen = (torch.randn(n, 6, generator=rng, dtype=torch.float64) for n in (50, 30))
    target = seen[:, 0] + 0.1 * torch.randn(30, generator=rng, dtype=torch.float64)
    kernel = Kernel.fit(seen, target, spread=1.0, steps=10)
    watch = Watch(kernel, points)
    other = torch.cat([seen[:18], seen[25:]])
    for told, goal in ((seen[:12], target[:12]), (seen[:13], target[:13]), (seen[:20], -target[:20])):
        _agree(watch, told, goal, points)
    _agree(watch, other, target[: len(other)], points)
    _agree(watch, other[:5], target[:5], points)


def _agree(watch: Watch, told: torch.Tensor, goal: torch.Tensor, points: torch.Tensor) -> None:
    for one, expected in zip(watch(told, goal), Posterior.given(watch.kernel, told, goal)(points), strict=True):
        assert one == pytest.approx(expected, abs=1e-4)


def test_length_scales_are_kept_between_renewals(
    space: SearchSpace, drawn: list[Architecture], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beliefs are those of a surrogate that never heard of earlier results: a search that goes on repeats itself."""
    found: list[int] = []
    fit = Kernel.fit
    monkeypatch.setattr(Kernel, "fit", lambda points, goal, **k: (found.append(len(points)), fit(points, goal, **k))[1])
    kept, rest = Surrogate(space, learner=None, renewed_every=10), read(space, drawn[60:])
    scores = convolutions(drawn)
    for count in (20, 21, 25, 30, 34, 40):
        kept.fit(read(space, drawn[:count]), scores[:count], learned=0)
        kept.believe(rest)
    assert found == [20, 30, 40]
    kept.fit(read(space, drawn[:44]), scores[:44], learned=0, running=read(space, drawn[44:46]))
    fresh = Surrogate(space, learner=None, renewed_every=10)
    fresh.fit(read(space, drawn[:44]), scores[:44], learned=0, running=read(space, drawn[44:46]))
    for one, other in zip(kept.believe(rest), fresh.believe(rest), strict=True):
        assert one == pytest.approx(other, abs=1e-4)
