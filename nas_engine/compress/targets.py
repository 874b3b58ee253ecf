"""How small: targets such as `macs=0.5x`, and the first cut of an allocator's order that meets them.

Cuts are costed as graphs, without being built. Costs fall along the order, so some twenty of them are looked at; a cut
that is given has been costed itself, so where a predicted latency does not fall evenly the target is met all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from search_spaces import Architecture, Choice, SearchSpace
from search_spaces.coupling import Coupling
from search_spaces.errors import ConfigError, UnsatisfiableError, did_you_mean
from search_spaces.graph import Graph

from ..config import COSTS, Bound
from ..show import figure
from .allocation import Allocator, Cut

if TYPE_CHECKING:
    from predictors.cost import CostModel, DeviceProfile
    from predictors.cost.latency import LatencyModel, Progress

_TARGET = re.compile(r"^\s*([A-Za-z_]+)\s*(?:<=|=)\s*(\S+?)\s*$")
_LEVELS = 48


@dataclass(frozen=True)
class Target:
    """A limit on a cost: of its own unit, or relative to the network as it came.

    Attributes:
        metric: one of the costs of a run.
        value: the limit; of relative ones the share.
        relative: whether `value` is a share.

    >>> Target.parse("macs=0.5x"), Target.parse("params <= 1e6").value
    (Target(metric='macs', value=0.5, relative=True), 1000000.0)
    """

    metric: str
    value: float
    relative: bool = False

    @classmethod
    def parse(cls, text: str, grows: bool = False) -> Target:
        """Read `METRIC=NUMBER` or `METRIC=NUMBERx`.

        Args:
            grows: whether shares of 1 and more are targets as well.

        Raises:
            ConfigError: another form, an unknown metric, or a number that is no target.
        """
        match = _TARGET.match(text)
        if match is None:
            raise ConfigError(f"target {text!r} is not of the form macs=0.5x or params=1e6; costs: {', '.join(COSTS)}")
        metric, number = match.groups()
        try:
            bound = Bound.parse(f"{metric.lower()} <= {number}")
        except ValueError:
            if metric.lower() in COSTS:
                raise ConfigError(f"target {text!r} does not end with a number or a share such as 0.5x") from None
            raise ConfigError(f"unknown cost {metric!r} in a target: {did_you_mean(metric, COSTS)}") from None
        if bound.metric == "accuracy":
            falls = "changes with the size" if grows else "falls with the cut"
            raise ConfigError(f"a target is a cost that {falls}, such as macs=0.5x; accuracy is what it costs")
        value = bound.value if bound.share is None else bound.share
        if not value > 0 or (bound.share is not None and value >= 1 and not grows):
            raise ConfigError(f"target {text!r} must be above 0{'' if grows else ', and a share below 1x'}")
        return cls(bound.metric, value, bound.share is not None)

    def limit(self, base: float) -> float:
        """The limit in the unit of the metric."""
        return self.value * base if self.relative else self.value

    def __str__(self) -> str:
        return f"{self.metric}={self.value:g}{'x' if self.relative else ''}"


class Budget:
    """Targets over the cuts of one network.

    Args:
        targets: all of them are to be met.
        costs: models by name, one for each target at least.

    Attributes:
        base: costs of the whole network.
    """

    def __init__(self, coupling: Coupling, targets: Sequence[Target], costs: Mapping[str, CostModel]) -> None:
        self.coupling, self.targets, self._costs = coupling, tuple(targets), dict(costs)
        if not targets:
            raise ConfigError("a cut needs a target, such as macs=0.5x")
        self.base = self.costs(coupling.graph)

    def costs(self, graph: Graph) -> dict[str, float]:
        """All costs of a graph."""
        return {name: float(model.cost(graph)) for name, model in self._costs.items()}

    def solve(self, allocator: Allocator, way: float = 1.0) -> Cut:
        """The first cut in an allocator's order that meets all targets.

        Args:
            way: how much of the way from the whole network to the targets is to be gone, up to 1.

        Raises:
            UnsatisfiableError: no cut meets a target; names the lowest cost that can be reached.
        """
        limits = {
            t: self.base[t.metric] + way * (t.limit(self.base[t.metric]) - self.base[t.metric]) for t in self.targets
        }
        if self._met(self.coupling.graph, limits):
            return allocator.cut(0)
        low, high = 0, len(allocator)
        lowest = allocator.cut(high)
        if not self._met(lowest.graph(self.coupling), limits):
            self._refuse(lowest, limits)
        while high - low > 1:
            middle = (low + high) // 2
            if self._met(allocator.cut(middle).graph(self.coupling), limits):
                high = middle
            else:
                low = middle
        return allocator.cut(high)

    def _met(self, graph: Graph, limits: Mapping[Target, float]) -> bool:
        return all(self._costs[t.metric].cost(graph) <= limit * (1 + 1e-9) for t, limit in limits.items())

    def _refuse(self, lowest: Cut, limits: Mapping[Target, float]) -> None:
        costs = self.costs(lowest.graph(self.coupling))
        told = []
        for target, limit in limits.items():
            least, base = costs[target.metric], self.base[target.metric]
            if least > limit:
                reached = f"{figure(target.metric, least)} ({least / base:.3g}x)"
                told.append(
                    f"target {target} ({figure(target.metric, limit)}) cannot be reached: the lowest {target.metric} "
                    f"of a cut is {reached}"
                )
        raise UnsatisfiableError(
            f"{'; '.join(told)}; ask for that or more, allow more with --max-ratio, or leave out whole blocks"
        )


# ---- latency -----------------------------------------------------------------------------------------------


class Way(SearchSpace):
    """The cuts along an allocator's order as a space, so that a latency model is measured on what it will be asked."""

    name = "cuts"

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        steps = np.unique(np.linspace(0, len(allocator), _LEVELS).round().astype(int)).tolist()
        node = allocator.coupling.graph.inputs[0]
        super().__init__([Choice("removals", tuple(reversed(steps)))], input_shape=node.shape, classes=1)

    def graph(self, architecture: Architecture) -> Graph:
        return self._allocator.cut(int(architecture["removals"])).graph(self._allocator.coupling)

    def envelope(self) -> Iterator[Architecture]:
        yield from (self.from_indices([i]) for i in range(len(self.choices[0].options)))


def latency_along(
    allocator: Allocator, profile: DeviceProfile, seconds: float, seed: int, progress: Progress | None = None
) -> LatencyModel:
    """A latency model of this machine for the cuts of an allocator; see `LatencyModel.build`."""
    from predictors.cost import LatencyModel

    return LatencyModel.build(
        Way(allocator), profile, seconds=seconds, rng=np.random.default_rng([seed, 31]), progress=progress
    )
