"""Grouped reversible couplings, run forwards, backwards, and differentiated without keeping what lies between.

Features are cut into C groups. A layer of functions f_1..f_C maps `X_1..X_C` to

    Y_0 = X_2 + ... + X_C,   Y_i = X_i + f_i(Y_{i-1})   for i = 1..C

(Li et al. 2021, "Training Graph Neural Networks with 1000 Layers", section 3.2), which is undone from the last group to
the first. A stack of layers is one step of automatic differentiation: it keeps what it gives, and its gradient is
formed layer by layer from inputs that are computed again.

PyTorch Geometric's `GroupAddRev` is differentiated a layer at a time. So it has to empty the storage of every layer's
input, the caller's as well; it runs each function once more than is needed, splits whatever has as many columns as
features, does not see random numbers, autocast or running statistics, and drifts with depth. Hence this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .replay import Replay

Groups = list[Tensor]


@dataclass(frozen=True, slots=True)
class Piece:
    """One function f_i of a layer.

    Attributes:
        call: features `(..., D / C)` to as many.
        reads: what else its result depends on and may need a gradient: weights, features of edges.
    """

    call: Callable[[Tensor], Tensor]
    reads: tuple[Tensor, ...] = ()


Layers = Sequence[Sequence[Piece]]


def reversible(layers: Layers, x: Tensor, *, axis: int = -1, replay: Replay | None = None) -> Tensor:
    """Run layers on features `(..., D, ...)`, cut along an axis into as many groups as a layer has functions.

    The memory that is held for the gradient does not grow with the number of layers. Gradients of gradients are not
    to be had. The input is left as it is.

    Args:
        replay: how sums are formed, and what the functions find when they are run again; see there.
    """
    replay = replay or Replay(x)
    reads = {id(t): t for layer in layers for piece in layer for t in piece.reads if t.requires_grad}
    if not torch.is_grad_enabled() or not (reads or x.requires_grad):
        groups = list(x.to(replay.wide).tensor_split(len(layers[0]), axis))
        return torch.cat(couple(layers, groups, replay), axis).to(x.dtype)
    result: Tensor = _Coupled.apply(layers, replay, axis, x, *reads.values())
    return result


def couple(layers: Layers, groups: Groups, replay: Replay) -> Groups:
    """C groups of features `(..., D / C)` through all layers, sums being formed in their own type."""
    for number, layer in enumerate(layers):
        given: Groups = []
        y = _sum(groups[1:])
        for place, (piece, x) in enumerate(zip(layer, groups, strict=True)):
            replay.begin(number, place)
            y = x + piece.call(y.to(replay.dtype))
            given.append(y)
        groups = given
    return groups


def uncouple(layers: Layers, groups: Groups, replay: Replay) -> Groups:
    """The inverse of `couple`: what went in, from what came out."""
    with torch.no_grad(), replay.again():
        for number in reversed(range(len(layers))):
            found = list(groups)
            for place in reversed(range(len(groups))):
                y = groups[place - 1] if place else _sum(found[1:])
                replay.begin(number, place)
                found[place] = groups[place] - layers[number][place].call(y.to(replay.dtype))
            groups = found
    return groups


class _Coupled(torch.autograd.Function):
    """A stack of layers as one step of automatic differentiation."""

    @staticmethod
    def forward(ctx: Any, layers: Layers, replay: Replay, axis: int, x: Tensor, *reads: Tensor) -> Tensor:  # type: ignore[override]
        groups = list(x.to(replay.wide).tensor_split(len(layers[0]), axis))
        with replay.first():
            groups = couple(layers, groups, replay)
        ctx.layers, ctx.replay, ctx.axis = layers, replay, axis
        ctx.reads = reads
        ctx.save_for_backward(*groups, *reads)  # with their versions: a weight that has changed since is told
        return torch.cat([y.to(x.dtype) for y in groups], axis)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Any:  # type: ignore[override]
        layers: Layers = ctx.layers
        count = len(layers[0])
        groups = [y.clone() for y in ctx.saved_tensors[:count]]
        found = _Found(ctx.reads)
        slopes = list(slope.tensor_split(count, ctx.axis))
        with ctx.replay.again():
            for number in reversed(range(len(layers))):
                for place in reversed(range(count)):
                    _undo(layers[number][place], place, groups, slopes, found, ctx.replay, number)
        return None, None, None, torch.cat(slopes, ctx.axis), *found.slopes


class _Found:
    """Gradients by what the functions read, summed while layers are undone.

    They lie side by side in one block for each type. One by one, they would outlive the large tensors that come and go
    between them, and leave the allocator of a deep network with gigabytes of holes.
    """

    def __init__(self, reads: Sequence[Tensor]) -> None:
        self._places = {id(t): place for place, t in enumerate(reads)}
        self._room = _side_by_side(reads)
        self.slopes: list[Tensor | None] = [None] * len(reads)

    def add(self, read: Tensor, slope: Tensor | None) -> None:
        place = self._places[id(read)]
        if slope is None:
            return
        if self.slopes[place] is None:
            self.slopes[place] = self._room[place].copy_(slope)
        else:
            self._room[place].add_(slope)


def _side_by_side(like: Sequence[Tensor]) -> list[Tensor]:
    """Empty tensors of these shapes, types and devices, those of a kind in one block."""
    kinds = [(t.device, t.dtype) for t in like]
    sizes = dict.fromkeys(kinds, 0)
    for kind, t in zip(kinds, like, strict=True):
        sizes[kind] += t.numel()
    left = {(device, dtype): torch.empty(n, dtype=dtype, device=device) for (device, dtype), n in sizes.items()}
    made = []
    for kind, t in zip(kinds, like, strict=True):
        own, left[kind] = left[kind].split([t.numel(), len(left[kind]) - t.numel()])
        made.append(own.view(t.shape))
    return made


def _undo(piece: Piece, place: int, groups: Groups, slopes: Groups, found: _Found, replay: Replay, number: int) -> None:
    """Take one function back: its group becomes what went in, and its gradient is formed on the way."""
    y = (groups[place - 1] if place else _sum(groups[1:])).to(replay.dtype).detach().requires_grad_()
    reads = [t for t in piece.reads if t.requires_grad]
    replay.begin(number, place)
    with torch.enable_grad():
        z = piece.call(y)
    groups[place].sub_(z.detach())
    if not z.requires_grad:
        return
    slope, end = slopes[place].to(z.dtype), torch.autograd.graph.get_gradient_edge(z)
    del z  # its numbers make room
    by_input, *by_reads = torch.autograd.grad(end, [y, *reads], slope, allow_unused=True)
    for read, by_read in zip(reads, by_reads, strict=True):
        found.add(read, by_read)
    if by_input is not None:
        for receiver in [place - 1] if place else range(1, len(groups)):
            slopes[receiver] = slopes[receiver] + by_input


def _sum(groups: Groups) -> Tensor:
    total = groups[0]
    for x in groups[1:]:
        total = total + x
    return total
