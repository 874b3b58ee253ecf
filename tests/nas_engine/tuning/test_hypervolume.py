"""Hypervolume: worked by hand, bounds and reference, and that it stays when a search goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from nas_engine.config import Bound
from nas_engine.tuning import SearchJob, recorded, search_recorded
from nas_engine.tuning.history import DIVERGED, FINISHED, RUNNING, STOPPED, Trial
from nas_engine.tuning.hypervolume import measure, read_hypervolume

Jobs = Callable[..., SearchJob]
Curves = Callable[[str], list[float]]


def trial(number: int, accuracy: float | None, state: str = FINISHED, **costs: float) -> Trial:
    epochs: list[dict[str, Any]] = [] if accuracy is None else [{"epoch": 1, "accuracy": accuracy}]
    return Trial(number, number, str(number), costs, epochs, state)


def series(trials: Sequence[Trial], *costs: str, bounds: Sequence[str] = (), **largest: float) -> list[float]:
    found = measure(trials, ["accuracy", *costs], [Bound.parse(b) for b in bounds], largest)
    return [share for _, share in found.series]


def test_two_objectives_worked_by_hand() -> None:
    """Boxes from (accuracy, cost / 10): .8 x .5, then .2 x .6 lies partly beside it, then a dominated one."""
    trials = [trial(0, 0.8, macs=5.0), trial(1, 0.2, macs=4.0), trial(2, 0.7, macs=6.0), trial(3, 0.9, macs=9.0)]
    assert series(trials, "macs", macs=10.0) == pytest.approx([0.4, 0.42, 0.42, 0.43])


def test_three_objectives_worked_by_hand() -> None:
    """.5 x .5 x .5, and a second box .6 x .4 x .2 that shares .5 x .4 x .2 with it."""
    trials = [trial(0, 0.5, macs=5.0, params=50.0), trial(1, 0.6, macs=6.0, params=80.0)]
    assert series(trials, "macs", "params", macs=10.0, params=100.0) == pytest.approx([0.125, 0.125 + 0.048 - 0.040])


def test_one_objective_is_the_best_accuracy() -> None:
    assert series([trial(0, 0.3), trial(1, 0.2), trial(2, 0.6)]) == pytest.approx([0.3, 0.3, 0.6])


def test_the_ideal_network_has_the_whole_box() -> None:
    assert series([trial(0, 1.0, macs=0.0)], "macs", macs=7.0) == [1.0]


def test_only_trained_trials_within_the_bounds_count() -> None:
    trials = [
        trial(0, 0.5, macs=12.0),  # over the bound
        trial(1, 0.2, macs=1.0),  # not accurate enough
        trial(2, None, DIVERGED, macs=1.0),
        trial(3, 0.9, RUNNING, macs=1.0),
        trial(4, 0.5, STOPPED, macs=5.0),
    ]
    bounds = ["macs <= 10", "accuracy >= 0.3"]
    assert series(trials, "macs", bounds=bounds, macs=99.0) == pytest.approx([0.0, 0.0, 0.25])
    found = measure(trials, ["accuracy", "macs"], [Bound.parse(b) for b in bounds], {"macs": 99.0})
    assert found.reference == {"macs": 10.0}, "the bound, not the largest"
    assert [number for number, _ in found.series] == [0, 1, 4]


def test_without_a_bound_or_a_profile_the_largest_cost_of_the_trials_counts() -> None:
    found = measure([trial(0, 0.5, macs=4.0), trial(1, 0.5, macs=2.0)], ["accuracy", "macs"], [], {})
    assert found.reference == {"macs": 4.0}
    assert found.last == pytest.approx(0.25)


def test_nothing_trained() -> None:
    found = measure([], ["accuracy", "macs"], [], {})
    assert (found.series, found.last) == ([], 0.0)


def test_the_reference_stays_when_a_search_goes_on(job: Jobs, accuracies: Curves) -> None:
    """With the profile's extents, a run asked for more trials keeps what it told of the first ones."""
    device = {"profile": {"extents": [{"cost": "params", "largest": 5000.0}]}}
    made = job(trials=4)
    search_recorded(made, recorded(accuracies))
    first = read_hypervolume(made.directory, made.config, device)
    longer = job(trials=8)
    search_recorded(longer, recorded(accuracies))
    second = read_hypervolume(longer.directory, longer.config, device)
    assert first.reference == second.reference == {"params": 5000.0}
    assert second.series[: len(first.series)] == first.series
    shares = [share for _, share in second.series]
    assert len(shares) == 8
    assert shares == sorted(shares)
    assert 0 < second.last < 1
