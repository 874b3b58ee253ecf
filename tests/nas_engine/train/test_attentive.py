"""Attention to the best or the worst predicted members."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nas_engine.config import Supernet as Settings
from nas_engine.train.attentive import Attentive, Pool
from nas_engine.train.phases import Phases
from search_spaces import Architecture, SearchSpace, make_space


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return make_space(
        "mobile", {"input_shape": (1, 8, 8), "widths": (8, 16), "strides": (1, 2), "depths": (1, 2), "resolutions": [8]}
    )


def loss_of(member: Architecture) -> float:
    """A made-up loss: large kernels lose less, whatever they cost."""
    return 1.0 - 0.05 * sum(int(v) for n, v in member.values.items() if n.endswith("block0.kernel"))


def taught(space: SearchSpace, **settings: object) -> Attentive:
    """A sampling that has heard losses of some members in an epoch."""
    sampling = Attentive(space, Settings.model_validate({"strategy": "attentive", "attentive": settings}), 0)
    opened, rng = Phases(space, (), 9).at(0), np.random.default_rng(0)
    for _ in range(60):
        members = sampling.members(opened, rng, 0)
        sampling.observe(members, torch.tensor([loss_of(m) for m in members]))
    return sampling


def between(sampling: Attentive, epoch: int, count: int = 60) -> list[Architecture]:
    opened = Phases(sampling.space, (), 9).at(0)
    steps = (sampling.members(opened, np.random.default_rng([epoch, i]), epoch) for i in range(count))
    return [member for members in steps for member in members[2:]]


def test_ends_stay_and_members_between_are_random_at_first(space: SearchSpace) -> None:
    sampling = Attentive(space, Settings(strategy="attentive", random_members=3), 0)
    opened = Phases(space, (), 9).at(0)
    largest, smallest, *rest = sampling.members(opened, np.random.default_rng(0), 0)
    assert (largest, smallest) == (opened.largest, opened.smallest)
    assert len(rest) == 3
    assert len(set(between(sampling, 0))) > 40


@pytest.mark.parametrize(("toward", "sign"), [("best", 1), ("worst", -1)])
def test_the_predicted_best_or_worst_is_trained(space: SearchSpace, toward: str, sign: int) -> None:
    sampling = taught(space, toward=toward, of=4)
    before, after = (np.mean([loss_of(m) for m in between(sampling, epoch)]) for epoch in (0, 1))
    assert sign * (before - after) > 0.05


def test_choice_is_among_members_of_like_cost(space: SearchSpace) -> None:
    """Attention must not end up at the large members, which are mostly the best."""
    sampling = taught(space, of=4)
    macs = [np.mean([space.graph(m).cost.macs for m in between(sampling, epoch)]) for epoch in (0, 1)]
    assert abs(macs[1] / macs[0] - 1) < 0.1


def test_a_band_offers_its_own_members_only() -> None:
    members = [Architecture("s", (), (i,)) for i in range(8)]
    pool = Pool(members, [np.arange(4), np.arange(4, 8)], np.repeat([0, 1], 4), np.arange(8))
    rng = np.random.default_rng(0)
    picked = {pool.pick(rng, 3, best=True).indices[0] for _ in range(200)}
    assert picked <= {2, 3, 6, 7}  # of three of a band's four, the best is no worse than the second


def test_a_killed_training_goes_on_with_the_same_members(space: SearchSpace) -> None:
    sampling = taught(space)
    state = sampling.state_dict()
    again = Attentive(space, Settings(strategy="attentive"), 0)
    again.load_state_dict(state)
    assert between(again, 1) == between(sampling, 1)
    assert set(state) == {"codes", "losses"}
    assert len(state["codes"]) == len(state["losses"]) == 120


def test_losses_that_are_no_numbers_are_not_learned_from(space: SearchSpace) -> None:
    sampling = Attentive(space, Settings(strategy="attentive"), 0)
    members = sampling.members(Phases(space, (), 9).at(0), np.random.default_rng(0), 0)
    sampling.observe(members, torch.tensor([1.0, 2.0, float("nan"), 3.0]))
    assert sampling.state_dict()["losses"].tolist() == [2.0]
