"""What a space costs, before anything is trained: extremes, medians, the share that meets the bounds, and why members
are slower than their arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from predictors.cost import CostModel, Finding, Roofline, check_guidelines, explain
from search_spaces import Architecture, Graph, SearchSpace
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
class Inefficiency:
    """Why a network is slower than its arithmetic.

    Attributes:
        which: the member of the space: `typical` (of median cost) or `largest` of those sampled.
        code: of the architecture.
        costs: by name.
        words: sentences, the worst first.
        findings: of all four guidelines of ShuffleNet V2.
    """

    which: str
    code: str
    costs: dict[str, float]
    words: tuple[str, ...]
    findings: tuple[Finding, ...]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Inefficiency:
        """Inverse of `asdict`."""
        findings = tuple(Finding.from_dict(f) for f in data["findings"])
        return cls(**{**data, "words": tuple(data["words"]), "findings": findings})


@dataclass(frozen=True)
class SpaceProfile:
    """Size, distinct sampled members, extents of all costs, verdicts of all bounds, share that meets all bounds, and
    what makes a typical and the largest member slower than need be."""

    size: int
    sampled: int
    extents: tuple[Extent, ...]
    bounds: tuple[BoundVerdict, ...]
    share: float
    inefficiencies: tuple[Inefficiency, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SpaceProfile:
        """Inverse of `to_dict`."""
        extents = tuple(Extent(**e) for e in data["extents"])
        bounds = tuple(BoundVerdict(**b) for b in data["bounds"])
        found = tuple(Inefficiency.from_dict(i) for i in data.get("inefficiencies", ()))
        return cls(**{**data, "extents": extents, "bounds": bounds, "inefficiencies": found})

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
    roofline: Roofline | None = None,
) -> SpaceProfile:
    """Cost a sample of the space (all of it where it is small) and search its extremes.

    With a roofline of the device, findings come with shares of the predicted time.
    """
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
    found = _inefficiencies(space, members, costs, roofline)
    return SpaceProfile(space.size, len(members), tuple(extents.values()), tuple(verdicts), float(met.mean()), found)


def _inefficiencies(
    space: SearchSpace, members: Sequence[Architecture], costs: Mapping[str, np.ndarray], roofline: Roofline | None
) -> tuple[Inefficiency, ...]:
    """Of the members with the median and the largest latency, or last cost where latency is not among them."""
    if not costs:
        return ()
    order = np.argsort(costs.get("latency_ms", list(costs.values())[-1]), kind="stable")
    found = []
    for which, i in (("typical", int(order[len(order) // 2])), ("largest", int(order[-1]))):
        findings, words = why_slow(space.graph(members[i]), roofline)
        figures = {name: float(values[i]) for name, values in costs.items()}
        found.append(Inefficiency(which, members[i].code, figures, tuple(words), tuple(findings)))
    return tuple(found)


def why_slow(graph: Graph, roofline: Roofline | None) -> tuple[list[Finding], list[str]]:
    """What ShuffleNet V2's guidelines say of a network, and the sentences for people, the worst first."""
    if roofline is None or not roofline.trusted:
        findings = check_guidelines(graph)
        return findings, explain(findings)
    findings = check_guidelines(graph, roofline.times(graph))
    return findings, [*explain(findings), roofline.explain(graph)]


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
