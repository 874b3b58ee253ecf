"""What scaled networks cost: counted, and timed by a latency model that is measured on networks of the same kind.

The model is built from members along the rules and at the corners of what is drawn, so that it is asked little that
lies beyond what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from search_spaces import Architecture, Choice, SearchSpace
from search_spaces.errors import GraphError, SpaceError
from search_spaces.graph import Graph, Node
from search_spaces.scaling import Scaling

from .base import Base

if TYPE_CHECKING:
    from predictors.cost import CostModel, DeviceProfile
    from predictors.cost.latency import LatencyModel, Progress

COUNTED = ("params", "macs", "activation_bytes", "bytes_moved")
_STEPS = 9  # members along each rule
_MOST = 60  # networks that a latency model looks at
Costs = dict[str, float]


class Coster:
    """All costs of graphs, each graph once.

    Args:
        latency: a model of the device; without one only counted costs are given.
    """

    def __init__(self, latency: LatencyModel | None = None) -> None:
        from predictors.cost import make_cost_model

        self._models: dict[str, CostModel] = {name: make_cost_model(name) for name in COUNTED}
        if latency is not None:
            self._models["latency_ms"] = latency
        self._known: dict[Graph, Costs] = {}

    def __call__(self, graph: Graph) -> Costs:
        if graph not in self._known:
            plain = evaluated(graph)
            self._known[graph] = {name: float(model.cost(plain)) for name, model in self._models.items()}
        return self._known[graph]


def evaluated(graph: Graph) -> Graph:
    """The graph as it is in evaluation, without what is there for training alone (stochastic depth)."""
    return Graph(tuple(Node(n.name, n.signature.evaluated, n.inputs) for n in graph.nodes), graph.outputs)


# ---- along the rules ---------------------------------------------------------------------------------------


def factors(low: float, high: float, number: int = _STEPS) -> list[float]:
    """Factors of arithmetic between two, evenly apart in their logarithms; always 1 among them.

    >>> factors(1.0, 4.0, 3)
    [1.0, 2.0, 4.0]
    """
    found = np.geomspace(low, high, number).tolist() if high > low else [low]
    return sorted({1.0, *(round(f, 9) for f in found)})


def reachable(base: Base, scalings: Iterable[Scaling]) -> dict[Scaling, Graph]:
    """The networks at some multipliers; those that cannot be are left out."""
    found = {}
    for scaling in scalings:
        try:
            found[scaling] = base.scaled(scaling)
        except (SpaceError, GraphError):
            continue
    return found


class Scaled(SearchSpace):
    """Scaled networks as a space, so that a latency model is measured on what it will be asked."""

    name = "scaled"

    def __init__(self, graphs: Sequence[Graph]) -> None:
        distinct = sorted(dict.fromkeys(graphs), key=lambda g: g.cost.macs)
        picked = np.unique(np.linspace(0, len(distinct) - 1, min(_MOST, len(distinct))).round().astype(int))
        self._graphs = [distinct[i] for i in picked]
        shape = self._graphs[0].inputs[0].shape
        super().__init__([Choice("network", tuple(range(len(self._graphs))))], input_shape=shape, classes=1)

    def graph(self, architecture: Architecture) -> Graph:
        return self._graphs[int(architecture["network"])]

    def envelope(self) -> Iterator[Architecture]:
        yield from (self.from_indices([i]) for i in reversed(range(len(self._graphs))))


def latency_of(
    graphs: Sequence[Graph], profile: DeviceProfile, seconds: float, seed: int, progress: Progress | None = None
) -> LatencyModel:
    """A latency model of this machine for scaled networks; see `LatencyModel.build`."""
    from predictors.cost import LatencyModel

    rng = np.random.default_rng([seed, 37])
    return LatencyModel.build(Scaled(graphs), profile, seconds=seconds, rng=rng, progress=progress)
