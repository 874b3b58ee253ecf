"""Sums, products, joins and moves of data: operators without weights."""

from __future__ import annotations

import math

from ..errors import GraphError, did_you_mean
from .base import Cost, Operator, Shape, inner_axis, number, register_operator, torch_axis

COMBINATIONS = {
    "divide": "({0} / {1})",
    "maximum": "torch.maximum({0}, {1})",
    "minimum": "torch.minimum({0}, {1})",
    "power": "({0} ** {1})",
}
SCALARS = {
    "add": "({0} + {value})",
    "subtract": "({0} - {value})",
    "subtract_from": "({value} - {0})",
    "multiply": "({0} * {value})",
    "divide": "({0} / {value})",
    "divide_into": "({value} / {0})",
    "power": "({0} ** {value})",
    "power_of": "(({value}) ** {0})",
}
FUNCTIONS = {
    "neg": "(-{0})",
    **{k: f"torch.{k}({{0}})" for k in ("abs", "ceil", "cos", "erf", "exp", "expm1", "floor", "log", "log1p")},
    **{k: f"torch.{k}({{0}})" for k in ("reciprocal", "round", "rsqrt", "sign", "sin", "sqrt", "square")},
}
TYPES = ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")


def broadcast(name: str, *shapes: Shape) -> Shape:
    """Shape of an element-wise result; shapes may lack leading axes and have ones, as in torch."""
    rank = max(len(s) for s in shapes)
    padded = [(1,) * (rank - len(s)) + s for s in shapes]
    out = []
    for sizes in zip(*padded, strict=True):
        wide = {n for n in sizes if n != 1}
        if len(wide) > 1:
            raise GraphError(f"{name} of shapes {' and '.join(map(str, shapes))}: they do not broadcast")
        out.append(max(wide, default=1))
    return tuple(out)


@register_operator("input")
class Input(Operator):
    """An input of the graph; `size` is its shape without the batch, `dtype` torch's name of its type."""

    size: tuple[int, ...]
    dtype: str = "float32"

    def shape(self, *inputs: Shape) -> Shape:
        if not self.size or min(self.size) < 1:
            raise GraphError(f"input of size {self.size}; positive numbers are allowed")
        return self.size

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return Cost()


@register_operator("identity")
class Identity(Operator):
    """Its input, unchanged (also dropout and drop-path outside training)."""

    view = True

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def expression(self, *names: str) -> str:
        return names[0]


@register_operator("zero")
class Zero(Operator):
    """Zeros of its input's shape."""

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def expression(self, *names: str) -> str:
        return f"torch.zeros_like({names[0]})"


@register_operator("dropout")
class Dropout(Operator):
    """Dropout in training, identity otherwise.

    `kind` is "element", "channel" (whole channels of `(C, ...)`) or "alpha" (for selu).
    """

    p: float = 0.5
    kind: str = "element"
    view = True

    def shape(self, *inputs: Shape) -> Shape:
        if self.kind not in ("element", "channel", "alpha"):
            raise GraphError(f"dropout of kind {self.kind!r}; 'element', 'channel' or 'alpha' is allowed")
        if self.kind == "channel" and not 2 <= len(inputs[0]) <= 4:
            raise GraphError(f"dropout of channels needs an input of 2 to 4 axes, got shape {inputs[0]}")
        return inputs[0]

    def constructor(self, *inputs: Shape) -> str:
        kinds = {"element": "Dropout", "alpha": "AlphaDropout", "channel": f"Dropout{len(inputs[0]) - 1}d"}
        return f"nn.{kinds[self.kind]}({self.p})"


@register_operator("drop_path")
class DropPath(Operator):
    """Stochastic depth: in training its input is left out with probability `p`, for each example by itself."""

    p: float = 0.1
    view = True

    def shape(self, *inputs: Shape) -> Shape:
        if not 0 <= self.p < 1:
            raise GraphError(f"drop_path takes a probability from 0 to below 1; got {self.p}")
        return inputs[0]

    def evaluated(self) -> Operator:
        return Identity()

    def constructor(self, *inputs: Shape) -> str:
        return f"StochasticDepth({self.p})"


@register_operator("add")
class Add(Operator):
    """Element-wise sum of two or more tensors, with broadcasting."""

    def shape(self, *inputs: Shape) -> Shape:
        return broadcast(self.name, *inputs)

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return self.moving(inputs, output, adds=(len(inputs) - 1) * math.prod(output))

    def expression(self, *names: str) -> str:
        return "(" + " + ".join(names) + ")"


@register_operator("multiply")
class Multiply(Operator):
    """Element-wise product of two or more tensors, with broadcasting."""

    def shape(self, *inputs: Shape) -> Shape:
        return broadcast(self.name, *inputs)

    def expression(self, *names: str) -> str:
        return "(" + " * ".join(names) + ")"


@register_operator("subtract")
class Subtract(Operator):
    """Element-wise difference of two tensors, with broadcasting."""

    def shape(self, *inputs: Shape) -> Shape:
        a, b = inputs
        return broadcast(self.name, a, b)

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return self.moving(inputs, output, adds=math.prod(output))

    def expression(self, *names: str) -> str:
        return f"({names[0]} - {names[1]})"


@register_operator("combine")
class Combine(Operator):
    """Another element-wise function of two tensors, with broadcasting; `kind` is a key of `COMBINATIONS`."""

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in COMBINATIONS:
            raise GraphError(f"unknown combination {self.kind!r}: {did_you_mean(self.kind, COMBINATIONS)}")

    def shape(self, *inputs: Shape) -> Shape:
        a, b = inputs
        return broadcast(self.name, a, b)

    def expression(self, *names: str) -> str:
        return COMBINATIONS[self.kind].format(*names)


@register_operator("scalar")
class Scalar(Operator):
    """A tensor and a number joined by `kind`, a key of `SCALARS`: x + 1, say, or 1 - x (which is "subtract_from").

    `whole` numbers leave tensors of whole numbers what they are.
    """

    kind: str
    value: float
    whole: bool = False

    def __post_init__(self) -> None:
        if self.kind not in SCALARS:
            raise GraphError(f"unknown kind {self.kind!r} of scalar: {did_you_mean(self.kind, SCALARS)}")

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        adds = math.prod(output) if self.kind in ("add", "subtract", "subtract_from") else 0
        return self.moving(inputs, output, adds=adds)

    def expression(self, *names: str) -> str:
        value = int(self.value) if self.whole else float(self.value)
        return SCALARS[self.kind].format(*names, value=number(value))


@register_operator("elementwise")
class Elementwise(Operator):
    """A function of each number; `kind` is a key of `FUNCTIONS`."""

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in FUNCTIONS:
            raise GraphError(f"unknown function {self.kind!r}: {did_you_mean(self.kind, FUNCTIONS)}")

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def expression(self, *names: str) -> str:
        return FUNCTIONS[self.kind].format(*names)


@register_operator("clamp")
class Clamp(Operator):
    """Numbers limited to `low` and `high`; None is no limit."""

    low: float | None = None
    high: float | None = None

    def shape(self, *inputs: Shape) -> Shape:
        if self.low is None and self.high is None:
            raise GraphError("clamp needs low, high or both")
        return inputs[0]

    def expression(self, *names: str) -> str:
        return f"torch.clamp({names[0]}, {number(self.low)}, {number(self.high)})"


@register_operator("cast")
class Cast(Operator):
    """The same numbers as another type, by torch's name of it."""

    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in TYPES:
            raise GraphError(f"unknown type {self.dtype!r}: {did_you_mean(self.dtype, TYPES)}")

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def expression(self, *names: str) -> str:
        return f"{names[0]}.to(torch.{self.dtype})"


@register_operator("normalize")
class Normalize(Operator):
    """Division by the `p`-norm over `axis` (without the batch), at least `eps`."""

    axis: int = 0
    p: float = 2.0
    eps: float = 1e-12

    def shape(self, *inputs: Shape) -> Shape:
        inner_axis(self.name, inputs[0], self.axis)
        return inputs[0]

    def expression(self, *names: str) -> str:
        return f"F.normalize({names[0]}, p={number(self.p)}, dim={torch_axis(self.axis)}, eps={self.eps})"


@register_operator("concat")
class Concat(Operator):
    """Tensors joined along `axis` (without the batch)."""

    axis: int = 0

    def shape(self, *inputs: Shape) -> Shape:
        axis = self.axis % len(inputs[0])
        rest = {s[:axis] + s[axis + 1 :] for s in inputs}
        if len(rest) != 1:
            raise GraphError(f"concat of shapes {inputs} along axis {axis}: the other axes differ")
        return (*inputs[0][:axis], sum(s[axis] for s in inputs), *inputs[0][axis + 1 :])

    def expression(self, *names: str) -> str:
        axis = self.axis if self.axis < 0 else self.axis + 1
        return f"torch.cat([{', '.join(names)}], {axis})"


@register_operator("flatten")
class Flatten(Operator):
    """All axes but the batch joined into one."""

    view = True

    def shape(self, *inputs: Shape) -> Shape:
        return (math.prod(inputs[0]),)

    def expression(self, *names: str) -> str:
        return f"torch.flatten({names[0]}, 1)"
