"""The hypervolume of what a search has trained: one figure for a whole Pareto front, and how it grew.

Every objective is scaled to 0 (ideal: no error, no cost) to 1 (the reference point: accuracy 0, and of each cost its
bound, else the largest there is), so that the hypervolume is the share of the box between the two that some trained
network dominates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Bound, Config
from .history import TRAINED, History, Trial


@dataclass(frozen=True)
class Hypervolume:
    """How the hypervolume of a search grew.

    Attributes:
        reference: the cost at which a network counts no longer, for each objective that is a cost.
        series: the number of each trial that was trained, and the share of the box that is dominated after it.
    """

    reference: dict[str, float]
    series: list[tuple[int, float]]

    @property
    def last(self) -> float:
        """The share after all trials, 0 where there is none."""
        return self.series[-1][1] if self.series else 0.0


def read_hypervolume(directory: Path, config: Config, device: Mapping[str, Any] | None = None) -> Hypervolume:
    """The hypervolume of the run in `directory`; no series where it has not searched yet.

    Args:
        device: what the device stage left of itself, whose profile knows the largest cost in the space. It stays what
            it is when a run goes on or is asked for more trials; without it the largest cost among the trials counts.
    """
    extents = ((device or {}).get("profile") or {}).get("extents") or []
    largest = {e["cost"]: float(e["largest"]) for e in extents}
    trials = list(History(directory / "search").trials.values())
    return measure(trials, list(config.objectives), config.bounds, largest)


def measure(
    trials: Sequence[Trial], objectives: Sequence[str], bounds: Sequence[Bound], largest: Mapping[str, float]
) -> Hypervolume:
    """The hypervolume after each trained trial that meets the bounds, by number.

    Costs are those that the search went by: latency as it was predicted. A trial that was stopped counts with the
    accuracy it had reached.

    Args:
        objectives: `accuracy` and costs.
        largest: costs, where no bound gives the reference; of those left out the largest of the trials.
    """
    costs = [name for name in objectives if name != "accuracy"]
    reference = {name: _reference(name, trials, bounds, largest) for name in costs}
    trained = [t for t in sorted(trials, key=lambda t: t.number) if t.state in TRAINED and t.accuracy is not None]
    losses = np.array([[_scaled(t, name, reference) for name in objectives] for t in trained])
    met = [all(b.holds(_figure(t, b.metric)) for b in bounds) for t in trained]
    shares = _shares(losses.reshape(len(trained), len(objectives)), met)
    return Hypervolume(reference, [(t.number, share) for t, share in zip(trained, shares, strict=True)])


def _reference(name: str, trials: Iterable[Trial], bounds: Iterable[Bound], largest: Mapping[str, float]) -> float:
    limits = [b.value for b in bounds if b.metric == name and b.operator.startswith("<")]
    return min(limits) if limits else largest.get(name) or max((t.costs[name] for t in trials), default=0.0)


def _figure(trial: Trial, metric: str) -> float:
    return float(trial.accuracy or 0.0) if metric == "accuracy" else trial.costs[metric]


def _scaled(trial: Trial, name: str, reference: Mapping[str, float]) -> float:
    """An objective from 0, ideal, to 1, the reference."""
    value = _figure(trial, name)
    if name == "accuracy":
        return 1.0 - value
    return value / reference[name] if reference[name] > 0 else 0.0


def _shares(losses: np.ndarray, met: Sequence[bool]) -> list[float]:
    """Hypervolume to the point of ones after each row, of the rows that count. Shapes: losses `(n, k)`."""
    from moocore import hypervolume

    front = losses[:0]
    shares: list[float] = []
    for row, counts in zip(losses, met, strict=True):
        if counts and (row < 1).all() and not (front <= row).all(axis=1).any():
            front = np.vstack([front[~(row <= front).all(axis=1)], row])
            one_objective = front.shape[1] == 1
            volume = 1.0 - front.min() if one_objective else hypervolume(front, ref=np.ones(front.shape[1]))
            shares.append(float(volume))
        else:
            shares.append(shares[-1] if shares else 0.0)
    return shares
