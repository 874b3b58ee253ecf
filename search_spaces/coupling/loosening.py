"""Freeing the two sides of a residual sum from each other."""

from __future__ import annotations

from collections.abc import Collection

from ..errors import SpaceError, did_you_mean
from ..graph import Graph, Node, Signature
from .blocks import find_blocks


def loosen(graph: Graph, sums: Collection[str]) -> Graph:
    """The same network with shortcuts that pick channels, so that a sum's channels need not be those it started from.

    A channel of the shortcut that the sum does not have is dropped, one that only the sum has is zero there. This is
    how CHIP and others cut the stem of a residual network and its first stage by different shares; the price is a copy
    of the picked channels.

    Args:
        sums: names of nodes that add a residual branch.

    Raises:
        SpaceError: a name that is not such a sum.
    """
    graph = graph.simplify()
    starts = {block.sum: graph[block.sum].inputs[1 - block.branch] for block in find_blocks(graph)}
    for name in sums:
        if name not in starts:
            raise SpaceError(f"{name!r} is no sum of a residual branch: {did_you_mean(name, starts)}")
    nodes = []
    for node in graph.nodes:
        if node.name in sums:
            source = graph[starts[node.name]]
            entries = {"axis": 0, "entries": tuple(range(source.shape[0]))}
            pick = Node(f"{node.name}.pick", Signature.named("pick", entries, (source.shape,)), (source.name,))
            nodes.append(pick)
            inputs = tuple(pick.name if i == source.name else i for i in node.inputs)
            node = Node(node.name, node.signature, inputs)
        nodes.append(node)
    return Graph(tuple(nodes), graph.outputs)
