"""Early stopping by asynchronous successive halving (ASHA, Li et al. 2020, MLSys), as Ray Tune's scheduler does it.

At the epochs g, g r, g r^2, ... (the rungs) a trial goes on only if its accuracy is among the best 1/r of what was
reported there so far, or if no trial seen there is as good in every objective: else a search for cheap networks
would stop them all for being less accurate than dear ones.
"""

from __future__ import annotations

from types import SimpleNamespace

from ..config import Search
from .cluster import quiet_ray

Figures = tuple[float, ...]


class EarlyStopping:
    """The rungs of a search. Fed from the record in its order, it decides as it did.

    Args:
        settings: `grace_epochs` is g, `reduction` is r.
    """

    def __init__(self, settings: Search) -> None:
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
        """Note an epoch of a trial; whether the trial is to stop after it.

        Args:
            trial: its number.
            costs: the objectives beside accuracy, all to be minimised.
        """
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
