"""Sampling of supernet members: uniform, strictly fair, sandwich."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from nas_engine.config import Supernet as Settings
from nas_engine.train import supernet_program
from search_spaces import SearchSpace, Supernet, make_space


@pytest.fixture(scope="module", params=["nasbench201", "mobile"])
def space(request: pytest.FixtureRequest) -> SearchSpace:
    if request.param == "nasbench201":
        return make_space("nasbench201", {"input_shape": (1, 8, 8), "channels": 4, "cells": 1})
    return make_space("mobile", {"input_shape": (1, 8, 8), "widths": (8, 16), "strides": (1, 2), "depths": (1, 2)})


@pytest.mark.parametrize("strategy", ["uniform", "fair", "sandwich"])
def test_members_follow_from_seed_epoch_and_step(space: SearchSpace, strategy: str) -> None:
    net = Supernet(space)
    program = supernet_program(net, 5, Settings(strategy=strategy))
    again = supernet_program(net, 5, Settings(strategy=strategy))
    other = supernet_program(net, 6, Settings(strategy=strategy))
    members = [program.members(1, step) for step in range(8)]
    assert members == [again.members(1, step) for step in range(8)]
    assert members != [other.members(1, step) for step in range(8)]
    assert len({a.code for m in members for a in m}) > 4


@pytest.mark.parametrize("strategy", ["uniform", "fair", "sandwich"])
def test_a_step_gives_gradients(space: SearchSpace, strategy: str) -> None:
    torch.manual_seed(0)
    net = Supernet(space).train()
    program = supernet_program(net, 0, Settings(strategy=strategy))
    loss = program.backward(torch.randn(8, 1, 8, 8), torch.randint(0, 10, (8,)), 0, 0)
    assert torch.isfinite(loss)
    touched = {n for n, p in net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    used = set().union(*(net.parameters_of(a) for a in program.members(0, 0)))
    assert touched
    assert touched <= used


def test_fair_steps_use_every_option_once() -> None:
    space = make_space("nasbench201", {"input_shape": (1, 8, 8), "channels": 4, "cells": 1})
    program = supernet_program(Supernet(space), 0, Settings(strategy="fair"))
    members = program.members(3, 7)
    for position in range(len(space.choices)):
        assert sorted(a.indices[position] for a in members) == [0, 1, 2, 3, 4]


def test_uniform_sampling_reaches_every_option() -> None:
    space = make_space("mobile", {"input_shape": (1, 8, 8), "widths": (8, 16), "strides": (1, 2), "depths": (1, 2)})
    program = supernet_program(Supernet(space), 0, Settings(strategy="uniform"))
    drawn = [program.members(0, step)[0] for step in range(300)]
    for position, choice in enumerate(space.choices):
        counts = Counter(a.indices[position] for a in drawn)
        assert set(counts) == set(range(len(choice.options)))


def test_sandwich_holds_both_ends_and_distils() -> None:
    space = make_space("mobile", {"input_shape": (1, 8, 8), "widths": (8, 16), "strides": (1, 2), "depths": (1, 2)})
    net = Supernet(space).train()
    program = supernet_program(net, 0, Settings(strategy="sandwich", random_members=3))
    largest, smallest, *drawn = program.members(0, 0)
    assert all(i == len(c.options) - 1 for i, c in zip(largest.indices, space.choices, strict=True))
    assert set(smallest.indices) == {0}
    assert len(drawn) == 3
