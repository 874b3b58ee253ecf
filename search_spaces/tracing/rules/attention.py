"""Rules of matrix products and attention."""

from __future__ import annotations

from typing import Any

from ...graph import Node
from ..layout import Layout, Unsupported, Value
from ..translator import Translator, rule


@rule("matmul", "bmm", "mm")
def _matmul(t: Translator, input: Value, other: Value) -> Node:
    values = (input, other)
    if any(len(v.layout.sizes) < 2 for v in values):
        raise Unsupported("a product with a vector")
    rank = len(t.out.sizes)
    if t.out.batch is not None and t.out.batch >= rank - 2:
        raise Unsupported("a matrix product over the batch")
    nodes = []
    for value in values:
        wanted = value.layout.aligned(t.out)
        if t.out.batch is not None and value.layout.batch is None and not _leads(value, t):
            raise Unsupported("a matrix product over the batch")
        nodes.append(t.shaped(value, wanted))
    return t.add("matmul", *nodes)


def _leads(value: Value, t: Translator) -> bool:
    """Whether a value without a batch has one entry, or no axis at all, where the result has the batch."""
    sizes, _ = value.layout.padded(len(t.out.sizes))
    return sizes[t.out.batch] == 1


@rule("einsum")
def _einsum(t: Translator, equation: str, *operands: Any) -> Node:
    tensors = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], tuple | list) else list(operands)
    terms, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow or "." in equation or any(v.layout.joined for v in tensors) or not t.out.plain:
        raise Unsupported(f"the equation {equation!r}")
    batch, written = result[0], []
    for term, value in zip(terms.split(","), tensors, strict=True):
        if value.layout.batch is None and batch not in term:
            written.append(batch + term)
        elif value.layout.batch is not None and term[value.layout.batch] == batch:
            written.append(batch + term.replace(batch, ""))
        else:
            raise Unsupported(f"the equation {equation!r}")
    return t.add("einsum", *map(t.node, tensors), equation=f"{','.join(written)}->{result}")


@rule("scaled_dot_product_attention")
def _attention(
    t: Translator, query: Value, key: Value, value: Value, attn_mask: Value | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Node:  # fmt: skip
    if dropout_p or enable_gqa:
        raise Unsupported("attention with dropout or grouped queries")
    inputs = [query, key, value]
    if (
        any(v.layout.batch != t.out.batch or v.layout.batch is None for v in inputs)
        or t.out.batch > len(t.out.sizes) - 3
    ):
        raise Unsupported("attention over the batch")
    nodes = [t.node(v) for v in inputs]
    if attn_mask is not None:
        scores = Layout((*t.out.sizes[:-1], key.layout.sizes[-2]), t.out.batch, t.out.dtype)
        nodes.append(t.shaped(attn_mask, attn_mask.layout.aligned(scores)))
    return t.add(
        "scaled_dot_product_attention", *nodes, causal=is_causal, scale=None if scale is None else float(scale)
    )


@rule("multi_head_attention_forward")
def _multi_head_attention(
    t: Translator, query: Value, key: Value, value: Value, embed_dim: int, num_heads: int,
    in_proj_weight: Value | None, in_proj_bias: Value | None, bias_k: Any, bias_v: Any, add_zero_attn: bool,
    dropout_p: float, out_proj_weight: Value, out_proj_bias: Value | None, **options: Any,
) -> tuple[Any, None]:  # fmt: skip
    """`nn.MultiheadAttention` in its parts, as long as no masks are given and no weights are read.

    Values lie as (length, batch, features), so their nodes have shape (length, features).
    """
    needless = {"need_weights", "average_attn_weights"}
    unusual = [v for k, v in options.items() if k not in needless] + [bias_k, bias_v, add_zero_attn]
    if in_proj_weight is None or any(v is not None and v is not False for v in unusual):
        raise Unsupported("attention with masks, or projections of several sizes")
    if any(len(user.args) < 2 or user.args[1] != 0 for user in t.call.users):
        raise Unsupported("the weights of attention")
    if any(v.layout.batch != 1 or v.layout.joined or len(v.layout.sizes) != 3 for v in (query, key, value)):
        raise Unsupported("attention without a batch")
    heads = [_head(t, x, in_proj_weight, in_proj_bias, part, num_heads) for part, x in enumerate((query, key, value))]
    mixed = t.add("scaled_dot_product_attention", *heads)
    length, width = query.layout.shape
    joined = t.reshape(t.add("permute", mixed, axes=(1, 0, 2)), (length, width))
    path = t.owner({"weight": out_proj_weight, "bias": out_proj_bias})
    if path is None:
        raise Unsupported("attention with a computed projection")
    return t.layer(path, "linear", joined, out_features=width, bias=out_proj_bias is not None), None


def _head(t: Translator, x: Value, weight: Any, bias: Any, part: int, heads: int) -> Node:
    """Queries, keys or values as (heads, length, width of a head): a third of the stacked projections each."""
    width = x.layout.shape[-1]
    first, last = part * width, (part + 1) * width
    weights = [t.add("slice", t.node(w), axis=0, start=first, stop=last) for w in (weight, bias) if w is not None]
    projected = t.add("functional_linear", t.node(x), *weights)
    split = t.add("reshape", projected, size=(x.layout.shape[0], heads, width // heads))
    return t.add("permute", split, axes=(1, 0, 2))
