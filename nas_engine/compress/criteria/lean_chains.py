"""Longest chains of a layered graph, taken out one after the other until a quota of edges is reached.

Edges are only ever removed, so the value a node once had is a bound on what it has now: nodes are brought up to date
when their bound is the largest of all, and most never are. That is exact, and thousands of chains cost seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NOWHERE = -1
PATIENCE = 1000


@dataclass(frozen=True, eq=False)
class Layer:
    """Edges into consecutive nodes; every node of the graph has those of one layer, or none.

    Attributes:
        first: number of the first target.
        sources: `(groups, in)` numbers of the nodes that edges come from, all lower than `first`; targets are split
            into the groups in order.
        logs: `(out, in)` logarithms of the edges' values, -inf where there is no edge.
        offset: number of its first kernel, row by row; None for edges that are never removed.
    """

    first: int
    sources: np.ndarray
    logs: np.ndarray
    offset: int | None = None

    @property
    def targets(self) -> int:
        return len(self.logs)


@dataclass(frozen=True, eq=False)
class Extraction:
    """Which kernels were taken.

    Attributes:
        order: (quota,) numbers of kernels, as they were taken.
        chains: how many chains they are.
        chained: how many kernels came with chains; the rest follow by their own norm.
    """

    order: np.ndarray
    chains: int
    chained: int


class Chains:
    """The longest chains of a graph under removal.

    A chain's value is the product of its edges' values (logarithms are added). One may begin and end anywhere; where
    the best value at a node would be less than 1, chains begin anew. Edges without kernels prolong chains and begin
    none.

    Args:
        nodes: how many there are, numbered so that edges go upwards.
        layers: of all edges; their logarithms are copied.
    """

    def __init__(self, nodes: int, layers: Sequence[Layer]) -> None:
        self.layers = tuple(Layer(s.first, s.sources, s.logs.astype(np.float64, copy=True), s.offset) for s in layers)
        self.value = np.zeros(nodes)  # a bound on the best chain that ends here; 0 where none does
        self._now = [0.0] * nodes  # the same, as lists are faster to look up
        self._layer = [NOWHERE] * nodes
        self._logs: list[np.ndarray] = [np.zeros(0)] * nodes  # the edges into each node, and where they come from
        self._from: list[slice | np.ndarray] = [slice(0)] * nodes
        self._source = [NOWHERE] * nodes  # the node before it on that chain, the column of the edge, the value then
        self._column = [0] * nodes
        self._support = [0.0] * nodes
        self._exact = [0] * nodes  # the round in which the bound was last found to be the value
        self._round = 1
        for i, layer in enumerate(self.layers):
            rows = [_run(s) for s in layer.sources]
            for row, logs in enumerate(layer.logs):
                node = layer.first + row
                self._layer[node], self._logs[node] = i, logs
                self._from[node] = rows[row * len(rows) // layer.targets]
                self._renew(node, self._along(node))  # upwards, so that every value is exact at once

    def longest(self) -> list[tuple[int, int, int]]:
        """The best chain from its end to its beginning: (layer, row, column) of each edge; empty where none is left.

        Of equal chains the one is taken that ends at the lowest node, and came from the lowest columns.
        """
        while True:
            end = int(self.value.argmax())
            if self._now[end] <= 0:
                return []
            if self._exact[end] == self._round:
                break
            self._settle(end)
        found = []
        node = end
        while self._now[node] > 0:
            layer = self._layer[node]
            found.append((layer, node - self.layers[layer].first, self._column[node]))
            node = self._source[node]
        return found

    def remove(self, edges: Sequence[tuple[int, int, int]]) -> None:
        """Take edges (layer, row, column) out of the graph."""
        for layer, row, column in edges:
            node = self.layers[layer].first + row
            self._logs[node][column] = -np.inf
            if self._column[node] == column:
                self._support[node] = math.nan  # equal to nothing: the node must be brought up to date
        self._round += 1

    def _settle(self, node: int) -> None:
        """Make the bound of a node its value, and that of the nodes before it on its chain."""
        now, sources, support, exact, current = self._now, self._source, self._support, self._exact, self._round
        stack: list[int] = [node]
        bounds: list[np.ndarray | None] = [None]
        while stack:
            node = stack[-1]
            source = sources[node]
            if source != NOWHERE and exact[source] != current:
                stack.append(source)
                bounds.append(None)
            elif source == NOWHERE or now[source] == support[node]:  # the chain that it stands for is still there
                exact[node] = current
                stack.pop()
                bounds.pop()
            else:
                along = bounds[-1]
                if along is None:
                    along = bounds[-1] = self._along(node)
                self._renew(node, along)

    def _along(self, node: int) -> np.ndarray:
        """Bounds of the chains that end here, by the edge they come along."""
        before = self.value[self._from[node]]
        along: np.ndarray = before + self._logs[node]
        if self.layers[self._layer[node]].offset is None:
            along[before <= 0] = -np.inf
        return along

    def _renew(self, node: int, along: np.ndarray) -> None:
        """Take the best of the bounds, which are lowered to what is known now where they are best."""
        logs, place = self._logs[node], self._from[node]
        while True:
            best = int(along.argmax())
            value = float(along[best])
            source = place.start + best if isinstance(place, slice) else int(place[best])
            known = float(self._now[source] + logs[best])
            if value <= 0 or value == known:
                break
            begins = self.layers[self._layer[node]].offset is not None
            along[best] = known if begins or self._now[source] > 0 else -np.inf
        if value <= 0:
            value, source = 0.0, NOWHERE
        self._source[node], self._column[node], self._support[node] = source, best, self._now[source]
        self.value[node] = self._now[node] = value


def _run(sources: np.ndarray) -> slice | np.ndarray:
    """Consecutive numbers as a slice, which needs no copy."""
    first = int(sources[0])
    run = np.array_equal(sources, np.arange(first, first + len(sources)))
    return slice(first, first + len(sources)) if run else sources


def extract(nodes: int, layers: Sequence[Layer], quota: int | None = None, patience: int = PATIENCE) -> Extraction:
    """Take kernels chain by chain until there are `quota` of them (all, if None).

    When no chain has a value above 1, or after `patience` chains of a single kernel in a row, the rest is taken by
    descending value. The last chain is cut at its beginning where it is longer than what is wanted.
    """
    kernels = sum(layer.logs.size for layer in layers if layer.offset is not None)
    quota = kernels if quota is None else min(quota, kernels)
    graph = Chains(nodes, layers)
    order: list[int] = []
    chains = singles = 0
    while len(order) < quota and singles < patience:
        edges = [e for e in graph.longest() if layers[e[0]].offset is not None]
        if not edges:
            break
        order += [_number(layers[layer], row, column) for layer, row, column in edges]
        graph.remove(edges)
        chains += 1
        singles = singles + 1 if len(edges) == 1 else 0
    chained = min(len(order), quota)
    rest = _by_value(layers, kernels, order, quota) if chained < quota else []
    return Extraction(np.array([*order[:quota], *rest], dtype=np.int64), chains, chained)


def _number(layer: Layer, row: int, column: int) -> int:
    return (layer.offset or 0) + row * layer.logs.shape[1] + column


def _by_value(layers: Sequence[Layer], kernels: int, taken: Sequence[int], quota: int) -> list[int]:
    """Numbers of the kernels of the largest values among those not taken, as many as the quota leaves."""
    logs = np.full(kernels, -np.inf)
    for layer in layers:
        if layer.offset is not None:
            logs[layer.offset : layer.offset + layer.logs.size] = layer.logs.ravel()
    free = np.ones(kernels, dtype=bool)
    free[list(taken)] = False
    numbers = np.flatnonzero(free)
    found: list[int] = numbers[np.argsort(-logs[numbers], kind="stable")][: quota - len(taken)].tolist()
    return found
