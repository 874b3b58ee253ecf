"""Learned and constant tensors of a network, and the operators that take their weights as inputs.

Every value of a graph has a batch axis in front, of the batch's size or of one, which broadcasts. A tensor of
shape (1, N, C), as position embeddings have, is such a value as it stands; one of another shape, (C,) or
(C, 1, 1), say, is read through `batch_of_one` only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import GraphError
from .base import Cost, Operator, Shape, inner_axis, need_rank, number, register_operator, torch_axis
from .convolution import Size, convolved


@register_operator("parameter")
class Parameter(Operator):
    """A learned tensor of shape `size`; the node's name is its name in state dicts.

    Its first axis counts as the batch axis, as for every value, so the node's shape is `size[1:]`.
    A fresh one is normal with a standard deviation of 0.02, as position embeddings are (Dosovitskiy et al. 2021).
    """

    size: tuple[int, ...]
    view = True

    def shape(self, *inputs: Shape) -> Shape:
        if any(n < 1 for n in self.size):
            raise GraphError(f"parameter of size {self.size}; positive numbers are allowed")
        return self.size[1:]

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return Cost(params=math.prod(self.size) if self.trainable else 0)

    def parameter(self) -> str:
        return f"0.02 * torch.randn({self.size})"


@register_operator("buffer")
class Buffer(Parameter):
    """A tensor that is loaded with the weights and not learned; `values`, or zeros, until then."""

    size: tuple[int, ...]
    dtype: str = "float32"
    values: tuple[float, ...] | None = None

    @property
    def trainable(self) -> bool:
        return False

    def parameter(self) -> str:
        if self.values is None:
            return f"torch.zeros({self.size}, dtype=torch.{self.dtype})"
        values = ", ".join(map(number, self.values))
        return f"torch.tensor([{values}], dtype=torch.{self.dtype}).reshape({self.size})"


@register_operator("constant")
class Constant(Buffer):
    """A tensor whose `values` are part of the graph (an index table, a mask); it is not in state dicts."""

    size: tuple[int, ...]
    dtype: str = "float32"
    values: tuple[float, ...] | None = None

    @property
    def persistent(self) -> bool:
        return False


@register_operator("unused")
class Unused(Operator):
    """A tensor that no node reads, kept so that the state dict of the module a graph was traced from can be loaded.

    Networks hold it and do not run it.
    """

    size: tuple[int, ...]
    dtype: str = "float32"
    learned: bool = True
    view = True

    def shape(self, *inputs: Shape) -> Shape:
        return self.size[1:]

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return Cost(params=math.prod(self.size) if self.learned else 0)

    @property
    def trainable(self) -> bool:
        return self.learned

    def parameter(self) -> str:
        return f"torch.zeros({self.size}, dtype=torch.{self.dtype})"


@register_operator("alias")
class Alias(Operator):
    """A second name in the state dict for a tensor or a module: the node's name stands for what is at path `of`."""

    of: str
    view = True

    def shape(self, *inputs: Shape) -> Shape:
        return ()

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return Cost()


@register_operator("batch_of_one")
class BatchOfOne(Operator):
    """A parameter or constant as a value of shape `size`, with a batch axis of one in front."""

    size: tuple[int, ...]
    view = True

    def shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        if math.prod(self.size) % math.prod(x):
            raise GraphError(f"a tensor of shape (?, {str(x)[1:]} cannot have shape {self.size}")
        return self.size

    def expression(self, *names: str) -> str:
        return f"{names[0]}.reshape({(1, *self.size)})"


@register_operator("again")
class Again(Operator):
    """The module of another node, called again: the operator `kind` with its `settings` and the weights at `slot`.

    The weights are counted where they are first used. In the body of a composite the slot is relative to that body, and
    each leading "^" leads one composite further out.
    """

    slot: str
    kind: str
    settings: tuple[tuple[str, Any], ...] = ()

    def _operator(self) -> Operator:
        from .base import make_operator

        return make_operator(self.kind, dict(self.settings))

    def shape(self, *inputs: Shape) -> Shape:
        return self._operator().shape(*inputs)

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        cost = self._operator().cost(inputs, output)
        return Cost(0, cost.macs, cost.adds, cost.shifts, cost.bytes_read, cost.bytes_written, cost.counted)

    def constructor(self, *inputs: Shape) -> str | None:
        return self._operator().constructor(*inputs)


@register_operator("embedding")
class Embedding(Operator):
    """Rows of a learned table: whole numbers `(...)` to `(..., features)`."""

    rows: int
    features: int

    def shape(self, *inputs: Shape) -> Shape:
        return (*inputs[0], self.features)

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        moved = self.moving((*inputs, output), output)  # only the rows that are asked for are read
        return Cost(self.rows * self.features, bytes_read=moved.bytes_read, bytes_written=moved.bytes_written)

    def constructor(self, *inputs: Shape) -> str:
        return f"nn.Embedding({self.rows}, {self.features})"


@register_operator("functional_embedding")
class FunctionalEmbedding(Operator):
    """Rows of the table `(rows, features)` that is the second input, the same for all examples."""

    def shape(self, *inputs: Shape) -> Shape:
        numbers, (_, features) = inputs
        return (*numbers, features)

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return self.moving((inputs[0], output), output)  # only the rows that are asked for are read

    def expression(self, *names: str) -> str:
        return f"F.embedding({names[0]}, {names[1]}[0])"


@register_operator("index_select")
class IndexSelect(Operator):
    """Entries of an axis, picked by the whole numbers `(n,)` of the second input, the same for all examples."""

    axis: int = 0

    def shape(self, *inputs: Shape) -> Shape:
        x, (n,) = inputs
        axis = inner_axis(self.name, x, self.axis)
        return (*x[:axis], n, *x[axis + 1 :])

    def expression(self, *names: str) -> str:
        return f"{names[0]}.index_select({torch_axis(self.axis)}, {names[1]}[0])"


@register_operator("functional_linear")
class FunctionalLinear(Operator):
    """Linear map of the last axis by a weight `(out, in)`, and a bias `(out,)`, that are inputs.

    They must be the same for all examples.
    """

    def shape(self, *inputs: Shape) -> Shape:
        x, (out_features, in_features) = inputs[:2]
        if x[-1] != in_features or any(b != (out_features,) for b in inputs[2:]):
            raise GraphError(f"linear map of shape {x} by weights of shapes {inputs[1:]}: they do not fit")
        return (*x[:-1], out_features)

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        adds = math.prod(output) if len(inputs) > 2 else 0
        return self.moving(inputs, output, macs=inputs[0][-1] * math.prod(output), adds=adds)

    def expression(self, *names: str) -> str:
        return f"F.linear({', '.join([names[0], *(f'{n}[0]' for n in names[1:])])})"


@dataclass(frozen=True)
class _FunctionalConv(Operator):
    """Convolution over the `axes` last axes whose weight and bias are inputs, the same for all examples."""

    axes: ClassVar[int]
    stride: Size = 1
    padding: Size = 0
    dilation: Size = 1
    groups: int = 1

    def shape(self, *inputs: Shape) -> Shape:
        x, (out_channels, in_channels, *kernel) = inputs[:2]
        need_rank(self.name, x, self.axes + 1)
        if x[0] != in_channels * self.groups or out_channels % self.groups:
            raise GraphError(f"convolution of shape {x} by weights of shape {inputs[1]} in {self.groups} groups")
        return (out_channels, *convolved(x[1:], tuple(kernel), self.stride, self.padding, self.dilation))

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        adds = math.prod(output) if len(inputs) > 2 else 0
        return self.moving(inputs, output, macs=math.prod(inputs[1]) * math.prod(output[1:]), adds=adds)

    def expression(self, *names: str) -> str:
        tensors = ", ".join([names[0], *(f"{n}[0]" for n in names[1:])])
        return (
            f"F.conv{self.axes}d({tensors}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups})"
        )


@register_operator("functional_conv1d")
class FunctionalConv1d(_FunctionalConv):
    """One-dimensional convolution by a weight `(out, in, k)`, and a bias `(out,)`, that are inputs."""

    axes = 1


@register_operator("functional_conv2d")
class FunctionalConv2d(_FunctionalConv):
    """Two-dimensional convolution by a weight `(out, in, kh, kw)`, and a bias `(out,)`, that are inputs."""

    axes = 2
