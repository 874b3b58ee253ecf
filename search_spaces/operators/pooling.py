"""Pooling, means and other reductions, and resizing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..errors import GraphError, did_you_mean
from .base import Operator, Shape, inner_axis, need_rank, pair, register_operator, spread, torch_axis

Size = int | tuple[int, ...]

RESIZE_MODES = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
REDUCTIONS = {
    "sum": "{0}.sum({axes}, keepdim={keepdim})",
    "amax": "{0}.amax({axes}, keepdim={keepdim})",
    "amin": "{0}.amin({axes}, keepdim={keepdim})",
    "norm": "torch.linalg.vector_norm({0}, dim={axes}, keepdim={keepdim})",
    "logsumexp": "{0}.logsumexp({axes}, keepdim={keepdim})",
    "var": "{0}.var({axes}, correction={correction}, keepdim={keepdim})",
    "std": "{0}.std({axes}, correction={correction}, keepdim={keepdim})",
}


def _pooled(x: Shape, axes: int, kernel: Size, stride: Size, padding: Size, dilation: Size, ceil_mode: bool) -> Shape:
    need_rank("pooling", x, axes + 1)
    out = []
    sizes = zip(x[1:], *(spread(v, axes) for v in (kernel, stride, padding, dilation)), strict=True)
    for n, k, s, p, d in sizes:
        reach = n + 2 * p - d * (k - 1) - 1
        size = (math.ceil(reach / s) if ceil_mode else reach // s) + 1
        if ceil_mode and (size - 1) * s >= n + p:  # the last window must start inside the image or its left padding
            size -= 1
        out.append(size)
    if min(out) < 1:
        raise GraphError(f"pooling window {kernel} does not fit into {'x'.join(map(str, x[1:]))} pixels")
    return (x[0], *out)


@dataclass(frozen=True)
class _MaxPool(Operator):
    """Largest value in each window over the `axes` last axes."""

    axes: ClassVar[int]
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    dilation: Size = 1
    ceil_mode: bool = False

    def shape(self, *inputs: Shape) -> Shape:
        stride = self.kernel_size if self.stride is None else self.stride
        return _pooled(inputs[0], self.axes, self.kernel_size, stride, self.padding, self.dilation, self.ceil_mode)

    def expression(self, *names: str) -> str:
        return (
            f"F.max_pool{self.axes}d({names[0]}, {self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode})"
        )


@register_operator("max_pool1d")
class MaxPool1d(_MaxPool):
    """Largest value in each window of `(C, L)`."""

    axes = 1


@register_operator("max_pool2d")
class MaxPool2d(_MaxPool):
    """Largest value in each window of `(C, H, W)`."""

    axes = 2


@dataclass(frozen=True)
class _AvgPool(Operator):
    """Mean of each window over the `axes` last axes."""

    axes: ClassVar[int]
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    count_include_pad: bool = True

    def shape(self, *inputs: Shape) -> Shape:
        stride = self.kernel_size if self.stride is None else self.stride
        return _pooled(inputs[0], self.axes, self.kernel_size, stride, self.padding, 1, self.ceil_mode)

    def expression(self, *names: str) -> str:
        return (
            f"F.avg_pool{self.axes}d({names[0]}, {self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"ceil_mode={self.ceil_mode}, count_include_pad={self.count_include_pad})"
        )


@register_operator("avg_pool1d")
class AvgPool1d(_AvgPool):
    """Mean of each window of `(C, L)`."""

    axes = 1


@register_operator("avg_pool2d")
class AvgPool2d(_AvgPool):
    """Mean of each window of `(C, H, W)`."""

    axes = 2


@dataclass(frozen=True)
class _AdaptivePool(Operator):
    """A grid of `output_size` windows over the `axes` last axes, each reduced to one value."""

    axes: ClassVar[int]
    kind: ClassVar[str] = "avg"
    output_size: Size = 1

    def shape(self, *inputs: Shape) -> Shape:
        need_rank(self.name, inputs[0], self.axes + 1)
        return (inputs[0][0], *spread(self.output_size, self.axes))

    def expression(self, *names: str) -> str:
        return f"F.adaptive_{self.kind}_pool{self.axes}d({names[0]}, {spread(self.output_size, self.axes)})"


@register_operator("adaptive_avg_pool1d")
class AdaptiveAvgPool1d(_AdaptivePool):
    """Means over `output_size` windows of `(C, L)`."""

    axes = 1


@register_operator("adaptive_avg_pool2d")
class AdaptiveAvgPool2d(_AdaptivePool):
    """Mean over a grid of `output_size` windows."""

    axes = 2


@register_operator("adaptive_max_pool1d")
class AdaptiveMaxPool1d(_AdaptivePool):
    """Largest values in `output_size` windows of `(C, L)`."""

    axes = 1
    kind = "max"


@register_operator("adaptive_max_pool2d")
class AdaptiveMaxPool2d(_AdaptivePool):
    """Largest value in each window of a grid of `output_size`."""

    axes = 2
    kind = "max"


@register_operator("resize")
class Resize(Operator):
    """Resizing of `(C, H, W)` to `(C, *size)`, bilinear with half-pixel centres by default.

    `mode` is one of `RESIZE_MODES`; `align_corners` and `antialias` are torch's, for bilinear and bicubic.
    """

    size: Size
    mode: str = "bilinear"
    align_corners: bool = False
    antialias: bool = False

    def __post_init__(self) -> None:
        if self.mode not in RESIZE_MODES:
            raise GraphError(f"unknown mode {self.mode!r} of resize: {did_you_mean(self.mode, RESIZE_MODES)}")
        if self.mode not in ("bilinear", "bicubic") and (self.align_corners or self.antialias):
            raise GraphError(f"resize of mode {self.mode!r} takes neither align_corners nor antialias")

    def shape(self, *inputs: Shape) -> Shape:
        need_rank(self.name, inputs[0], 3)
        return (inputs[0][0], *pair(self.size))

    def expression(self, *names: str) -> str:
        more = f", align_corners={self.align_corners}" if self.mode in ("bilinear", "bicubic") else ""
        more += ", antialias=True" if self.antialias else ""
        return f'F.interpolate({names[0]}, size={pair(self.size)}, mode="{self.mode}"{more})'


def _reduced(name: str, x: Shape, axes: tuple[int, ...], keepdim: bool) -> Shape:
    gone = {inner_axis(name, x, a) for a in axes}
    return tuple(1 if i in gone else n for i, n in enumerate(x) if keepdim or i not in gone)


@register_operator("mean")
class Mean(Operator):
    """Mean over axes, counted without the batch from 0, negative from the end."""

    axes: tuple[int, ...] = (-2, -1)
    keepdim: bool = False

    def shape(self, *inputs: Shape) -> Shape:
        return _reduced(self.name, inputs[0], self.axes, self.keepdim)

    def expression(self, *names: str) -> str:
        return f"{names[0]}.mean({tuple(map(torch_axis, self.axes))}, keepdim={self.keepdim})"


@register_operator("reduce")
class Reduce(Operator):
    """Another reduction over axes, counted as in `mean`; `kind` is a key of `REDUCTIONS`.

    `correction` is what a variance or standard deviation takes from the number of values it divides by.
    """

    kind: str
    axes: tuple[int, ...] = (-2, -1)
    keepdim: bool = False
    correction: int = 1

    def __post_init__(self) -> None:
        if self.kind not in REDUCTIONS:
            raise GraphError(f"unknown reduction {self.kind!r}: {did_you_mean(self.kind, REDUCTIONS)}")

    def shape(self, *inputs: Shape) -> Shape:
        return _reduced(self.name, inputs[0], self.axes, self.keepdim)

    def expression(self, *names: str) -> str:
        axes = tuple(map(torch_axis, self.axes))
        return REDUCTIONS[self.kind].format(*names, axes=axes, keepdim=self.keepdim, correction=self.correction)
