"""Convolutions and linear layers: the operators that multiply."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..errors import GraphError
from .base import Cost, Operator, Shape, need_rank, register_operator, spread

Size = int | tuple[int, ...]


def convolved(size: Shape, kernel: Size, stride: Size, padding: Size, dilation: Size) -> Shape:
    """Spatial size after a convolution; raises `GraphError` where the kernel does not fit."""
    parts = (spread(v, len(size)) for v in (padding, dilation, kernel, stride))
    out = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip(size, *parts, strict=True))
    if min(out) < 1:
        raise GraphError(f"kernel {kernel} does not fit into {'x'.join(map(str, size))} pixels")
    return out


def check_groups(channels: int, out_channels: int, groups: int) -> None:
    """Raise `GraphError` unless both numbers of channels divide into the groups."""
    if channels % groups or out_channels % groups:
        raise GraphError(f"{channels} to {out_channels} channels cannot be split into {groups} groups")


@dataclass(frozen=True)
class _Convolution(Operator):
    """Convolution of `(C, ...)` over its `axes` last axes.

    `padding` is a number, a number an axis, or "same" in the sense of an odd kernel
    (`dilation * (kernel - 1) // 2`).
    """

    axes: ClassVar[int]
    out_channels: int
    kernel_size: Size = 1
    stride: Size = 1
    padding: Size | str = 0
    dilation: Size = 1
    groups: int = 1
    bias: bool = False

    def _padding(self) -> tuple[int, ...]:
        if isinstance(self.padding, str):
            if self.padding != "same":
                raise GraphError(
                    f"padding {self.padding!r} of {self.name}; a number, a number an axis or 'same' is allowed"
                )
            kernel, dilation = spread(self.kernel_size, self.axes), spread(self.dilation, self.axes)
            return tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
        return spread(self.padding, self.axes)

    def shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        need_rank(self.name, x, self.axes + 1)
        check_groups(x[0], self.out_channels, self.groups)
        return (self.out_channels, *convolved(x[1:], self.kernel_size, self.stride, self._padding(), self.dilation))

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        kernel = math.prod(spread(self.kernel_size, self.axes))
        weights = self.out_channels * (inputs[0][0] // self.groups) * kernel
        pixels = math.prod(output[1:])
        bias = self.out_channels if self.bias else 0
        return self.moving(inputs, output, params=weights + bias, macs=weights * pixels, adds=bias * pixels)

    def constructor(self, *inputs: Shape) -> str:
        kernel, stride, dilation = (spread(v, self.axes) for v in (self.kernel_size, self.stride, self.dilation))
        return (
            f"nn.Conv{self.axes}d({inputs[0][0]}, {self.out_channels}, {kernel}, stride={stride}, "
            f"padding={self._padding()}, dilation={dilation}, groups={self.groups}, bias={self.bias})"
        )


@register_operator("conv1d")
class Conv1d(_Convolution):
    """One-dimensional convolution, `(C, L) -> (out_channels, L')`; `padding` as in `Conv2d`."""

    axes = 1


@register_operator("conv2d")
class Conv2d(_Convolution):
    """Two-dimensional convolution, `(C, H, W) -> (out_channels, H', W')`.

    `padding` is a number, a pair, or "same" in the sense of an odd kernel (`dilation * (kernel - 1) // 2`).
    """

    axes = 2


@dataclass(frozen=True)
class _ConvTranspose(Operator):
    """Transposed convolution of `(C, ...)` over its `axes` last axes."""

    axes: ClassVar[int]
    out_channels: int
    kernel_size: Size = 2
    stride: Size = 1
    padding: Size = 0
    output_padding: Size = 0
    dilation: Size = 1
    groups: int = 1
    bias: bool = False

    def _spread(self) -> list[tuple[int, ...]]:
        values = (self.kernel_size, self.stride, self.padding, self.output_padding, self.dilation)
        return [spread(v, self.axes) for v in values]

    def shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        need_rank(self.name, x, self.axes + 1)
        check_groups(x[0], self.out_channels, self.groups)
        sizes = zip(x[1:], *self._spread(), strict=True)
        out = tuple((n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, o, d in sizes)
        if min(out) < 1:
            raise GraphError(f"{self.name} of {x} with padding {self.padding} leaves nothing; lower the padding")
        return (self.out_channels, *out)

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        kernel = math.prod(spread(self.kernel_size, self.axes))
        weights = inputs[0][0] * (self.out_channels // self.groups) * kernel
        bias = self.out_channels if self.bias else 0
        macs = weights * math.prod(inputs[0][1:])
        return self.moving(inputs, output, params=weights + bias, macs=macs, adds=bias * math.prod(output[1:]))

    def constructor(self, *inputs: Shape) -> str:
        kernel, stride, padding, output_padding, dilation = self._spread()
        return (
            f"nn.ConvTranspose{self.axes}d({inputs[0][0]}, {self.out_channels}, {kernel}, stride={stride}, "
            f"padding={padding}, output_padding={output_padding}, "
            f"groups={self.groups}, bias={self.bias}, dilation={dilation})"
        )


@register_operator("conv_transpose1d")
class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution, `(C, L) -> (out_channels, L')`."""

    axes = 1


@register_operator("conv_transpose2d")
class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution, `(C, H, W) -> (out_channels, H', W')`."""

    axes = 2


@register_operator("linear")
class Linear(Operator):
    """Linear map of the last axis, `(..., F) -> (..., out_features)`."""

    out_features: int
    bias: bool = True

    def shape(self, *inputs: Shape) -> Shape:
        return (*inputs[0][:-1], self.out_features)

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        rows = math.prod(inputs[0][:-1])
        weights = inputs[0][-1] * self.out_features
        bias = self.out_features if self.bias else 0
        return self.moving(inputs, output, params=weights + bias, macs=rows * weights, adds=rows * bias)

    def constructor(self, *inputs: Shape) -> str:
        return f"nn.Linear({inputs[0][-1]}, {self.out_features}, bias={self.bias})"
