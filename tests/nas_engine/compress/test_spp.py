"""SPP: the increments of the paper, exact counts, recoveries, and weights that come back as they went."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from nas_engine.compress.columns import bake, column_layers, columns, dead_units, hidden_weight, masks_of
from nas_engine.compress.criteria.base import Criterion, Scores
from nas_engine.compress.masked import Masked
from nas_engine.compress.schedules import Plan, ScheduledProgram, SppChannels, SppColumns
from nas_engine.compress.schedules.probabilities import Probabilities, Rules, exponential, linear, target_count
from nas_engine.config import Optimizer
from nas_engine.data import DataSplits, load_data
from nas_engine.train import NetworkProgram, train
from search_spaces.errors import ConfigError
from tests.nas_engine.compress.networks import residual, uniform


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_data("digits", limit=400)


class Norms(Criterion):
    """L1 norms of the rows that make a unit."""

    def finish(self) -> Scores:
        coupling, state = self.gated.coupling, self.gated.network.state_dict()
        units = np.zeros(coupling.count)
        for group in coupling.groups:
            for maker in group.makers:
                along = coupling.tensors[f"{maker}.weight"][0]
                assert along is not None
                np.add.at(units, along, state[f"{maker}.weight"].flatten(1).abs().sum(1).double().numpy())
        return Scores(units=units)


@pytest.mark.parametrize(("target", "symmetry"), [(40, 0.25), (7, 0.25), (100, 0.6), (1, 0.1)])
def test_the_three_properties_of_the_increments(target: int, symmetry: float) -> None:
    centre = -math.log(symmetry) * target / (math.log(2) - math.log(symmetry))
    first, middle = exponential(np.array([0.0, centre]), target, 0.05, symmetry)
    assert first == pytest.approx(0.05)
    assert middle == pytest.approx(symmetry * 0.05)
    ranks = np.arange(3 * target + 1.0)
    moves = exponential(ranks, target, 0.05, symmetry)
    assert moves[target] == 0
    assert exponential(np.array([target + 1e-9]), target, 0.05, symmetry)[0] == pytest.approx(0, abs=1e-8)
    assert (np.diff(moves) < 0).all()
    assert (moves[:target] > 0).all()
    assert (moves[target + 1 :] < 0).all()
    for distance in (0.1, 0.5, 0.9):  # centre-symmetric about (N, u A)
        low, high = exponential(centre + np.array([-distance, distance]) * centre, target, 0.05, symmetry)
        assert low + high == pytest.approx(2 * symmetry * 0.05)


def test_the_sheets_numbers() -> None:
    moves = exponential(np.array([80.0, 100.0]), 40, 0.05, 0.25)
    assert moves == pytest.approx([-0.175, -0.54], abs=0.003)
    assert -math.log(0.25) / (math.log(2) - math.log(0.25)) == pytest.approx(2 / 3)
    assert np.isfinite(exponential(np.arange(5000.0), 1, 0.05, 0.25)).all()
    assert linear(np.array([0.0, 20.0, 40.0, 60.0]), 40, 0.05, 0.25) == pytest.approx([0.05, 0.025, 0, -0.025])


@pytest.mark.parametrize(
    ("ratio", "units", "count"),
    [(0.5, 25, 13), (0.9, 144, 130), (0.9, 288, 260), (0.1, 30, 3), (0.03, 27, 0), (0, 9, 0)],
)
def test_how_many_go(ratio: float, units: int, count: int) -> None:
    assert target_count(ratio, units) == count


def test_what_ranks_lowest_always_is_gone_after_1_over_a_updates() -> None:
    layer = Probabilities(np.zeros(10), 2, Rules(rate=0.05))
    importance = np.arange(10.0)
    for _ in range(19):
        layer.update(importance)
    assert not layer.gone.any()
    layer.update(importance)
    assert np.flatnonzero(layer.gone).tolist() == [0]
    while not layer.finished:
        layer.update(importance)
    assert layer.p.tolist() == [1, 1, *[0] * 8]
    frozen = layer.p.copy()
    layer.update(-importance)
    assert np.array_equal(layer.p, frozen)


@pytest.mark.parametrize("increment", ["exponential", "linear"])
def test_exact_counts_and_recoveries_under_changing_ranks(increment: str) -> None:
    rng = np.random.default_rng(0)
    layer = Probabilities(np.zeros(57), 41, Rules(increment=increment))
    base = rng.random(57)
    for i in range(2000):
        if layer.finished:
            break
        layer.update(base + 0.3 * rng.random(57) / (1 + i / 50))  # ranks change less and less, as in a training
        assert layer.gone.sum() <= 41
    assert layer.gone.sum() == 41
    assert set(layer.p) == {0.0, 1.0}
    assert layer.falls > 0
    assert base[layer.gone].mean() < base[~layer.gone].mean()


def test_completing_takes_the_likeliest() -> None:
    layer = Probabilities(np.array([0.2, 0.9, 0.2, 0.0]), 2)
    assert layer.complete(np.array([3.0, 9.0, 1.0, 0.0])) == 2
    assert layer.p.tolist() == [0, 1, 1, 0]
    assert layer.complete(np.zeros(4)) == 0


def test_a_state_goes_on() -> None:
    rng = np.random.default_rng(0)
    a, b = Probabilities(np.zeros(9), 4), Probabilities(np.zeros(9), 4)
    for _ in range(30):
        a.update(rng.random(9))
    b.load_state_dict(a.state_dict())
    importance = rng.random(9)
    a.update(importance)
    b.update(importance)
    assert a.state_dict() == b.state_dict()


def test_rules_that_make_no_sense_are_refused() -> None:
    for wrong in ({"rate": 0}, {"symmetry": 1}, {"increment": "cubic"}):
        with pytest.raises(ConfigError):
            Rules(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="every"):
        SppColumns(every=0)
    with pytest.raises(ConfigError, match="share of columns"):
        SppColumns(ratio=1.0)
    with pytest.raises(ConfigError, match="no layer 'x'"):
        SppColumns(ratios={"x": 0.5}).begin(Plan(Masked(*residual()), uniform(residual()[1], 0.5), Norms))


FAST = Optimizer(batch_size=32, learning_rate=0.05, weight_decay=0.01)


def columns_run(digits: DataSplits, epochs: int = 12) -> tuple[Masked, SppColumns]:
    network, coupling = residual()
    masked = Masked(network, coupling)
    schedule = SppColumns(0.75, {"stem.conv": 0.5}, every=1, rate=0.2)
    program = ScheduledProgram(NetworkProgram(masked), schedule, Plan(masked, uniform(coupling, 0), Norms))
    list(train(program, digits, FAST, epochs=epochs, seed=0))
    return masked, schedule


def test_columns_end_with_exact_counts_and_recoveries(digits: DataSplits) -> None:
    masked, schedule = columns_run(digits)
    assert schedule.finished
    report = schedule.report()
    assert report["forced"] == 0
    assert report["recoveries"] > 0
    assert report["dead_units"] == dead_units(masked.network, masked.coupling).sum()
    assert 0 < report["iterations"] < 12 * 10
    kept = masks_of(masked.network)
    for name, layer in column_layers(masked.network):
        size = kept[name].size
        assert (~kept[name]).sum() == math.ceil((0.5 if name == "stem.conv" else 0.75) * size) > 0
        rest = columns(layer, hidden_weight(layer))[0][:, kept[name][0]]
        assert (rest != 0).all()  # survivors were never zeroed
    wanted = {name: ~keep for name, keep in kept.items()}
    bake(masked.network)
    for name, gone in wanted.items():
        layer = masked.network.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        assert np.array_equal((columns(layer, layer.weight) == 0).all(1).numpy(), gone)


def test_masked_weights_come_back_as_they_went(digits: DataSplits) -> None:
    """Neither gradients nor decay nor momentum move a weight in a step that masks it; the others move."""
    network, coupling = residual()
    masked = Masked(network, coupling)
    schedule = SppColumns(0.5, every=2, rate=0.4)
    checked = [0, 0]

    class Watched(ScheduledProgram):
        def before_step(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
            super().before_step(optimizer, epoch, step)
            self.before = [w.detach().clone() for w, _ in schedule._hidden()]

        def after_step(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
            hidden = [] if schedule._held is None else [h for _, h in schedule._hidden()]
            super().after_step(optimizer, epoch, step)
            for (weight, _), was, where in zip(schedule._hidden(), self.before, hidden, strict=False):
                assert torch.equal(weight[where], was[where])
                assert (weight[~where] != was[~where]).any()
                checked[0] += int(where.sum())
                checked[1] += 1

    program = Watched(NetworkProgram(masked), schedule, Plan(masked, uniform(coupling, 0), Norms))
    list(train(program, digits, FAST, epochs=2, seed=0))
    assert checked[0] > 1000
    assert checked[1] > 20


def test_channels_are_cut_as_the_target_says(digits: DataSplits) -> None:
    network, coupling = residual()
    masked = Masked(network, coupling)
    schedule = SppChannels(every=1, rate=0.2)
    choose = uniform(coupling, 0.5)
    program = ScheduledProgram(NetworkProgram(masked), schedule, Plan(masked, choose, Norms))
    list(train(program, digits, FAST, epochs=12, seed=0))
    assert schedule.finished
    assert schedule.report()["recoveries"] > 0
    for group in coupling.groups:
        assert masked.kept[group.units].sum() == len(group) / 2
    x = digits.samples(8)
    assert torch.equal(masked.drawn, masked.keep)
    assert torch.allclose(masked.eval()(x), masked.operate().network.eval()(x), atol=1e-4)


def test_hidden_parts_of_channels_are_held(digits: DataSplits) -> None:
    network, coupling = residual()
    masked = Masked(network, coupling)
    schedule = SppChannels(every=1)
    schedule.begin(Plan(masked, uniform(coupling, 0.5), Norms))
    rng = np.random.default_rng(0)
    drawn = {group.name: rng.random(len(group)) > 0.5 for group in coupling.groups}
    schedule._mask({name: np.ones(len(part), dtype=bool) for name, part in drawn.items()}, drawn)
    hidden = {id(p): h for p, h in schedule._hidden()}
    masked.train()
    masked(torch.randn(4, 1, 8, 8)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        where = hidden[id(parameter)].expand_as(parameter) if id(parameter) in hidden else None
        if where is not None:
            assert (parameter.grad[where] == 0).all(), name
    assert any(h.any() and not h.all() for h in hidden.values())


def test_a_pruning_that_ends_early_is_completed(digits: DataSplits) -> None:
    network, coupling = residual()
    masked = Masked(network, coupling)
    schedule = SppColumns(0.5, every=5)
    program = ScheduledProgram(NetworkProgram(masked), schedule, Plan(masked, uniform(coupling, 0), Norms))
    list(train(program, digits, FAST, epochs=1, seed=0))
    assert not schedule.finished
    schedule.complete()
    assert schedule.finished
    assert schedule.report()["forced"] == sum(math.ceil(0.5 * k.size) for k in masks_of(network).values())
    assert all((~k).sum() == math.ceil(0.5 * k.size) for k in masks_of(network).values())


def test_a_short_training_presses_harder() -> None:
    """So that all is decided within two thirds of it, where the paper's pace would take longer."""
    network, coupling = residual()
    rates = {}
    for epochs in (2, 500):
        schedule = SppChannels()
        schedule.begin(Plan(Masked(network, coupling), uniform(coupling, 0.5), Norms, epochs=epochs, batches=9))
        rates[epochs] = schedule.report()["rate"]
    assert rates[500] == 0.05
    assert rates[2] == pytest.approx(7.5 / (2 * 9 * 2 / 3))
