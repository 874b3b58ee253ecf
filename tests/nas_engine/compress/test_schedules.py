"""Schedules in the training loop: what goes when, and trainings that are killed and go on as if they were not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nas_engine.compress.criteria.base import Scores
from nas_engine.compress.masked import Masked
from nas_engine.compress.schedules import (
    Choose,
    Geometric,
    Iterative,
    OneShot,
    Plan,
    Schedule,
    ScheduledProgram,
    SppChannels,
    SppColumns,
    schedules,
)
from nas_engine.config import Optimizer
from nas_engine.data import DataSplits, load_data
from nas_engine.train import DistilledProgram, NetworkProgram, train
from search_spaces.coupling import Coupling
from search_spaces.errors import ConfigError
from tests.nas_engine.compress.networks import Gradient, globally, residual, uniform

SETTINGS = Optimizer(batch_size=32, learning_rate=0.05)


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_data("digits", limit=400)


def calibration(digits: DataSplits) -> Callable[[], Iterable[tuple[Tensor, Tensor]]]:
    return lambda: islice(digits.walk(digits.train, 32, seed=7), 3)


def begun(
    digits: DataSplits, schedule: Schedule, allocator: Callable[[Coupling], Choose] | None = None
) -> tuple[Masked, ScheduledProgram]:
    network, coupling = residual()
    masked = Masked(network, coupling)
    choose = uniform(coupling, 0.5) if allocator is None else allocator(coupling)
    plan = Plan(masked, choose, Gradient, calibration(digits))
    return masked, ScheduledProgram(NetworkProgram(masked), schedule, plan)


def run(digits: DataSplits, schedule: Schedule, epochs: int, **more: Any) -> Masked:
    masked, program = begun(digits, schedule, **more)
    list(train(program, digits, SETTINGS, epochs=epochs, seed=0))
    return masked


def test_the_registry() -> None:
    assert schedules.names() == ["geometric", "iterative", "one_shot", "spp", "spp_columns"]
    assert schedules["spp"] is SppChannels
    with pytest.raises(ConfigError, match="geometric"):
        schedules["geometrical"]


def test_one_shot_goes_all_the_way_before_the_training(digits: DataSplits) -> None:
    schedule = OneShot()
    masked, program = begun(digits, schedule)
    assert schedule.finished
    before = masked.kept
    assert all(before[g.units].sum() == len(g) / 2 for g in masked.coupling.groups)
    list(train(program, digits, SETTINGS, epochs=1, seed=0))
    assert np.array_equal(masked.kept, before)
    assert schedule.report() == {"name": "one_shot", "finished": True, "units": int(before.sum())}


def test_geometric_keeps_the_same_share_each_time(digits: DataSplits) -> None:
    schedule = Geometric(steps=3, every=2)
    masked, program = begun(digits, schedule, lambda c: globally(c, 24))
    assert masked.kept.all()
    kept = [int(masked.kept.sum()) for _ in train(program, digits, SETTINGS, epochs=6, seed=0)]
    count, p = masked.coupling.count, 1 - 24 / masked.coupling.count
    wanted = [count * p ** (i / 3) for i in (1, 1, 2, 2, 3, 3)]
    assert kept == pytest.approx(wanted, abs=0.51)
    assert kept[-1] == count - 24
    assert schedule.finished


def test_iterative_takes_a_few_every_few_batches(digits: DataSplits) -> None:
    schedule = Iterative(every=3, units=4)
    masked, program = begun(digits, schedule, lambda c: globally(c, 22))
    kept = [masked.kept, *(masked.kept for _ in train(program, digits, SETTINGS, epochs=4, seed=0))]
    steps = -(-len(digits.train) // 32)
    each = steps // 3
    counts = [int(k.sum()) for k in kept]
    count = masked.coupling.count
    assert counts[1] == count - round(22 * min(1.0, each / 6))
    assert counts[-1] == count - 22
    assert all(not (later & ~earlier).any() for earlier, later in pairwise(kept))
    units = schedule.report()["units"]
    assert len(units) == 6  # ceil(22 / 4)
    assert {a - b for a, b in pairwise([count, *units])} <= {3, 4}


def test_iterative_averages_the_past(digits: DataSplits) -> None:
    """I <- 0.9 I + 0.1 I', by hand."""
    network, coupling = residual()
    seen: list[np.ndarray] = []
    gone: list[np.ndarray] = []
    choose = uniform(coupling, 0.5)

    def spy(scores: Scores, share: float) -> np.ndarray:
        assert scores.units is not None
        seen.append(scores.units.copy())
        gone.append(~masked.kept)
        return choose(scores, share)

    masked = Masked(network, coupling)
    scores = [np.random.default_rng(i).random(coupling.count) for i in range(3)]

    class Fixed(Gradient):
        def finish(self) -> Scores:
            assert self.batches == 2
            return Scores(units=next(values))

    values = iter(scores)
    schedule = Iterative(every=2, units=5)
    program = ScheduledProgram(NetworkProgram(masked), schedule, Plan(masked, spy, Fixed))
    few = digits.beginning(32, 6)
    list(train(program, few, SETTINGS, epochs=1, seed=0))
    left = masked.kept
    first, second = scores[0], 0.9 * scores[0] + 0.1 * scores[1]
    third = 0.9 * second + 0.1 * scores[2]
    assert np.allclose(seen[1], first)
    assert np.allclose(seen[2][left], second[left])
    assert np.allclose(seen[3][left], third[left])
    assert gone[3].any()
    assert (seen[3][gone[3]] == -np.inf).all()  # so that allocators choose what is gone first
    assert np.isfinite(seen[3][~gone[3]]).all()


def test_observing_does_not_disturb_the_training(digits: DataSplits) -> None:
    """The criterion of these tests leaves gradients behind, and it must see evaluation mode."""
    masked = run(digits, Iterative(every=1000), 1)
    alone = Masked(*residual())
    list(train(NetworkProgram(alone), digits, SETTINGS, epochs=1, seed=0))
    assert all(torch.equal(a, b) for a, b in zip(masked.parameters(), alone.parameters(), strict=True))


def test_iterative_is_done_after_two_thirds(digits: DataSplits) -> None:
    batches = len(digits.epoch(32, seed=0, epoch=0))
    schedule = Iterative(every=batches)
    network, coupling = residual()
    masked = Masked(network, coupling)
    plan = Plan(masked, globally(coupling, 21), Gradient, epochs=9, batches=batches)
    program = ScheduledProgram(NetworkProgram(masked), schedule, plan)
    done = [schedule.finished for _ in train(program, digits, SETTINGS, epochs=9, seed=0)]
    assert done.index(True) == 5
    assert len(schedule.report()["units"]) == 6


@pytest.mark.parametrize(
    ("asked", "epochs", "batches", "every"),
    [
        ({}, 0, 0, 180),
        ({}, 30, 10, 1),
        ({}, 45, 100, 20),
        ({}, 200, 391, 180),
        ({"rate": 0.2}, 45, 100, 80),
        ({"every": 7}, 9, 9, 7),
    ],
)
def test_probabilities_move_as_often_as_the_training_lets_them(
    asked: dict[str, Any], epochs: int, batches: int, every: int
) -> None:
    network, coupling = residual()
    schedule = SppColumns(**asked)
    schedule.begin(Plan(Masked(network, coupling), uniform(coupling, 0), Gradient, epochs=epochs, batches=batches))
    assert schedule.report()["every"] == every


@pytest.mark.parametrize(
    ("asked", "epochs", "pace"),
    [
        ({}, 0, (5, 1)),
        ({}, 3, (3, 1)),
        ({}, 1, (1, 1)),
        ({}, 30, (5, 4)),
        ({"every": 2}, 4, (2, 2)),
        ({"steps": 3, "every": 2}, 5, (3, 2)),
    ],
)
def test_geometric_steps_fit_the_training(asked: dict[str, int], epochs: int, pace: tuple[int, int]) -> None:
    network, coupling = residual()
    schedule = Geometric(**asked)
    schedule.begin(Plan(Masked(network, coupling), uniform(coupling, 0.5), Gradient, epochs=epochs))
    assert (schedule.report()["steps"], schedule.report()["every"]) == pace


def test_too_many_geometric_steps_are_refused() -> None:
    network, coupling = residual()
    plan = Plan(Masked(network, coupling), uniform(coupling, 0.5), Gradient, epochs=4)
    with pytest.raises(ConfigError, match="need 5 epochs at least; the training has 4"):
        Geometric(steps=5).begin(plan)


def test_an_epoch_shorter_than_the_interval_prunes_nothing_until_completed(digits: DataSplits) -> None:
    schedule = Iterative(every=1000)
    masked = run(digits, schedule, 1)
    assert masked.kept.all()
    assert not schedule.finished
    schedule.complete()
    assert schedule.finished
    assert all(masked.kept[g.units].sum() == len(g) / 2 for g in masked.coupling.groups)


def test_geometric_is_completed_in_its_own_steps(digits: DataSplits) -> None:
    schedule = Geometric(steps=3, every=1)
    masked = run(digits, schedule, 1, allocator=lambda c: globally(c, 24))
    assert not schedule.finished
    schedule.complete()
    assert masked.kept.sum() == masked.coupling.count - 24
    assert len(schedule.report()["units"]) == 3


KINDS: dict[str, Callable[[], Schedule]] = {
    "one_shot": OneShot,
    "geometric": lambda: Geometric(steps=3, every=1),
    "iterative": lambda: Iterative(every=3, units=3),
    "spp": lambda: SppChannels(every=2, rate=0.5),
    "spp_columns": lambda: SppColumns(0.5, every=1, rate=0.5),
}


@pytest.mark.parametrize("killed", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_schedule_goes_on_exactly(kind: str, killed: int, digits: DataSplits, tmp_path: Path) -> None:
    def going(epochs: int, checkpoint: Path | None) -> tuple[Masked, Schedule]:
        schedule = KINDS[kind]()
        masked, program = begun(digits, schedule)
        list(islice(train(program, digits, SETTINGS, epochs=4, seed=0, checkpoint=checkpoint), epochs))
        return masked, schedule

    whole, first = going(4, None)
    going(killed, tmp_path / "c.pt")
    resumed, second = going(4, tmp_path / "c.pt")
    assert first.finished
    assert first.report() == second.report()
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("kind", ["one_shot", "geometric", "iterative", "spp"])
def test_surgery_gives_the_network_that_was_trained(kind: str, digits: DataSplits) -> None:
    schedule = KINDS[kind]()
    masked = run(digits, schedule, 3)
    schedule.complete()
    small = masked.operate().network
    x = digits.samples(32)
    assert not masked.kept.all()
    assert torch.allclose(masked.eval()(x), small.eval()(x), atol=1e-4)


def test_schedules_distil(digits: DataSplits) -> None:
    network, coupling = residual()
    teacher, _ = residual(3)
    masked = Masked(network, coupling)
    plan = Plan(masked, uniform(coupling, 0.5), Gradient, calibration(digits))
    program = ScheduledProgram(DistilledProgram(masked, teacher), Geometric(steps=2), plan)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    losses = [e.loss for e in train(program, digits, SETTINGS, epochs=5, seed=0)]
    assert losses[-1] < losses[1]
    assert program.schedule.finished
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="steps must be 1"):
        Geometric(steps=0)
    with pytest.raises(ConfigError, match="every must be 1"):
        Iterative(every=0)
    with pytest.raises(ConfigError, match="1 - ema"):
        Iterative(ema=1.0)
