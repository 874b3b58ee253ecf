"""Pruning probabilities that rise and fall (SPP: Wang et al. 2018, arXiv 1709.06994).

Every unit of a layer has a probability of being masked in a training step. Those that rank lowest at an update rise,
those that rank above the target fall, and one that reaches 1 is gone for good; until then a misjudged unit comes back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from search_spaces.errors import ConfigError

GONE = 1 - 1e-6  # sums of increments need not come to exactly 1


def exponential(ranks: np.ndarray, target: int, rate: float, symmetry: float) -> np.ndarray:
    """Increments by rank, 0 the least important (equations 2 and 3 of the paper).

        Delta(r) = A exp(-alpha r)                        for r <= N
        Delta(r) = 2 u A - A exp(-alpha (2 N - r))        for r > N
        N = -ln(u) / alpha, alpha = (ln 2 - ln u) / target

    so that Delta(0) = A, Delta(N) = u A is the centre of symmetry, and Delta(target) = 0.

    Args:
        target: how many units are still to go, 1 or more.
        rate: A. symmetry: u.
    """
    alpha = (math.log(2) - math.log(symmetry)) / target
    centre = -math.log(symmetry) / alpha
    rising = rate * np.exp(-alpha * ranks)
    # beyond an exponent of 50 every probability is at 0 anyway
    falling = 2 * symmetry * rate - rate * np.exp(np.minimum(-alpha * (2 * centre - ranks), 50.0))
    increments = np.where(ranks <= centre, rising, falling)
    return np.where(ranks == target, 0.0, increments)  # exactly, which the exponentials miss by rounding


def linear(ranks: np.ndarray, target: int, rate: float, symmetry: float) -> np.ndarray:
    """Increments `A - (A / target) r`, a variant of the authors' code; `symmetry` plays no part."""
    return rate - rate / target * ranks


INCREMENTS = {"exponential": exponential, "linear": linear}


@dataclass(frozen=True)
class Rules:
    """How probabilities move.

    Attributes:
        rate: A, the largest increment; a unit that always ranks lowest is gone after 1 / A updates.
        symmetry: u, below 1: the increment at the centre of symmetry is u A.
        increment: "exponential" (the paper) or "linear".
    """

    rate: float = 0.05
    symmetry: float = 0.25
    increment: str = "exponential"

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ConfigError(f"rate is the largest increment of a probability, above 0 and at most 1; got {self.rate}")
        if not 0 < self.symmetry < 1:
            raise ConfigError(f"symmetry must be between 0 and 1; got {self.symmetry}")
        if self.increment not in INCREMENTS:
            raise ConfigError(f"increment is {' or '.join(INCREMENTS)}; got {self.increment!r}")


@dataclass
class Probabilities:
    """The probabilities of one layer's units.

    Attributes:
        target: how many units go in the end.
        p: (units,) probability of being masked; 1 for those that are gone.
        peak: (units,) the highest that each ever was.
        falls: how often a probability went down while the layer was not finished.
    """

    p: np.ndarray
    target: int
    rules: Rules = field(default_factory=Rules)
    peak: np.ndarray = field(init=False)
    falls: int = 0

    def __post_init__(self) -> None:
        self.peak = self.p.copy()
        self._settle()

    @property
    def gone(self) -> np.ndarray:
        """(units,) bool."""
        return self.p >= GONE

    @property
    def finished(self) -> bool:
        return int(self.gone.sum()) >= self.target

    @property
    def rescued(self) -> int:
        """How many units are left that were once masked more often than not."""
        return int(((self.peak >= 0.5) & ~self.gone).sum())

    def update(self, importance: np.ndarray) -> None:
        """Move the probabilities by the ranks of `importance` (units,) among those not gone; ties go in order."""
        if self.finished:
            return
        left = np.flatnonzero(~self.gone)
        ranks = np.empty(len(left))
        ranks[np.argsort(importance[left], kind="stable")] = np.arange(len(left))
        remaining = self.target - int(self.gone.sum())
        rules = self.rules
        moved = self.p[left] + INCREMENTS[rules.increment](ranks, remaining, rules.rate, rules.symmetry)
        moved = np.clip(moved, 0.0, 1.0)
        self.falls += int((moved < self.p[left]).sum())
        self.p[left] = np.where(moved >= GONE, 1.0, moved)
        self.peak = np.maximum(self.peak, self.p)
        self._settle()

    def complete(self, importance: np.ndarray) -> int:
        """Let those that are most likely to go now go at once, the less important of equals first; how many went."""
        missing = self.target - int(self.gone.sum())
        if missing <= 0:
            return 0
        order = np.lexsort((importance, -self.p))
        self.p[order[: self.target]] = 1.0
        self.peak = np.maximum(self.peak, self.p)
        self._settle()
        return missing

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """(units,) bool: what is left in one training step."""
        return rng.random(len(self.p)) >= self.p

    def _settle(self) -> None:
        """Once enough are gone the others are safe."""
        if self.finished:
            self.p = np.where(self.gone, 1.0, 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"p": self.p.tolist(), "peak": self.peak.tolist(), "falls": self.falls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.p, self.peak, self.falls = np.array(state["p"]), np.array(state["peak"]), state["falls"]


def target_count(ratio: float, units: int) -> int:
    """How many of a layer's units go at a ratio: `ceil(ratio * units)`, none where that product is below 1."""
    product = ratio * units
    return 0 if product < 1 - 1e-9 else math.ceil(product - 1e-9)
