"""What a space costs, before anything is trained: extremes, medians, and the share that meets the bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from predictors.cost import CostModel
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UnsatisfiableError

from .config import Bound
from .show import figure

SAMPLE = 2000


@dataclass(frozen=True, slots=True)
class Extent:
    """A cost over the space; `smallest` and `largest` are found from sampled members by descent over single changes."""

    cost: str
    unit: str
    smallest: float
    median: float
    largest: float


@dataclass(frozen=True, slots=True)
class BoundVerdict:
    """Whether a bound can be met: `share` of sampled members that do; `words` say it in a sentence."""

    bound: str
    share: float
    satisfiable: bool
    trivial: bool
    words: str


@dataclass(frozen=True)
class SpaceProfile:
    """Size, distinct sampled members, extents of all costs, verdicts of all bounds, share that meets all bounds."""

    size: int
    sampled: int
    extents: tuple[Extent, ...]
    bounds: tuple[BoundVerdict, ...]
    share: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SpaceProfile:
        """Inverse of `to_dict`."""
        extents = tuple(Extent(**e) for e in data["extents"])
        return cls(**{**data, "extents": extents, "bounds": tuple(BoundVerdict(**b) for b in data["bounds"])})

    def require(self) -> None:
        """Raise `UnsatisfiableError` where some bound cannot be met, or no sampled member meets all of them."""
        for verdict in self.bounds:
            if not verdict.satisfiable:
                raise UnsatisfiableError(verdict.words)
        if self.share == 0:
            bounds = " and ".join(v.bound for v in self.bounds)
            raise UnsatisfiableError(
                f"none of {self.sampled} sampled members meets {bounds} together; loosen one of them, "
                "or make the space smaller (see: nas-engine profile)"
            )


def profile_space(
    space: SearchSpace,
    models: Mapping[str, CostModel],
    bounds: Iterable[Bound],
    rng: np.random.Generator,
    sample: int = SAMPLE,
) -> SpaceProfile:
    """Cost a sample of the space (all of it where it is small) and search its extremes."""
    members = draw(space, sample, rng)
    costs = costs_of(models, space, members)
    bounds = [b for b in bounds if b.metric in models]
    extents = {
        name: Extent(
            name,
            model.unit,
            _extreme(space, model, members[int(costs[name].argmin())], 1.0),
            float(np.median(costs[name])),
            _extreme(space, model, members[int(costs[name].argmax())], -1.0),
        )
        for name, model in models.items()
    }
    met = np.ones(len(members), dtype=bool)
    verdicts = []
    for bound in bounds:
        meets = np.array([bound.holds(v) for v in costs[bound.metric]])
        met &= meets
        verdicts.append(_verdict(bound, extents[bound.metric], float(meets.mean())))
    return SpaceProfile(space.size, len(members), tuple(extents.values()), tuple(verdicts), float(met.mean()))


def draw(space: SearchSpace, count: int, rng: np.random.Generator) -> list[Architecture]:
    """Up to `count` distinct canonical members: all where the space is no larger, else random ones."""
    if space.size <= count:
        return list(dict.fromkeys(space.canonical(a) for a in space.enumerate()))
    found: dict[Architecture, None] = {}
    for _ in range(20 * count):
        found[space.canonical(space.sample(rng))] = None
        if len(found) == count:
            break
    return list(found)


def costs_of(
    models: Mapping[str, CostModel], space: SearchSpace, members: Sequence[Architecture]
) -> dict[str, np.ndarray]:
    """Each cost of each member."""
    graphs = [space.graph(a) for a in members]
    return {name: np.asarray(model.costs(graphs), dtype=float) for name, model in models.items()}


def _extreme(space: SearchSpace, model: CostModel, start: Architecture, sign: float) -> float:
    """Smallest (`sign` 1) or largest (-1) cost reached from `start` by improving single changes."""

    def value(a: Architecture) -> float:
        return sign * model.cost(space.graph(a))

    return sign * _descend(space, start, value)


def _descend(space: SearchSpace, best: Architecture, value: Callable[[Architecture], float]) -> float:
    lowest = value(best)
    while True:
        nearby = [(value(a), a) for a in space.neighbours(best)]
        if not nearby or min(v for v, _ in nearby) >= lowest:
            return lowest
        lowest, best = min(nearby, key=lambda pair: pair[0])


def _verdict(bound: Bound, extent: Extent, share: float) -> BoundVerdict:
    satisfiable = share > 0 or bound.holds(extent.smallest) or bound.holds(extent.largest)
    trivial = bound.holds(extent.smallest) and bound.holds(extent.largest)
    span = f"{extent.cost} goes from {figure(extent.cost, extent.smallest)} to {figure(extent.cost, extent.largest)}"
    if not satisfiable:
        words = f"no member meets {bound}: {span} over the space; choose a bound inside that range"
    elif trivial:
        words = f"{bound} holds for every member ({span}); it does not bind"
    else:
        words = f"{bound} is met by {share:.1%} of the sampled members ({span})"
    return BoundVerdict(str(bound), share, satisfiable, trivial, words)
