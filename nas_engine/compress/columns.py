"""Columns of weights: one input channel at one place of the kernel, across all filters.

A column is the finest unit whose loss makes a convolution cheaper without another machine: what is left of the unfolded
input is multiplied by what is left of the weights. Masks are parametrisations of the weights; `realised` makes the
faster modules, `dead_units` finds channels that no column reads any more, which surgery can cut.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from search_spaces.coupling import NONE, Coupling
from search_spaces.errors import SpaceError

Layer = nn.Conv2d | nn.Linear


def column_layers(module: nn.Module, linear: bool = False) -> Iterator[tuple[str, Layer]]:
    """The layers that have columns to lose, by name: 2-d convolutions but depthwise ones; linear layers if asked.

    A depthwise filter has one input channel, so its columns save nothing that its channel would not.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d):
            if part.groups == 1 or part.groups < part.in_channels:
                yield name, part
        elif linear and isinstance(part, nn.Linear):
            yield name, part


def columns(layer: Layer, weight: Tensor) -> Tensor:
    """A weight as `(groups, filters of a group, columns)`; columns go by `(channel, row, place in the row)`."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return weight.reshape(groups, weight.shape[0] // groups, -1)


class ColumnMask(nn.Module):
    """A parametrisation that zeroes columns of a weight.

    Attributes:
        keep: `(groups, columns)` buffer of 0 and 1: what is left.
        drawn: the same in training mode, where masks are drawn at random.
    """

    keep: Tensor
    drawn: Tensor

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        grouped = columns(layer, layer.weight)
        self.register_buffer("keep", grouped.new_ones((grouped.shape[0], grouped.shape[2])).detach())
        self.register_buffer("drawn", self.keep.clone())

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.shaped(weight, self.drawn if self.training else self.keep)

    def shaped(self, weight: Tensor, mask: Tensor) -> Tensor:
        """A mask `(groups, columns)` in the shape of the weight."""
        groups, size = mask.shape
        return mask[:, None].expand(groups, weight.shape[0] // groups, size).reshape(weight.shape)

    def mask(self, keep: Tensor, drawn: Tensor | None = None) -> None:
        """Set what is left, and what is left in training mode where that is something else."""
        self.keep.copy_(keep)
        self.drawn.copy_(keep if drawn is None else drawn)


def mask_columns(layer: Layer) -> ColumnMask:
    """Put a mask over the columns of a layer's weight, which keeps all at first; gives the one there is, if any.

    Raises:
        SpaceError: the layer is parametrised in another way.
    """
    found = column_mask(layer)
    if found is None:
        if parametrize.is_parametrized(layer):
            raise SpaceError(f"{layer} is parametrised already: take that away before its columns are masked")
        found = ColumnMask(layer)
        parametrize.register_parametrization(layer, "weight", found)
    return found


def column_mask(layer: nn.Module) -> ColumnMask | None:
    """The mask over a layer's columns, None where there is none."""
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    return next((p for p in cast(Any, layer).parametrizations.weight if isinstance(p, ColumnMask)), None)


def hidden_weight(layer: Layer) -> nn.Parameter:
    """The whole weight behind a mask, which is what an optimiser moves."""
    return cast(Any, layer).parametrizations.weight.original


def masks_of(module: nn.Module) -> dict[str, np.ndarray]:
    """What is left of the columns of each masked layer: bool `(groups, columns)` by name."""
    found = {name: column_mask(part) for name, part in module.named_modules()}
    return {name: mask.keep.cpu().numpy() > 0 for name, mask in found.items() if mask is not None}


def bake(module: nn.Module) -> None:
    """Write zeros into the masked columns and take the masks away; in evaluation mode nothing changes by it."""
    for part in module.modules():
        mask = column_mask(part)
        if mask is not None and isinstance(part, Layer):
            weight = hidden_weight(part)
            with torch.no_grad():
                weight.mul_(mask.shaped(weight, mask.keep))
            # torch's own removal changes the class, which copies of a layer share: they would lose their masks too
            del part.parametrizations
            part.__class__ = type(part).__bases__[0]
            part.register_parameter("weight", weight)


class ColumnConv2d(nn.Module):
    """A convolution that has only some of its columns: cost in time and in MACs is in proportion to them.

    The kept places of the input are gathered, `(columns, B * H' * W')`, and multiplied by the kept weights.

    Args:
        layer: the convolution, with all its weights.
        keep: bool `(groups, columns)`; each group must keep as many columns.

    Shapes:
        input: `(B, C, H, W)`, output: `(B, filters, H', W')`, in channels-last order.

    Raises:
        SpaceError: groups that keep different numbers of columns, or a padding other than zeros.
    """

    channel: Tensor
    offset: Tensor

    def __init__(self, layer: nn.Conv2d, keep: np.ndarray) -> None:
        super().__init__()
        if layer.padding_mode != "zeros":
            raise SpaceError(f"columns of a convolution with {layer.padding_mode!r} padding stay masks: pad by zeros")
        counts = keep.sum(1)
        if (counts != counts[0]).any():
            raise SpaceError(f"the groups of a convolution keep {counts.min()} to {counts.max()} columns; keep as many")
        self.groups, self.kernel = layer.groups, layer.kernel_size
        self.stride, self.dilation = layer.stride, layer.dilation
        self.padding = _padding(layer)
        index = torch.from_numpy(np.stack([np.flatnonzero(row) for row in keep])).to(layer.weight.device)
        rows = columns(layer, layer.weight.detach())
        self.weight = nn.Parameter(torch.stack([w[:, i] for w, i in zip(rows, index, strict=True)]))
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        places = self.kernel[0] * self.kernel[1]
        first = torch.arange(self.groups, device=index.device)[:, None] * (layer.in_channels // layer.groups)
        self.register_buffer("channel", (index // places + first).flatten())
        self.register_buffer("offset", (index % places).flatten())

    def forward(self, inputs: Tensor) -> Tensor:
        left, right, top, bottom = self.padding
        x = F.pad(inputs, self.padding) if left + right + top + bottom else inputs
        height = (x.shape[2] - self.dilation[0] * (self.kernel[0] - 1) - 1) // self.stride[0] + 1
        width = (x.shape[3] - self.dilation[1] * (self.kernel[1] - 1) - 1) // self.stride[1] + 1
        gathered = self._gathered(x, height, width)
        rows = gathered.reshape(self.groups, self.weight.shape[2], -1).transpose(1, 2)
        weight = self.weight.transpose(1, 2)
        if self.bias is None:
            out = torch.bmm(rows, weight)
        else:
            out = torch.baddbmm(self.bias.reshape(self.groups, 1, -1), rows, weight)
        # channels last, the order in which pooling and what follows are fastest
        return out.transpose(0, 1).reshape(len(inputs), height, width, -1).permute(0, 3, 1, 2)

    def _gathered(self, x: Tensor, height: int, width: int) -> Tensor:
        """The kept rows of the unfolded input, `(groups * columns, B, H', W')`; nothing else of it is ever made."""
        b, c, h, w = x.stride()
        step, dilation = self.stride, self.dilation
        view = x.as_strided(
            (x.shape[1], self.kernel[0], self.kernel[1], x.shape[0], height, width),
            (c, h * dilation[0], w * dilation[1], b, h * step[0], w * step[1]),
        )
        return view[self.channel, self.offset // self.kernel[1], self.offset % self.kernel[1]]

    def extra_repr(self) -> str:
        return f"columns={self.weight.shape[2]}, filters={self.weight.shape[0] * self.weight.shape[1]}"


def _padding(layer: nn.Conv2d) -> tuple[int, int, int, int]:
    """Left, right, top, bottom."""
    if layer.padding == "valid":
        return 0, 0, 0, 0
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        (top, left), (bottom, right) = ((n // 2 for n in total), (n - n // 2 for n in total))
        return left, right, top, bottom
    rows, sides = (int(n) for n in layer.padding)
    return sides, sides, rows, rows


class ColumnLinear(nn.Module):
    """A linear layer that reads only some of its inputs.

    Args:
        layer: with all its weights.
        keep: bool `(1, inputs)`.
    """

    index: Tensor

    def __init__(self, layer: nn.Linear, keep: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("index", torch.from_numpy(np.flatnonzero(keep)).to(layer.weight.device))
        self.weight = nn.Parameter(layer.weight.detach()[:, self.index].clone())
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs.index_select(-1, self.index), self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"columns={self.weight.shape[1]}, outputs={self.weight.shape[0]}"


def realised(module: nn.Module, masks: Mapping[str, np.ndarray] | None = None) -> nn.Module:
    """A copy whose masked layers compute what is left of them and no more; layers that keep all columns stay.

    Args:
        masks: what is kept by layer; None for the masks that the module bears.

    Raises:
        SpaceError: a layer of that name has no columns, or cannot do without some of them, see `ColumnConv2d`.
    """
    kept = masks_of(module) if masks is None else dict(masks)
    made = copy.deepcopy(module)
    bake(made)
    for name, keep in kept.items():
        layer = made.get_submodule(name)
        if not isinstance(layer, Layer):
            raise SpaceError(f"{name!r} is no convolution or linear layer, so it has no columns")
        if not keep.all():
            small = ColumnConv2d(layer, keep) if isinstance(layer, nn.Conv2d) else ColumnLinear(layer, keep)
            folder, _, last = name.rpartition(".")
            setattr(made.get_submodule(folder), last, small.train(layer.training))
    return copy.deepcopy(made)  # a network's plan holds modules, and is made anew for a copy


def dead_units(module: nn.Module, coupling: Coupling) -> np.ndarray:
    """(units,) bool: units that only zero weights read, so that cutting them changes no output.

    Args:
        module: bears weights under the names of the coupling's graph, as a network of it does, with or without masks.
    """
    alive = np.zeros(coupling.count, dtype=bool)
    for edge in coupling.edges:
        reader = dict(module.named_modules()).get(edge.node)
        read = _read_channels(reader) if isinstance(reader, Layer) and edge.position == 0 else None
        if read is None or len(read) != len(edge.units):
            read = np.ones(len(edge.units), dtype=bool)
        alive[edge.units[read & (edge.units != NONE)]] = True
    return ~alive


def _read_channels(layer: Layer) -> np.ndarray:
    """(input channels,) whether any weight that reads the channel is not zero; masks count as in evaluation mode."""
    mask = column_mask(layer)
    with torch.no_grad():
        weight = layer.weight if mask is None else _settled(layer, mask)
        rows = columns(layer, weight)
        groups = rows.shape[0]
        channels = weight.shape[1] * groups
        return (rows != 0).any(1).reshape(channels, -1).any(1).cpu().numpy()


def _settled(layer: Layer, mask: ColumnMask) -> Tensor:
    """The weight under the mask of evaluation mode."""
    original = hidden_weight(layer)
    return original * mask.shaped(original, mask.keep)
