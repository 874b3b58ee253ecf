"""Early stopping: the rule worked by hand, and several objectives."""

from __future__ import annotations

from nas_engine.config import Search
from nas_engine.tuning.stopping import EarlyStopping

SETTINGS = Search(epochs=9, grace_epochs=1, reduction=3)


def test_rungs_worked_by_hand() -> None:
    """Rungs at 1, 3 and 9. At rung 1 the third of three stops: the cutoff is the 2/3 quantile of {.5, .8}, .7."""
    stopping = EarlyStopping(SETTINGS)
    assert not stopping.stops(0, 1, 0.5)
    assert not stopping.stops(1, 1, 0.8)
    assert stopping.stops(2, 1, 0.65)
    assert not stopping.stops(0, 2, 0.1), "no rung"
    assert not stopping.stops(1, 3, 0.9), "the first at its rung"
    assert stopping.stops(0, 3, 0.6), "the cutoff is .9"


def test_the_best_and_the_first_go_on() -> None:
    stopping = EarlyStopping(SETTINGS)
    for trial, accuracy in enumerate((0.3, 0.4, 0.5, 0.6)):
        assert not stopping.stops(trial, 1, accuracy)


def test_a_cheap_network_is_not_stopped_for_being_less_accurate() -> None:
    stopping = EarlyStopping(SETTINGS)
    assert not stopping.stops(0, 1, 0.9, (100.0,))
    assert not stopping.stops(1, 1, 0.5, (10.0,)), "nothing seen is as good in both"
    assert stopping.stops(2, 1, 0.45, (20.0,)), "trial 1 is better in both"
    assert stopping.stops(3, 1, 0.5, (10.0,)), "trial 1 is as good in both"


def test_the_same_record_gives_the_same_decisions() -> None:
    epochs = [(t, e, 0.1 * t + 0.01 * e * (7 - t), (float(t % 3),)) for e in (1, 2, 3) for t in range(6)]
    once, again = EarlyStopping(SETTINGS), EarlyStopping(SETTINGS)
    assert [once.stops(*row) for row in epochs] == [again.stops(*row) for row in epochs]
