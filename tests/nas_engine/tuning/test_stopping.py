"""Early stopping: each rule worked by hand, several objectives, replay, and how seldom a front member is stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from nas_engine.config import Bound, Search
from nas_engine.tuning import SearchJob, recorded, search_recorded
from nas_engine.tuning.conductor import Conductor
from nas_engine.tuning.stopping import (
    EarlyStopping,
    FrontStopping,
    NeverStopping,
    SuccessiveHalving,
    make_stopping,
)

HALVING = Search(epochs=9, grace_epochs=1, reduction=3)
FRONT = Search(epochs=4, grace_epochs=2, margin=0.0)
Jobs = Callable[..., SearchJob]
Rule = Callable[[], EarlyStopping]


def feed(rule: EarlyStopping, trial: int, curve: Sequence[float], *costs: float) -> int:
    """Train a trial as far as the rule allows; returns its number of epochs."""
    for epoch, accuracy in enumerate(curve, 1):
        if rule.stops(trial, epoch, accuracy, costs):
            return epoch
    return len(curve)


# ---- successive halving --------------------------------------------------------------------------------------


def test_rungs_worked_by_hand() -> None:
    """Rungs at 1, 3 and 9. At rung 1 the third of three stops: the cutoff is the 2/3 quantile of {.5, .8}, .7."""
    stopping = SuccessiveHalving(HALVING)
    assert not stopping.stops(0, 1, 0.5)
    assert not stopping.stops(1, 1, 0.8)
    assert stopping.stops(2, 1, 0.65)
    assert not stopping.stops(0, 2, 0.1), "no rung"
    assert not stopping.stops(1, 3, 0.9), "the first at its rung"
    assert stopping.stops(0, 3, 0.6), "the cutoff is .9"


def test_the_best_and_the_first_go_on() -> None:
    stopping = SuccessiveHalving(HALVING)
    for trial, accuracy in enumerate((0.3, 0.4, 0.5, 0.6)):
        assert not stopping.stops(trial, 1, accuracy)


def test_a_cheap_network_is_not_stopped_for_being_less_accurate() -> None:
    stopping = SuccessiveHalving(HALVING)
    assert not stopping.stops(0, 1, 0.9, (100.0,))
    assert not stopping.stops(1, 1, 0.5, (10.0,)), "nothing seen is as good in both"
    assert stopping.stops(2, 1, 0.45, (20.0,)), "trial 1 is better in both"
    assert stopping.stops(3, 1, 0.5, (10.0,)), "trial 1 is as good in both"


# ---- no way into the front -----------------------------------------------------------------------------------


def finished(settings: Search = FRONT, bounds: Sequence[Bound] = (), count: int = 4) -> FrontStopping:
    """A rule that has seen trials of cost 10 with the curve .5, .7, .75, .8: after epoch 2 they gained .1."""
    rule = FrontStopping(settings, bounds)
    for trial in range(count):
        assert feed(rule, trial, (0.5, 0.7, 0.75, 0.8), 10.0) == 4
    return rule


def test_the_hopeful_extrapolation_worked_by_hand() -> None:
    rule = finished()
    assert rule.extrapolated([0.4, 0.4]) == pytest.approx(1 - 0.6 * 0.2 / 0.3), "a share of 2/3 of the error is left"
    assert rule.extrapolated([0.8, 0.8]) == pytest.approx(0.9), "the gain of .1 is more than a third of the error"
    assert rule.extrapolated([0.2, 0.5]) == pytest.approx(0.8), "it gained .3 in one doubling, and one is left"


def test_few_finished_trials_allow_no_judgement() -> None:
    assert finished(count=3).extrapolated([0.1, 0.1]) is None
    assert feed(finished(count=3), 9, (0.1,) * 4, 10.0) == 4
    assert feed(finished(count=4), 9, (0.1,) * 4, 10.0) == 2, "never before the grace epochs"


def test_only_a_dominated_trial_stops() -> None:
    weak = (0.1, 0.1, 0.1, 0.1)
    assert feed(finished(), 9, weak, 11.0) == 2
    assert feed(finished(), 9, weak, 9.9) == 4, "it is cheaper than any that finished"
    assert feed(finished(), 9, (0.2, 0.7, 0.72, 0.72), 11.0) == 4, "it may still reach .8"


def test_the_margin_spares_close_ones() -> None:
    """At epoch 3 the finished ones had .05 to gain: .748 may become .7984, within a hundredth of .8."""
    close = (0.748, 0.748, 0.748, 0.748)
    assert feed(finished(), 9, close, 11.0) == 3
    assert feed(finished(FRONT.model_copy(update={"margin": 0.01})), 9, close, 11.0) == 4


def test_a_trial_that_breaks_a_bound_on_accuracy_stops_no_other() -> None:
    assert feed(finished(bounds=[Bound.parse("accuracy >= 0.85")]), 9, (0.1,) * 4, 11.0) == 4
    assert feed(finished(bounds=[Bound.parse("accuracy >= 0.75")]), 9, (0.1,) * 4, 11.0) == 2


def test_accuracy_alone_is_an_objective_too() -> None:
    rule = FrontStopping(FRONT)
    for trial in range(4):
        feed(rule, trial, (0.5, 0.7, 0.75, 0.8))
    assert feed(rule, 9, (0.1,) * 4) == 2


def test_perfect_trials_leave_nothing_to_divide_by() -> None:
    rule = FrontStopping(FRONT)
    for trial in range(4):
        feed(rule, trial, (1.0,) * 4, 10.0)
    assert feed(rule, 9, (0.9,) * 4, 11.0) == 2


# ---- all rules -----------------------------------------------------------------------------------------------

RULES: dict[str, Rule] = {
    "front": lambda: FrontStopping(Search(epochs=6, grace_epochs=2)),
    "asha": lambda: SuccessiveHalving(Search(epochs=6, grace_epochs=2)),
    "none": NeverStopping,
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_same_record_gives_the_same_decisions(rule: Rule) -> None:
    rng = np.random.default_rng(0)
    epochs = [(t, e, float(rng.random()), (float(t % 3),)) for t in range(12) for e in range(1, 7)]
    once, again = rule(), rule()
    assert [once.stops(*row) for row in epochs] == [again.stops(*row) for row in epochs]


@pytest.mark.parametrize("name", RULES)
def test_a_search_replays_its_decisions(name: str, job: Jobs) -> None:
    """A record whose last line, the end of a trial, was lost: the new conductor ends it as it was ended."""

    def curve(code: str) -> list[float]:
        top = 0.9 - 0.1 * (sum(map(int, code)) % 7)
        return [top - 0.1, top - 0.05, top - 0.02, top - 0.01, top, top]

    made = job(trials=16, stopping=name)
    assert type(make_stopping(made.config)) is type(RULES[name]())
    search_recorded(made, recorded(curve))
    path = made.folder / "trials.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    ends: list[tuple[int, Any]] = [(i, line) for i, line in enumerate(lines) if '"event":"end"' in line]
    for place, line in ends:
        path.write_text("".join(lines[:place]))
        Conductor(made)
        assert path.read_text().splitlines(keepends=True)[place] == line
    stopped = sum('"stopped"' in line for _, line in ends)
    assert (stopped > 0) == (name != "none")


def power_laws(rng: np.random.Generator, count: int, epochs: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy curves that end higher for dearer networks, and gain from a falling learning rate; and costs."""
    costs = rng.uniform(1, 10, count)
    final = 0.6 + 0.3 * (1 - np.exp(-costs / 4)) + rng.normal(0, 0.04, count)
    t = np.arange(1, epochs + 1)
    rate, below = rng.uniform(0.4, 1.5, (count, 1)), rng.uniform(0.3, 0.8, (count, 1))
    late = rng.uniform(0, 0.05, (count, 1)) * (t / epochs) ** 3
    noise = rng.normal(0, 0.01, (count, epochs)) * np.cos(t / epochs * np.pi / 2)
    return np.clip(final[:, None] - below * t**-rate + late + noise, 0, 1), costs


def test_front_members_are_seldom_stopped_and_epochs_are_saved() -> None:
    """Of 10 searches of 40 trials: at least a fifth of the epochs saved, at most 2 % of the front members stopped."""
    settings = Search(epochs=20, grace_epochs=4)
    used = wrong = members = 0
    for seed in range(10):
        curves, costs = power_laws(np.random.default_rng(seed), 40, settings.epochs)
        rule = FrontStopping(settings)
        epochs = np.array([feed(rule, t, curves[t].tolist(), float(costs[t])) for t in range(40)])
        used += int(epochs.sum())
        final = curves[:, -1]
        for t in range(40):
            others = (final >= final[t]) & (costs <= costs[t])
            if others.sum() == 1:  # only itself
                members += 1
                wrong += int(epochs[t] < settings.epochs)
    assert used <= 0.8 * 10 * 40 * settings.epochs
    assert members > 40
    assert wrong <= 0.02 * members
