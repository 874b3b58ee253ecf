"""Spaces that need no parameters, and a device made of arithmetic: exact times, a clock that can be read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import numpy as np

from predictors.cost import Measurement
from predictors.cost.features import kind
from search_spaces import Graph, spaces

READY = [
    name
    for name, cls in spaces.items()
    if all(p.default is not p.empty for p in inspect.signature(cls).parameters.values())
]


def additive_ms(graph: Graph) -> float:
    """A call costs 2 us, each primitive 4 us, a rate by kind for its MACs, and one bandwidth for all bytes."""
    total = 0.002
    for node in graph.simplify().nodes:
        if node.operator != "input":
            cost = node.signature.cost
            rate = {"conv2d/depthwise": 0.5, "conv2d/pointwise": 0.06}.get(kind(node.signature), 0.1)
            total += 0.004 + rate * cost.macs / 1e6 + 0.08 * cost.bytes_moved / 1e6
    return total


class SyntheticDevice:
    """A measurer whose time passes only by measuring.

    Args:
        law: milliseconds of a graph.
        noise: standard deviation of the logarithm of a measurement.
        slowdown: factor by which a batch is slower, from the number of the batch.
        making_s: time to make a graph ready.
    """

    def __init__(
        self,
        law: Callable[[Graph], float] = additive_ms,
        *,
        noise: float = 0.0,
        slowdown: Callable[[int], float] = lambda batch: 1.0,
        making_s: float = 0.003,
    ) -> None:
        self.law, self.noise, self.slowdown, self.making_s = law, noise, slowdown, making_s
        self.seconds, self.batches = 0.0, 0
        self.graphs: list[Graph] = []
        self._rng = np.random.default_rng(0)

    def clock(self) -> float:
        return self.seconds

    def __call__(self, graphs: Sequence[Graph], seconds: float) -> list[Measurement]:
        self.graphs += graphs
        self.seconds += len(graphs) * (self.making_s + seconds)
        factor = self.slowdown(self.batches)
        self.batches += 1
        noise = np.exp(self.noise * self._rng.standard_normal(len(graphs)))
        times = [factor * self.law(graph) * float(n) for graph, n in zip(graphs, noise, strict=True)]
        return [Measurement(1.05 * t, 0.1 * t, t, 20) for t in times]
