"""What can be cut out of a network: units, the groups they form, the places they are read, and whole blocks.

A unit is a set of channels that only go together: a channel of a convolution with its batch norm, or the same channel
of everything that is added to one residual stream, or an attention head. Units that lie in the same tensors form a
group, so the number of units kept of each group says how large the network becomes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..graph import Graph

NONE = -1
"""In vectors of units: a channel that is in no unit."""


@dataclass(frozen=True, eq=False)
class Group:
    """Units that lie in the same tensors, in the order of their channels.

    Attributes:
        name: of the node that makes them, the first in the graph.
        units: (n,) numbers of its units.
        makers: nodes with weights whose output channels they are.
    """

    name: str
    units: np.ndarray
    makers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.units)


@dataclass(frozen=True, eq=False)
class Edge:
    """A place where units are read by a node that mixes channels (a convolution, a linear layer).

    A unit is gone when all of its edges read zeros in its place: not before, as a batch norm makes a number of a zero.

    Attributes:
        node: the node that reads.
        position: which of its inputs.
        source: the node whose value is read.
        axis: the axis of that value that bears the channels, the batch not counted.
        units: (channels,) the unit of each channel, NONE where it is in none.
    """

    node: str
    position: int
    source: str
    axis: int
    units: np.ndarray


@dataclass(frozen=True)
class Frozen:
    """Channels of a node that cannot be cut, and why."""

    node: str
    channels: int
    reason: str


@dataclass(frozen=True)
class Block:
    """A residual branch that can be left out: the sum then is its other input.

    Attributes:
        name: of the first node with weights in the branch.
        sum: the node that adds.
        branch: which input of the sum is the branch.
        nodes: what only the branch needs.
    """

    name: str
    sum: str
    branch: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Coupling:
    """Which channels of a graph go together.

    Attributes:
        graph: the simplified graph that names refer to.
        count: number of units; they are numbered from 0.
        groups: every unit is in exactly one.
        edges: all places where units are read.
        frozen: makers whose channels cannot be cut.
        blocks: what can be left out as a whole.
        values: the units along each axis of a node's value; None for an axis that bears none.
        tensors: the same of learned tensors and buffers, by their names in state dicts.
    """

    graph: Graph
    count: int
    groups: tuple[Group, ...]
    edges: tuple[Edge, ...]
    frozen: tuple[Frozen, ...]
    blocks: tuple[Block, ...]
    values: dict[str, tuple[np.ndarray | None, ...]]
    tensors: dict[str, tuple[np.ndarray | None, ...]]

    @cached_property
    def group_of(self) -> np.ndarray:
        """(count,) the position in `groups` of each unit."""
        found = np.full(self.count, NONE)
        for i, group in enumerate(self.groups):
            found[group.units] = i
        return found

    def all(self) -> np.ndarray:
        """(count,) the mask that keeps every unit."""
        return np.ones(self.count, dtype=bool)
