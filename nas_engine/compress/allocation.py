"""From scores to what is cut: an allocator puts all single removals in one order, and a cut is the first of them.

A removal takes a few units of one group, so that widths step from one multiple of the device's vector width to the
next, or a whole residual block. Costs fall along the order, so that a target is found by bisection; see `targets`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from search_spaces.coupling import Coupling, Group, cut
from search_spaces.errors import ConfigError, SpaceError, did_you_mean
from search_spaces.graph import Graph
from search_spaces.registry import Registry

from .criteria.base import Criterion, Scores

STEPS = 4
"""Multiples that a group must hold to be rounded to them; smaller ones are rounded to a divisor of the multiple."""

_WIDTHS = {"avx512f": 16, "avx2": 8, "avx": 8, "asimd": 4, "neon": 4}  # float32 numbers in a vector register


@dataclass(frozen=True, eq=False)
class Cut:
    """What is left: units, and blocks that go whole.

    Attributes:
        keep: `(units,)` bool.
        without: names of the blocks that are left out.
    """

    keep: np.ndarray
    without: tuple[str, ...] = ()

    def graph(self, coupling: Coupling) -> Graph:
        """The graph of the network that is left; nothing is built."""
        return cut(coupling, self.keep, self.without)

    def to_dict(self, coupling: Coupling) -> dict[str, Any]:
        """Plain values: the kept units of each group by their place in it, and the blocks left out."""
        groups = {g.name: np.flatnonzero(self.keep[g.units]).tolist() for g in coupling.groups}
        return {"units": groups, "without": list(self.without)}

    @classmethod
    def from_dict(cls, coupling: Coupling, data: Mapping[str, Any]) -> Cut:
        """Inverse of `to_dict`, for a coupling of the same network.

        Raises:
            SpaceError: groups or units of another network.
        """
        known = {g.name: g for g in coupling.groups}
        keep = np.zeros(coupling.count, dtype=bool)
        if set(data["units"]) != set(known):
            other = sorted(set(data["units"]) ^ set(known))
            raise SpaceError(f"the cut is of another network: groups {', '.join(other[:4])} are not in both")
        for name, places in data["units"].items():
            if not places or max(places) >= len(known[name]):
                raise SpaceError(f"the cut keeps units {places} of group {name!r}, which has {len(known[name])}")
            keep[known[name].units[places]] = True
        return cls(keep, tuple(data["without"]))


@dataclass(frozen=True)
class Limits:
    """What no allocator goes beyond.

    Attributes:
        min_keep: units left in each group, at least.
        max_ratio: share of a group that goes, at most.
        multiple: of channels that widths are rounded to, where a group is wide enough (see `granule`); 1 for none.

    Raises:
        ConfigError: a limit out of its range.
    """

    min_keep: int = 1
    max_ratio: float = 0.9
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.min_keep < 1 or self.multiple < 1:
            raise ConfigError(f"min_keep and multiple are 1 or more; got {self.min_keep} and {self.multiple}")
        if not 0 <= self.max_ratio < 1:
            raise ConfigError(f"max_ratio is the share of a group that may go, from 0 to below 1; got {self.max_ratio}")

    def widths(self, size: int, channels: int = 1) -> list[int]:
        """The numbers of units that a group of `size` may keep, falling from all of them.

        >>> Limits(multiple=8).widths(64), Limits(multiple=8).widths(16), Limits(max_ratio=0.5).widths(4)
        ([64, 56, 48, 40, 32, 24, 16, 8], [16, 12, 8, 4], [4, 3, 2])
        """
        step = granule(size, self.multiple, channels)
        floor = min(size, max(self.min_keep, math.ceil(size * (1 - self.max_ratio) - 1e-9)))
        below = range((size - 1) // step * step, 0, -step)
        return [size, *(width for width in below if width >= floor)]


def granule(size: int, multiple: int, channels: int = 1) -> int:
    """Units that go at a time: the largest divisor of `multiple` of which a group holds `STEPS`, in whole units.

    Args:
        size: units of the group.
        channels: of each unit; those of an attention head fill vectors by themselves.

    >>> [granule(size, 8) for size in (64, 32, 20, 10, 3)], granule(12, 8, channels=64)
    ([8, 8, 4, 2, 1], 1)
    """
    needed = multiple // math.gcd(multiple, channels)
    return max(d for d in range(1, needed + 1) if needed % d == 0 and (d == 1 or d * STEPS <= size))


def vector_multiple(processor: str, device: str = "cpu") -> int:
    """Channels that fill a vector of a device: by the instructions at the end of `DeviceProfile.processor`; 8 on GPUs.

    >>> vector_multiple("Xeon avx512f"), vector_multiple("Cortex-A72 asimd"), vector_multiple("?")
    (16, 4, 8)
    """
    return 8 if device != "cpu" else _WIDTHS.get(processor.rpartition(" ")[2], 8)


# ---- scores ------------------------------------------------------------------------------------------------


def unit_scores(coupling: Coupling, scores: Scores, comparable: bool = True) -> np.ndarray:
    """(units,) scores on one scale for all groups, higher for what should stay.

    Those of a criterion whose scales differ from group to group are divided by the mean of their group or, where some
    are negative or all zero, replaced by their rank in it.

    Raises:
        ConfigError: the criterion does not score units, or not by numbers.
    """
    if scores.units is None:
        raise ConfigError("the criterion gives channels no scores, so none can be chosen; take one that does (taylor)")
    values = np.asarray(scores.units, dtype=np.float64)
    if values.shape != (coupling.count,) or np.isnan(values).any():
        raise ConfigError(f"scores must be numbers for {coupling.count} units; got {values.shape}, or not-a-number")
    if comparable:
        return values
    scaled = np.empty_like(values)
    for group in coupling.groups:
        units = group.units[values[group.units] > -np.inf]  # others have gone before and count no more
        own = values[units]
        mean = own.mean() if len(own) else 0.0
        scaled[group.units] = -np.inf
        scaled[units] = own / mean if 0 < mean < np.inf and own.min() >= 0 else _ranks(own)
    return scaled


def _ranks(values: np.ndarray) -> np.ndarray:
    """Mean ranks in (0, 2), whose mean is 1 as that of scores divided by their mean."""
    from scipy.stats import rankdata

    return (rankdata(values) - 0.5) * 2 / len(values)


def channels_per_unit(coupling: Coupling, group: Group) -> int:
    """Channels of its first maker that one unit of a group stands for."""
    axes = coupling.values.get(group.makers[0], ())
    counts = [int((along == group.units[0]).sum()) for along in axes if along is not None]
    return max(counts, default=1) or 1


# ---- allocators --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Removal:
    """One step of an allocator: a group goes down to `width` units, or a block goes. `priority`: lowest goes first."""

    priority: tuple[float, ...]
    group: int = -1
    width: int = 0
    block: str = ""


class Allocator(ABC):
    """An order of removals.

    Args:
        coupling: what can be cut.
        scores: of a criterion.
        limits: what is left in any case.
        comparable: whether scores of different groups are on one scale, see `Criterion.comparable`.

    Class attributes:
        name: registered name.
    """

    name: ClassVar[str] = ""

    def __init__(
        self, coupling: Coupling, scores: Scores, limits: Limits | None = None, comparable: bool = True
    ) -> None:
        self.coupling, self.scores, self.comparable = coupling, scores, comparable
        self.limits = limits or Limits()
        self.removals = sorted(self._removals(), key=lambda r: r.priority)

    @abstractmethod
    def _removals(self) -> list[Removal]:
        """All removals; those of one group must bear rising priorities, the widest first."""

    def __len__(self) -> int:
        return len(self.removals)

    def cut(self, steps: int) -> Cut:
        """What is left after the first so many removals."""
        widths = [len(group) for group in self.coupling.groups]
        blocks = []
        for removal in self.removals[:steps]:
            if removal.block:
                blocks.append(removal.block)
            else:
                widths[removal.group] = removal.width
        return Cut(best(self.coupling, self._order, widths), tuple(blocks))

    @property
    def _order(self) -> np.ndarray:
        """(units,) by which the units of a group are chosen."""
        return np.zeros(self.coupling.count) if self.scores.units is None else self.scores.units

    def _steps(self) -> list[tuple[int, int, int, float]]:
        """Each removal of units: group, width before and after, mean of the scores that go."""
        values = unit_scores(self.coupling, self.scores, self.comparable)
        found = []
        for i, group in enumerate(self.coupling.groups):
            falling = -np.sort(-values[group.units])
            widths = self.limits.widths(len(group), channels_per_unit(self.coupling, group))
            found += [(i, before, after, float(falling[after:before].mean())) for before, after in pairwise(widths)]
        return found


def best(coupling: Coupling, scores: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """(units,) mask that keeps the best so many units of each group; of equals the first ones, and never too few."""
    keep = np.zeros(coupling.count, dtype=bool)
    for group, width in zip(coupling.groups, widths, strict=True):
        falling = np.argsort(-scores[group.units], kind="stable")
        keep[group.units[falling[:width]]] = True
    return keep


allocators: Registry[type[Allocator]] = Registry("allocation", ConfigError)
register_allocator = allocators.named
"""Class decorator: files an `Allocator` under `name`."""


@register_allocator("global")
class Global(Allocator):
    """The lowest scores of the whole network go first: one threshold for all groups.

    Where several units go at a time, the mean of their scores counts.
    """

    def _removals(self) -> list[Removal]:
        return [Removal((score, i, -after), i, after) for i, _, after, score in self._steps()]


@register_allocator("per_cost")
class PerCost(Allocator):
    """The lowest scores for the MACs that they save go first: one threshold on the ratio of the two.

    For scores that are losses to be expected and add up, as those of Taylor and of ablation: a target in MACs is then
    bought at the lowest sum of them (the greedy order of a knapsack).
    """

    def _removals(self) -> list[Removal]:
        saved = [self._macs_of(group) for group in self.coupling.groups]
        return [Removal((score / saved[i], i, -after), i, after) for i, _, after, score in self._steps()]

    def _macs_of(self, group: Group) -> int:
        """MACs that go with one unit of a group of the whole network; at least 1."""
        if len(group) < 2:
            return 1
        keep = self.coupling.all()
        keep[group.units[0]] = False
        return max(1, self.coupling.graph.cost.macs - cut(self.coupling, keep).cost.macs)


@register_allocator("uniform")
class Uniform(Allocator):
    """The same share of every group; of groups that have lost as much, the one with the lower scores goes first."""

    def _removals(self) -> list[Removal]:
        sizes = [len(group) for group in self.coupling.groups]
        return [Removal((1 - after / sizes[i], score, i), i, after) for i, _, after, score in self._steps()]


@register_allocator("blocks")
class Blocks(Allocator):
    """Whole residual blocks, the lowest scores first; widths stay (LayerPrune: Elkerdawy et al. 2020)."""

    def _removals(self) -> list[Removal]:
        if not self.coupling.blocks:
            raise ConfigError("the network has no residual block that can be left out; cut channels instead")
        if self.scores.blocks is None:
            raise ConfigError("the criterion gives blocks no scores; take one that does, such as layerprune")
        values = np.asarray(self.scores.blocks, dtype=np.float64)
        if values.shape != (len(self.coupling.blocks),) or np.isnan(values).any():
            raise ConfigError(f"blocks need {len(self.coupling.blocks)} scores that are numbers; got {values.tolist()}")
        return [
            Removal((float(value), i), block=block.name)
            for i, (block, value) in enumerate(zip(self.coupling.blocks, values, strict=True))
        ]


def suited(criterion: type[Criterion]) -> str:
    """The allocator that goes with scores of units."""
    return PerCost.name if criterion.additive else Global.name


def per_layer(
    coupling: Coupling, scores: Scores, ratios: Mapping[str, float] | Sequence[float], min_keep: int = 1
) -> Cut:
    """A given share of each group: `int(n * (1 - ratio))` of its n units stay, as papers count, `min_keep` at least.

    Args:
        ratios: shares that go, by group (groups left out stay whole), or one for each group in order.

    Raises:
        ConfigError: an unknown group, a list of another length, a share out of its range.
    """
    names = [group.name for group in coupling.groups]
    if not isinstance(ratios, Mapping):
        if len(ratios) != len(names):
            raise ConfigError(f"{len(ratios)} ratios for {len(names)} groups: {', '.join(names)}")
        ratios = dict(zip(names, ratios, strict=True))
    for name, ratio in ratios.items():
        if name not in names:
            raise ConfigError(f"no group {name!r}: {did_you_mean(name, names)}")
        if not 0 <= ratio <= 1:
            raise ConfigError(f"the ratio of {name!r} is the share that goes, from 0 to 1; got {ratio}")
    widths = [
        min(len(g), max(min_keep, math.floor(len(g) * (1 - ratios.get(g.name, 0.0)) + 1e-9))) for g in coupling.groups
    ]
    return Cut(best(coupling, unit_scores(coupling, scores), widths))
