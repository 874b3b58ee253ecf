"""What networks of several inputs are given as one thing, a graph with features, say; and numbers to try them on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .graph import Graph


@dataclass(frozen=True, eq=False)
class GraphInput:
    """A graph as networks take it, a batch of one.

    Attributes:
        x: features of nodes, `(1, N, F)`.
        edges: `(1, 2, E)` int64, from and to.
        attributes: features of edges, `(1, E, D)`, or None.
    """

    x: Tensor
    edges: Tensor
    attributes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """In the order of a network's inputs."""
        return (self.x, self.edges) if self.attributes is None else (self.x, self.edges, self.attributes)

    @property
    def device(self) -> torch.device:
        return self.x.device

    def to(self, device: str | torch.device) -> GraphInput:
        return GraphInput(*(tensor.to(device) for tensor in self.tensors))


def spread_out(given: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The tensors that a network is called with: those of a graph where it is given as one."""
    return given[0].tensors if len(given) == 1 and isinstance(given[0], GraphInput) else given


def random_inputs(graph: Graph, batch: int, generator: torch.Generator | None = None) -> list[Tensor]:
    """Random tensors `(batch, *shape)`, one for each input of a graph.

    Normal numbers where an input takes such. Edges, whole numbers `(2, E)` beside features of N nodes, lead from any of
    these to another; other whole numbers are 0 and 1.
    """
    made: list[Tensor] = []
    first = graph.inputs[0].shape if graph.inputs else ()
    for node in graph.inputs:
        size, dtype = (batch, *node.shape), getattr(torch, node.attributes["dtype"])
        if made and not dtype.is_floating_point and len(node.shape) == len(first) == 2 and node.shape[0] == 2:
            made.append(_random_edges(batch, node.shape[1], first[0], generator).to(dtype))
            continue
        normal = torch.randn(size, generator=generator)
        made.append(normal.to(dtype) if dtype.is_floating_point else (normal > 0).to(dtype))
    return made


def _random_edges(batch: int, edges: int, nodes: int, generator: torch.Generator | None) -> Tensor:
    start = torch.randint(nodes, (batch, 1, edges), generator=generator)
    further = torch.randint(min(1, nodes - 1), max(nodes, 1), start.shape, generator=generator)
    return torch.cat([start, (start + further) % nodes], 1)
