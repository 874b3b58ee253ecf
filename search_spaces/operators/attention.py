"""Products of two activations: matrix products and attention. A product of one example is counted, as everywhere."""

from __future__ import annotations

import math

from ..errors import GraphError
from .arithmetic import broadcast
from .base import Cost, Operator, Shape, number, register_operator


@register_operator("matmul")
class MatMul(Operator):
    """Matrix products of the last two axes, `(..., n, k)` by `(..., k, m)`; leading axes broadcast."""

    def shape(self, *inputs: Shape) -> Shape:
        a, b = inputs
        if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
            raise GraphError(f"matmul of shapes {a} and {b}: (..., n, k) and (..., k, m) are allowed")
        return (*broadcast(self.name, a[:-2], b[:-2]), a[-2], b[-1])

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return self.moving(inputs, output, macs=math.prod(output) * inputs[0][-1])

    def expression(self, *names: str) -> str:
        return f"({names[0]} @ {names[1]})"


@register_operator("einsum")
class Einsum(Operator):
    """Einstein sum of tensors; the first letter of each term of `equation` is the batch axis.

    MACs are the product of all sizes for two tensors, as one matrix product does them; more tensors are not counted.
    """

    equation: str

    def _sizes(self, *inputs: Shape) -> dict[str, int]:
        terms, _, result = self.equation.partition("->")
        sizes: dict[str, int] = {}
        for term, x in zip(terms.split(","), inputs, strict=True):
            if len(term) != len(x) + 1 or term[0] != result[:1] or not term.isalpha():
                raise GraphError(
                    f"einsum {self.equation!r} of shapes {inputs}: every term needs the batch axis in front"
                )
            for letter, n in zip(term[1:], x, strict=True):
                if sizes.setdefault(letter, n) != n:
                    raise GraphError(f"einsum {self.equation!r} of shapes {inputs}: two sizes for {letter!r}")
        return sizes

    def shape(self, *inputs: Shape) -> Shape:
        sizes = self._sizes(*inputs)
        return tuple(sizes[letter] for letter in self.equation.partition("->")[2][1:])

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        moved = self.moving(inputs, output)
        macs = math.prod(self._sizes(*inputs).values()) if len(inputs) == 2 else 0
        return Cost(0, macs, 0, 0, moved.bytes_read, moved.bytes_written, len(inputs) <= 2)

    def expression(self, *names: str) -> str:
        return f'torch.einsum("{self.equation}", {", ".join(names)})'


@register_operator("scaled_dot_product_attention")
class ScaledDotProductAttention(Operator):
    """softmax(Q K^T * scale + mask) V of queries `(..., n, d)`, keys `(..., m, d)`, values `(..., m, e)`.

    (Vaswani et al. 2017, equation 1.) A mask is the optional fourth input; `scale` of None is d ** -0.5.
    """

    causal: bool = False
    scale: float | None = None

    def shape(self, *inputs: Shape) -> Shape:
        q, k, v = inputs[:3]
        if len(q) < 2 or q[-1] != k[-1] or k[-2] != v[-2] or not q[:-2] == k[:-2] == v[:-2]:
            raise GraphError(f"attention of queries {q}, keys {k} and values {v}: they do not fit")
        for mask in inputs[3:]:
            if broadcast(self.name, mask, (*q[:-1], k[-2])) != (*q[:-1], k[-2]):
                raise GraphError(f"attention of queries {q} and keys {k} with a mask of shape {mask}")
        return (*q[:-1], v[-1])

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        q, k, v = inputs[:3]
        macs = math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])
        return self.moving(inputs, output, macs=macs)

    def expression(self, *names: str) -> str:
        mask = f", attn_mask={names[3]}" if len(names) > 3 else ""
        more = (", is_causal=True" if self.causal else "") + (
            "" if self.scale is None else f", scale={number(self.scale)}"
        )
        return f"F.scaled_dot_product_attention({', '.join(names[:3])}{mask}{more})"
