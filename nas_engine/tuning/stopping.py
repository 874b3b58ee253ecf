"""Early stopping: `front` stops trials that can no longer enter the Pareto front, `asha` those that lag behind.

`front` asks of each trial whether even a hopeful extrapolation of its learning curve is beaten, in accuracy and in
every cost, by a trial that has finished. Both rules know only what they were fed, so that a record fed again in its
order gives the decisions it gave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Protocol

from ..config import Bound, Config, Search

Figures = tuple[float, ...]


class EarlyStopping(Protocol):
    """A rule, fed with every epoch of every trial in the order of the record."""

    def stops(self, trial: int, epoch: int, accuracy: float, costs: Figures = ()) -> bool:
        """Note an epoch of a trial; whether the trial is to stop after it.

        Args:
            trial: its number.
            epoch: from 1; those of one trial come in order.
            costs: the objectives beside accuracy, all to be minimised.
        """


def make_stopping(config: Config) -> EarlyStopping:
    """The rule that `search.stopping` names."""
    bounds = [bound for bound in config.bounds if bound.metric == "accuracy"]
    makers: dict[str, Callable[[], EarlyStopping]] = {
        "front": lambda: FrontStopping(config.search, bounds),
        "asha": lambda: SuccessiveHalving(config.search),
        "none": NeverStopping,
    }
    return makers[config.search.stopping]()


class NeverStopping:
    """Every trial is trained to the end."""

    def stops(self, trial: int, epoch: int, accuracy: float, costs: Figures = ()) -> bool:
        return False


# ---- no way into the front -----------------------------------------------------------------------------------

MISSES = 0.2  # how often one bound on the gain of a trial may be too low


@dataclass(frozen=True)
class _Finished:
    """A trial that reached the last epoch; `best[e - 1]` is its best accuracy up to epoch e."""

    best: list[float]
    accuracy: float
    costs: Figures


class FrontStopping:
    """Stops a trial that a finished one dominates with a margin, judged by the trial's own hopeful extrapolation.

    Let m be the best accuracy of the trial up to epoch e, E the last epoch. Its accuracy at E is held to be at most
    the largest of

    - `m + g`, where g is what finished trials gained after epoch e;
    - `1 - (1 - m) r`, where r is the share of the error at e that was left to them at E;
    - `m + (m - m') ln(E / e) / ln(e / h)`, where m' is the best up to epoch h = e // 2: what it gained lately goes on.
      Every power law `a - b e^-c` is concave in ln e, and stays below this line.

    The first two see what a learning rate that falls to zero does for the last epochs, which no curve shows by itself.
    Of n finished trials the k-th largest g (k-th smallest r) counts, with `n + 1 - k = ceil((1 - MISSES)(n + 1))`: one
    more trial like them gains more with a probability of at most `MISSES` (split conformal prediction, Vovk et al.
    2005). Fewer than `1 / MISSES - 1` = 4 finished trials allow no such bound, and nothing is stopped. A trial stops
    where a finished one that meets the bounds has no larger cost, and at least `1 + margin` times the accuracy of all
    three.

    Args:
        settings: `epochs` is E; nothing is stopped before `grace_epochs`; `margin`.
        bounds: on accuracy; finished trials that break one stop no other.
    """

    def __init__(self, settings: Search, bounds: Sequence[Bound] = ()) -> None:
        self._settings = settings
        self._bounds = tuple(bounds)
        self._best: dict[int, list[float]] = {}
        self._finished: list[_Finished] = []

    def stops(self, trial: int, epoch: int, accuracy: float, costs: Figures = ()) -> bool:
        best = self._best.setdefault(trial, [])
        best.append(max(accuracy, best[-1]) if best else accuracy)
        if epoch >= self._settings.epochs:
            self._finished.append(_Finished(best, accuracy, costs))
            return False
        if epoch < self._settings.grace_epochs:
            return False
        hopeful = self.extrapolated(best)
        return hopeful is not None and any(self._beats(other, hopeful, costs) for other in self._finished)

    def extrapolated(self, best: Sequence[float]) -> float | None:
        """The highest accuracy at the last epoch that is to be reckoned with; None where too few trials finished.

        Args:
            best: the best accuracies up to epoch 1, 2, ..., e.
        """
        count, epoch, reached = len(self._finished), len(best), best[-1]
        rank = math.ceil((1 - MISSES) * (count + 1))
        if rank > count:
            return None
        gain = sorted(f.accuracy - f.best[epoch - 1] for f in self._finished)[rank - 1]
        left = sorted((_share_left(f, epoch) for f in self._finished), reverse=True)[rank - 1]
        before = max(1, epoch // 2)
        slope = (reached - best[before - 1]) / math.log(epoch / before) if epoch > before else math.inf
        own = reached + slope * math.log(self._settings.epochs / epoch)
        return min(1.0, max(reached + gain, 1 - (1 - reached) * left, own))

    def _beats(self, other: _Finished, accuracy: float, costs: Figures) -> bool:
        return (
            other.accuracy >= accuracy * (1 + self._settings.margin)
            and all(a <= b for a, b in zip(other.costs, costs, strict=True))
            and all(bound.holds(other.accuracy) for bound in self._bounds)
        )


def _share_left(finished: _Finished, epoch: int) -> float:
    """The error of a finished trial over its least error up to an epoch; 1 where that was 0."""
    before = 1 - finished.best[epoch - 1]
    return (1 - finished.accuracy) / before if before > 0 else 1.0


# ---- successive halving --------------------------------------------------------------------------------------


class SuccessiveHalving:
    """Asynchronous successive halving (ASHA, Li et al. 2020, MLSys), as Ray Tune's scheduler does it.

    At the epochs g, g r, g r^2, ... (the rungs) a trial goes on only if its accuracy is among the best 1/r of what was
    reported there so far, or if no trial seen there is as good in every objective: else a search for cheap networks
    would stop them all for being less accurate than dear ones.

    Args:
        settings: `grace_epochs` is g, `reduction` is r.
    """

    def __init__(self, settings: Search) -> None:
        from .cluster import quiet_ray

        quiet_ray()
        from ray.tune.schedulers import ASHAScheduler

        self._scheduler = ASHAScheduler(
            time_attr="epoch",
            metric="accuracy",
            mode="max",
            max_t=settings.epochs,
            grace_period=settings.grace_epochs,
            reduction_factor=settings.reduction,
        )
        self._known: set[int] = set()
        self._seen: dict[int, list[Figures]] = {}

    def stops(self, trial: int, epoch: int, accuracy: float, costs: Figures = ()) -> bool:
        key = SimpleNamespace(trial_id=trial)
        if trial not in self._known:
            self._known.add(trial)
            self._scheduler.on_trial_add(None, key)
        action = self._scheduler.on_trial_result(None, key, {"epoch": epoch, "accuracy": accuracy})
        figures = (-accuracy, *costs)
        others = self._seen.setdefault(epoch, [])
        beaten = any(_at_least_as_good(other, figures) for other in others)
        others.append(figures)
        return beaten and bool(action == self._scheduler.STOP)


def _at_least_as_good(one: Figures, other: Figures) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))
