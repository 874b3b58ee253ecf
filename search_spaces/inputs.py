"""What networks of several inputs are given as one thing: a graph with features, say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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
