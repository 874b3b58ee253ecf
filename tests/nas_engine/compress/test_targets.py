"""Targets: how they are read, met, and refused."""

import numpy as np
import pytest
import torch

from nas_engine.compress.allocation import Limits, allocators
from nas_engine.compress.criteria import Scores
from nas_engine.compress.targets import Budget, Target, Way, latency_along
from predictors.cost import DeviceProfile, make_cost_model
from search_spaces import trace
from search_spaces.coupling import Coupling, couple
from search_spaces.errors import ConfigError, UnsatisfiableError
from search_spaces.models import models

COSTS = {name: make_cost_model(name) for name in ("macs", "params", "activation_bytes")}


@pytest.fixture(scope="module")
def resnet20() -> Coupling:
    return couple(trace(models["resnet20"]().eval(), torch.zeros(2, 3, 32, 32)))


def made(coupling: Coupling, name: str = "global", **limits: object) -> object:
    rng = np.random.default_rng(0)
    scores = Scores(units=rng.random(coupling.count), blocks=rng.random(len(coupling.blocks)))
    return allocators[name](coupling, scores, Limits(**limits))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("macs", "not of the form"),
        ("mac=0.5x", "did you mean 'macs'"),
        ("macs=half", "does not end with a number"),
        ("macs=1.5x", "a share below 1x"),
        ("macs=0", "above 0"),
        ("accuracy=0.9", "accuracy is what it costs"),
    ],
)
def test_targets_that_cannot_be_read(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Target.parse(text)


def test_targets_are_read() -> None:
    assert Target.parse(" MACs <= 0.5x ") == Target("macs", 0.5, True)
    assert Target.parse("latency_ms=1.5").limit(100.0) == 1.5
    assert str(Target.parse("params=1e6")) == "params=1e+06"


@pytest.mark.parametrize("name", ["global", "uniform", "blocks"])
@pytest.mark.parametrize("target", ["macs=0.5x", "params=150000", "macs=0.73x"])
def test_the_first_cut_that_meets_a_target(resnet20: Coupling, name: str, target: str) -> None:
    allocator = made(resnet20, name)
    goal = Target.parse(target)
    cut = Budget(resnet20, [goal], COSTS).solve(allocator)
    costs = [COSTS[goal.metric].cost(allocator.cut(i).graph(resnet20)) for i in range(len(allocator) + 1)]
    limit = goal.limit(costs[0])
    first = next(i for i, cost in enumerate(costs) if cost <= limit)
    assert (cut.keep == allocator.cut(first).keep).all()
    assert cut.without == allocator.cut(first).without


def test_several_targets_are_all_met(resnet20: Coupling) -> None:
    goals = [Target.parse("macs=0.6x"), Target.parse("params=0.4x")]
    budget = Budget(resnet20, goals, COSTS)
    costs = budget.costs(budget.solve(made(resnet20)).graph(resnet20))
    assert all(costs[g.metric] <= g.limit(budget.base[g.metric]) for g in goals)


def test_part_of_the_way(resnet20: Coupling) -> None:
    budget = Budget(resnet20, [Target.parse("macs=0.4x")], COSTS)
    allocator = made(resnet20)
    left = [budget.solve(allocator, way).graph(resnet20).cost.macs / budget.base["macs"] for way in (0.25, 0.5, 1.0)]
    assert left == pytest.approx([0.85, 0.7, 0.4], abs=0.02)
    assert budget.solve(allocator, 0.0).keep.all()


def test_a_target_out_of_reach_names_what_is_in_reach(resnet20: Coupling) -> None:
    allocator = made(resnet20, max_ratio=0.5)
    least = allocator.cut(len(allocator)).graph(resnet20).cost.macs
    budget = Budget(resnet20, [Target.parse("macs=0.01x")], COSTS)
    with pytest.raises(UnsatisfiableError, match=rf"lowest macs of a cut is .* \({least / budget.base['macs']:.3g}x\)"):
        budget.solve(allocator)


def test_a_target_that_is_met_already_cuts_nothing(resnet20: Coupling) -> None:
    assert Budget(resnet20, [Target.parse("macs=1e12")], COSTS).solve(made(resnet20)).keep.all()


def test_latency_of_cuts_from_their_operators(tmp_path, monkeypatch: pytest.MonkeyPatch, resnet20: Coupling) -> None:
    monkeypatch.setenv("NAS_ENGINE_CACHE", str(tmp_path))
    allocator = made(resnet20, multiple=16)
    way = Way(allocator)
    assert way.graph(way.from_indices([len(way.choices[0].options) - 1])).cost == resnet20.graph.cost
    model = latency_along(allocator, DeviceProfile.detect(batch=16), 4.0, 0)
    budget = Budget(resnet20, [Target.parse("latency_ms=0.6x")], {**COSTS, "latency_ms": model})
    cut = budget.solve(allocator)
    assert not cut.keep.all()
    assert model.cost(cut.graph(resnet20)) <= 0.6 * model.cost(resnet20.graph)
