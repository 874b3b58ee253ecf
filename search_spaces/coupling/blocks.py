"""Residual branches that can be left out whole."""

from __future__ import annotations

from collections import defaultdict

from ..graph import Graph, Node, slot
from .units import Block


def find_blocks(graph: Graph) -> tuple[Block, ...]:
    """The branches `f` of sums `x + f(x)` that nothing else reads, and that have weights, in the order of the graph."""
    readers: dict[str, set[str]] = defaultdict(set)
    for node in graph.nodes:
        for name in node.inputs:
            readers[name].add(node.name)
    blocks = []
    for node in graph.nodes:
        if node.operator == "add" and len(node.inputs) == 2:
            for branch in (0, 1):
                block = _block(graph, node, branch, readers)
                if block is not None:
                    blocks.append(block)
                    break
    return tuple(blocks)


def _block(graph: Graph, total: Node, branch: int, readers: dict[str, set[str]]) -> Block | None:
    """The branch of a sum, if it starts from the sum's other input and serves nothing else."""
    end, start = total.inputs[branch], total.inputs[1 - branch]
    if end == start or graph[end].shape != graph[start].shape:
        return None
    nodes: dict[str, None] = {}
    reached, waiting = False, [end]
    while waiting:
        name = waiting.pop()
        if name == start:
            reached = True
        elif name not in nodes:
            if graph[name].operator == "input":
                return None
            nodes[name] = None
            waiting.extend(graph[name].inputs)
    inside = {*nodes, total.name}
    if not reached or any(readers[name] - inside for name in nodes) or set(graph.outputs) & set(nodes):
        return None
    ordered = tuple(n.name for n in graph.nodes if n.name in nodes)
    weighted = [n for n in ordered if graph[n].signature.cost.params]
    shared = {slot(n) for n in graph.nodes if n.operator == "again"}
    if not weighted or shared & set(ordered) or end not in nodes:
        return None
    return Block(weighted[0], total.name, branch, ordered)
