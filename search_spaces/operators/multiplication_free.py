"""Convolutions without multiplications: AdderNet's, which measure distances, and DeepShift's, whose weights are shifts.

`adds` and `shifts` say what they cost on hardware made for them; torch runs both in floating point, so a latency that
is measured under torch is that of this emulation. Either wants a batch normalisation behind it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import GraphError
from .base import Cost, Operator, Shape, need_rank, pair, register_operator
from .convolution import Size, check_groups, convolved
from .parameters import Parameter

if TYPE_CHECKING:
    from ..graph import Graph


@register_operator("normal_parameter")
class NormalParameter(Parameter):
    """A learned tensor that starts normal with standard deviation `std`; otherwise as `parameter`."""

    size: tuple[int, ...]
    std: float = 1.0

    def parameter(self) -> str:
        return f"{float(self.std)!r} * torch.randn({self.size})"


FREE = ("functional_adder2d", "functional_shift_conv2d")
"""The primitive operators that add or shift instead of multiplying."""


# ---- functions of images and weights ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Windows(Operator):
    """A function of image windows `(C, H, W)` and weights `(out, C / groups, kh, kw)`, the same for all examples."""

    stride: Size = 1
    padding: Size = 0
    dilation: Size = 1

    def _groups(self) -> int:
        return 1

    def shape(self, *inputs: Shape) -> Shape:
        x, (out_channels, in_channels, *kernel) = inputs
        need_rank(self.name, x, 3)
        if x[0] != in_channels * self._groups() or out_channels % self._groups():
            raise GraphError(f"{self.name} of shape {x} by weights of shape {inputs[1]}: they do not fit")
        return (out_channels, *convolved(x[1:], tuple(kernel), self.stride, self.padding, self.dilation))

    @staticmethod
    def _meetings(inputs: tuple[Shape, ...], output: Shape) -> int:
        """How often a weight meets a number: the MACs of the convolution of these shapes."""
        return math.prod(inputs[1]) * math.prod(output[1:])


@register_operator("functional_adder2d")
class FunctionalAdder2d(_Windows):
    """`y = -sum |x - w|` over each window (AdderNet, Chen et al. 2020, section 3); the weights are the second input.

    Two additions a weight and output: the difference, and the sum of its magnitude.

    Gradients: weights get AdderNet's full-precision one, `x - w` (section 3.2), from a term of value zero that has it,
    scaled to the length `0.2 sqrt(k)` for k weights (section 3.3, as in the authors' code): without that plain SGD
    hardly moves these weights. The input gets the exact gradient, `sign(w - x)`; AdderNet's clipped `w - x` would need
    every difference in memory.
    """

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return self.moving(inputs, output, adds=2 * self._meetings(inputs, output))

    def expression(self, *names: str) -> str:
        x, weight = names[0], f"{names[1]}[0]"
        windows, flat = self._unfolded(x, weight), f"{weight}.flatten(1)"
        near = f"torch.cdist({windows}, {flat}.detach(), p=1.0)"
        plain = f"({windows}.unsqueeze(2) - {flat}).abs().sum(3)"  # ONNX has no distances
        distance = f"({plain} if torch.compiler.is_exporting() else {near})"
        value = f"-{distance}.mT.unflatten(2, ({self._rows(x, weight)}, -1))"
        learning = f"torch.is_grad_enabled() and {names[1]}.requires_grad and not torch.compiler.is_exporting()"
        return f"({value} + {self._zero(x, weight)} if {learning} else {value})"

    def _unfolded(self, x: str, weight: str) -> str:
        """Windows in rows: `(N, C, H, W) -> (N, H' W', C kh kw)`."""
        geometry = f"dilation={self.dilation}, padding={self.padding}, stride={self.stride}"
        return f"F.unfold({x}, {weight}.shape[2:], {geometry}).mT"

    def _rows(self, x: str, weight: str) -> str:
        stride, padding, dilation = (pair(v)[0] for v in (self.stride, self.padding, self.dilation))
        return f"({x}.shape[2] + {2 * padding} - {dilation} * ({weight}.shape[2] - 1) - 1) // {stride} + 1"

    def _zero(self, x: str, weight: str) -> str:
        """Zeros with the gradient `x - w` for the weights, that of `x w - w^2 / 2`, at the layer's own rate."""
        geometry = f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}"
        rated = "lambda g: g * (0.2 * g.numel() ** 0.5 / g.norm().clamp(min=1e-12))"
        term = f"F.conv2d({x}.detach(), w, -w.square().sum((1, 2, 3)) / 2, {geometry})"
        hooked = f"(lambda w: (w.register_hook({rated}), {term})[1])({weight}.clone())"
        return f"(lambda y: y - y.detach())({hooked})"


@register_operator("functional_shift_conv2d")
class FunctionalShiftConv2d(_Windows):
    """Convolution by weights rounded to signed powers of two (DeepShift-Q, Elhoushi et al. 2019); they are input two.

    `w` becomes `sign(w) 2^p` with `p = round(log2 |w|)` between `1 - 2^(bits - 1)` and 0; the gradient passes the
    rounding as if it were not there. A shift and an addition a weight and output.
    """

    groups: int = 1
    bits: int = 5

    def _groups(self) -> int:
        return self.groups

    def shape(self, *inputs: Shape) -> Shape:
        if self.bits < 2:
            raise GraphError(f"{self.name} with {self.bits} bits; a sign and a shift take at least 2")
        return super().shape(*inputs)

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        meetings = self._meetings(inputs, output)
        return self.moving(inputs, output, shifts=meetings, adds=meetings)

    def expression(self, *names: str) -> str:
        x, weight = names[0], f"{names[1]}[0]"
        size = f"{weight}.detach().abs().clamp({2.0 ** (1 - 2 ** (self.bits - 1))!r}, 1.0)"
        power = f"torch.exp2({size}.log2().round()) * (1.0 - 2.0 * ({weight}.detach() < 0))"
        rounded = f"({power} + ({weight} - {weight}.detach()))"
        geometry = f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, groups={self.groups}"
        return f"F.conv2d({x}, {rounded}, {geometry})"


# ---- layers ----------------------------------------------------------------------------------------------


def _layer(function: str, x: Shape, size: tuple[int, ...], std: float, **settings: object) -> Graph:
    """A function of images and weights with weights of its own."""
    from ..graph import GraphBuilder

    g = GraphBuilder(x)
    weight = g.add("normal_parameter", name="weight", size=size, std=std)
    weight = g.add("batch_of_one", weight, name="weights", size=size)
    return g.build(g.add(function, g.input, weight, name="function", **settings))


def _same(padding: Size | str, kernel: tuple[int, int], dilation: Size) -> Size:
    if not isinstance(padding, str):
        return padding
    if padding != "same":
        raise GraphError(f"padding {padding!r}; a number, a pair or 'same' is allowed")
    high, wide = (d * (k - 1) // 2 for d, k in zip(pair(dilation), kernel, strict=True))
    return high, wide


@register_operator("adder2d")
class Adder2d(Operator):
    """AdderNet's layer, `(C, H, W) -> (out_channels, H', W')`; see `functional_adder2d`.

    Weights start standard normal, as in AdderNet. `padding` as in `conv2d`.
    """

    out_channels: int
    kernel_size: Size = 1
    stride: Size = 1
    padding: Size | str = 0
    dilation: Size = 1
    fused = True

    def body(self, *inputs: Shape) -> Graph:
        need_rank(self.name, inputs[0], 3)
        kernel = pair(self.kernel_size)
        return _layer(
            "functional_adder2d",
            inputs[0],
            (self.out_channels, inputs[0][0], *kernel),
            1.0,
            stride=self.stride,
            padding=_same(self.padding, kernel, self.dilation),
            dilation=self.dilation,
        )


@register_operator("shift_conv2d")
class ShiftConv2d(Operator):
    """DeepShift's convolution, `(C, H, W) -> (out_channels, H', W')`; see `functional_shift_conv2d`.

    Weights start normal with the variance 2 / fan-in (He et al. 2015). `padding` as in `conv2d`.
    """

    out_channels: int
    kernel_size: Size = 1
    stride: Size = 1
    padding: Size | str = 0
    dilation: Size = 1
    groups: int = 1
    bits: int = 5
    fused = True

    def body(self, *inputs: Shape) -> Graph:
        need_rank(self.name, inputs[0], 3)
        check_groups(inputs[0][0], self.out_channels, self.groups)
        kernel = pair(self.kernel_size)
        size = (self.out_channels, inputs[0][0] // self.groups, *kernel)
        return _layer(
            "functional_shift_conv2d",
            inputs[0],
            size,
            math.sqrt(2 / math.prod(size[1:])),
            stride=self.stride,
            padding=_same(self.padding, kernel, self.dilation),
            dilation=self.dilation,
            groups=self.groups,
            bits=self.bits,
        )
