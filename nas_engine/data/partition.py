"""Random partitions of a graph's nodes, and the pieces of the graph that they make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from search_spaces.inputs import GraphInput


def random_partition(count: int, parts: int, key: Sequence[int], *, first: torch.Tensor | None = None) -> torch.Tensor:
    """(count,) int64: the part of each node, 0 to parts - 1; sizes differ by one at most.

    Args:
        key: the seed; equal keys give equal partitions.
        first: nodes that are dealt out before the others, so that each part has its share of them.
    """
    import torch

    order = np.random.default_rng(list(key)).permutation(count)
    if first is not None:
        leading = np.zeros(count, dtype=bool)
        leading[first.cpu().numpy()] = True
        order = np.concatenate([order[leading[order]], order[~leading[order]]])
    part_of = np.empty(count, dtype=np.int64)
    part_of[order] = np.arange(count) % parts
    return torch.from_numpy(part_of)


def pieces(graph: GraphInput, part_of: torch.Tensor) -> Iterator[tuple[GraphInput, torch.Tensor]]:
    """The part of the graph on each part of its nodes, with the edges between them, and those nodes' numbers `(M,)`.

    Nodes and edges keep their order, so that the only piece of a partition into one is the graph itself.

    Args:
        part_of: `(N,)` the part of each node.
    """
    import torch

    from search_spaces.inputs import GraphInput

    edges = graph.edges[0]
    part_of = part_of.to(edges.device)
    order = part_of.argsort(stable=True)
    sizes = part_of.bincount()
    place = torch.empty_like(order)  # of each node within its part
    starts = sizes.cumsum(0) - sizes
    place[order] = torch.arange(len(order), device=order.device) - starts.repeat_interleave(sizes)
    inside = (part_of[edges[0]] == part_of[edges[1]]).nonzero()[:, 0]
    parts_of_edges = part_of[edges[0, inside]]
    inside = inside[parts_of_edges.argsort(stable=True)]
    counts = parts_of_edges.bincount(minlength=len(sizes)).tolist()
    for nodes, held in zip(order.split(sizes.tolist()), inside.split(counts), strict=True):
        attributes = None if graph.attributes is None else graph.attributes[:, held]
        yield GraphInput(graph.x[:, nodes], place[edges[:, held]][None], attributes), nodes
