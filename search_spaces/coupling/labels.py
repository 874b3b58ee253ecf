"""Running a graph on labels: every channel holds the number of an atom instead of an activation.

Operators that mix channels make new atoms, data movement carries them along, sums join them. An array of labels
has an axis for each axis of the value it stands for, of size one where all entries agree, so that images cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..errors import GraphError
from ..graph import Graph, Node

Labels = np.ndarray
FIXED = 0
"""The atom of everything that cannot be cut."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A node that mixes channels reads them: position of the input, axis of the value that bears them, atoms."""

    node: Node
    position: int
    axis: int
    atoms: Labels


@dataclass
class Flow:
    """What is known while a graph runs on labels.

    Attributes:
        graph: what runs.
        exact: whether what is left of a network must compute what it did when the rest reads zeros. Otherwise only
            shapes must fit, and what joins channels, as a layer norm does, lets their number change.
        values: labels of each node's value.
        tensors: atoms along each axis of the tensors of modules, by name in state dicts; None where it bears none.
        bare: labels of bare parameters and buffers, with all their axes.
        makers: atoms that are output channels of a node with weights.
        readings: where atoms are read by a node that mixes.
        pairs: arrays `(n, 2)` of atoms that go together.
        fixed: atoms that cannot be cut, with the node and the reason.
        slots: labels of input and output of modules that are called again.
    """

    graph: Graph
    exact: bool = True
    values: dict[str, Labels] = field(default_factory=dict)
    tensors: dict[str, tuple[Labels | None, ...]] = field(default_factory=dict)
    bare: dict[str, Labels] = field(default_factory=dict)
    makers: dict[str, Labels] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    pairs: list[np.ndarray] = field(default_factory=list)
    fixed: list[tuple[np.ndarray, str, str]] = field(default_factory=list)
    slots: dict[str, tuple[Labels, Labels]] = field(default_factory=dict)
    count: int = 1

    @cached_property
    def computed(self) -> set[str]:
        """Names of all nodes that weights given to operators as inputs are computed from."""
        waiting = [i for n in self.graph.nodes if n.operator.startswith("functional_") for i in n.inputs[1:]]
        found: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(self.graph[name].inputs)
        return found

    def fresh(self, *shape: int) -> Labels:
        """New atoms in an array."""
        made = np.arange(self.count, self.count + int(np.prod(shape))).reshape(shape)
        self.count += made.size
        return made

    def join(self, a: Labels, b: Labels) -> None:
        """The atoms at the same places go together."""
        a, b = np.broadcast_arrays(a, b)
        self.pairs.append(np.unique(np.stack([a.ravel(), b.ravel()], 1), axis=0))

    def merge(self, labels: Labels, axis: int) -> None:
        """All atoms with the same index along an axis go together."""
        rows = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)
        self.join(rows, rows[:, :1])

    def fix(self, labels: Labels, node: Node, reason: str) -> None:
        """The atoms cannot be cut."""
        atoms = np.unique(labels)
        self.fixed.append((atoms[atoms != FIXED], node.name, reason))

    def read(self, node: Node, position: int, axis: int) -> Labels:
        """The atoms of an input along the only axis on which they may differ; fixed where they differ on others.

        Shapes:
            returns `(channels,)`.
        """
        source = self.graph[node.inputs[position]]
        labels = self.values[source.name]
        axis %= len(source.shape)
        size = source.shape[axis]
        if labels.size not in (1, labels.shape[axis]):
            if self.exact or labels.shape[axis] == 1:
                self.fix(labels, node, f"{node.name!r} reads channels that change over the other axes")
                return np.full(size, FIXED)
            self.merge(labels, axis)  # tokens and position embeddings tell places apart
            labels = np.moveaxis(labels, axis, 0).reshape(size, -1)[:, :1]
        atoms = np.broadcast_to(labels.reshape(-1), (size,)) if labels.size == 1 else labels.reshape(-1)
        self.readings.append(Reading(node, position, axis, atoms))
        return atoms


def squeeze(labels: Labels) -> Labels:
    """The same labels with every axis of equal entries brought to size one."""
    for axis in range(labels.ndim):
        if labels.shape[axis] > 1:
            first = labels.take([0], axis)
            if (labels == first).all():
                labels = first
    return labels


def whole(labels: Labels, shape: tuple[int, ...], axes: tuple[int, ...] | None = None) -> Labels:
    """Labels with these axes (all of them, if not told) at their true size."""
    wanted = tuple(n if axes is None or i in axes else labels.shape[i] for i, n in enumerate(shape))
    return np.broadcast_to(labels, wanted)


def spread(vector: Labels, rank: int, axis: int = 0) -> Labels:
    """A vector of atoms as the labels of a value that has them along an axis."""
    shape = [1] * rank
    shape[axis] = len(vector)
    return vector.reshape(shape)


Rule = Callable[[Flow, Node, list[Labels]], Labels]
rules: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Decorator: files the rule of some operators."""

    def file(function: Rule) -> Rule:
        rules.update(dict.fromkeys(operators, function))
        return function

    return file


def run(graph: Graph, exact: bool = True) -> Flow:
    """Run a simplified graph on labels; see `Flow.exact`."""
    flow = Flow(graph, exact)
    for node in graph.nodes:
        inputs = [flow.values[name] for name in node.inputs]
        known = rules.get(node.operator, _unknown)
        labels = known(flow, node, inputs)
        if labels.ndim != len(node.shape) and node.operator not in ("parameter", "buffer"):
            raise GraphError(f"labels of node {node.name!r} have {labels.ndim} axes, its value {len(node.shape)}")
        flow.values[node.name] = labels
    for name in graph.outputs:
        flow.fix(flow.values[name], graph[name], "it is an output of the network")
    return flow


def _unknown(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    what = node.attributes["target"] if node.operator == "other" else node.operator
    for labels in inputs:
        flow.fix(labels, node, f"{what!r} at {node.name!r} is not known to keep channels apart")
    return np.full((1,) * len(node.shape), FIXED)
