"""Reversible couplings around modules of any kind: graph convolutions of PyTorch Geometric, say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import GraphError
from .coupling import Layers, Piece, reversible, uncouple
from .replay import Replay


@dataclass(frozen=True)
class PerGroup:
    """An argument of which each group is given its own, such as a part of a dropout's mask; others are given whole."""

    values: Sequence[Any]

    @classmethod
    def split(cls, tensor: Tensor, groups: int, axis: int = -1) -> PerGroup:
        return cls(tensor.tensor_split(groups, axis))


class Reversible(nn.Module):
    """Layers of grouped reversible connections, trained in the memory of one.

    Args:
        layers: for each layer its functions f_1..f_C, modules called with features `(..., D / C)` and with the further
            arguments of `forward`; C is 2 or more, and the same in all layers. A module may occur more than once.
        repeats: how often the layers are gone through; above 1, they are weight-tied.
        axis: of the features that is cut into groups.
        wide: type of the sums, see `Replay`.

    Raises:
        GraphError: no layers, or layers of one group or of different numbers of groups.

    >>> from torch_geometric.nn import SAGEConv
    >>> net = Reversible([[SAGEConv(16, 16) for _ in range(2)] for _ in range(28)])
    >>> y = net(torch.randn(100, 32), torch.randint(100, (2, 500)))
    """

    def __init__(
        self,
        layers: Iterable[Iterable[nn.Module]],
        *,
        repeats: int = 1,
        axis: int = -1,
        wide: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList(layer) for layer in layers)
        self.repeats, self.axis, self.wide = repeats, axis, wide
        counts = {len(layer) for layer in self.layers}  # type: ignore[arg-type]
        if len(counts) != 1 or min(counts) < 2 or repeats < 1:
            raise GraphError(
                f"reversible layers need functions for two or more groups, as many in each, and repeats >= 1; "
                f"got layers of {sorted(counts)} and repeats={repeats}"
            )
        self.groups = counts.pop()

    def forward(self, x: Tensor, *arguments: Any) -> Tensor:
        """Features `(..., D, ...)` to as many; `arguments` are given to every function after its features."""
        return reversible(self._layers(arguments), x, axis=self.axis, replay=self._replay(x))

    def inverse(self, y: Tensor, *arguments: Any) -> Tensor:
        """What `forward` was given, from what it gave; only for functions without random numbers."""
        replay = self._replay(y)
        groups = list(y.to(replay.wide).tensor_split(self.groups, self.axis))
        return torch.cat(uncouple(self._layers(arguments), groups, replay), self.axis).to(y.dtype)

    def _replay(self, like: Tensor) -> Replay:
        return Replay(like, wide=self.wide, modules=self.modules())

    def _layers(self, arguments: Sequence[Any]) -> Layers:
        given = [[a.values[g] if isinstance(a, PerGroup) else a for a in arguments] for g in range(self.groups)]
        return [
            [Piece(partial(_called, f, own), _reads(f, own)) for f, own in zip(layer, given, strict=True)]  # type: ignore[call-overload]
            for layer in self.layers
        ] * self.repeats


def _called(f: nn.Module, arguments: Sequence[Any], x: Tensor) -> Tensor:
    result: Tensor = f(x, *arguments)
    return result


def _reads(f: nn.Module, arguments: Sequence[Any]) -> tuple[Tensor, ...]:
    return (*f.parameters(), *(a for a in arguments if isinstance(a, Tensor) and a.requires_grad))
