"""Rules of pooling, reductions and resizing."""

from __future__ import annotations

from typing import Any

from ...graph import Node
from ..layout import Layout, Unsupported, Value
from ..translator import Translator, rule


def plain(t: Translator, value: Value) -> Node:
    """The node of a value whose first axis is the batch and nothing but the batch, or a batch of one."""
    if value.layout.batch is None and value.layout.sizes[:1] == (1,):
        return t.shaped(value, value.layout.sizes[1:])
    if not value.layout.plain:
        raise Unsupported("the batch is not the first axis")
    return t.node(value)


def compact(value: Any) -> Any:
    """A number for equal numbers, a tuple for others; what is no number is refused."""
    values = (value,) if isinstance(value, int) else tuple(value)
    if not all(isinstance(v, int) for v in values):
        raise Unsupported(f"sizes {values}")
    return values[0] if len(set(values)) == 1 else values


@rule("max_pool1d", "max_pool2d")
def _max_pool(
    t: Translator, input: Value, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Node:  # fmt: skip
    if return_indices:
        raise Unsupported("pooling with indices")
    stride = compact(stride or kernel_size)
    sizes = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
    return t.add(t.name, plain(t, input), ceil_mode=ceil_mode, **{k: compact(v) for k, v in sizes.items()})


@rule("avg_pool1d", "avg_pool2d")
def _avg_pool(
    t: Translator, input: Value, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Node:  # fmt: skip
    if divisor_override is not None:
        raise Unsupported("pooling with another divisor")
    sizes = {"kernel_size": kernel_size, "stride": stride or kernel_size, "padding": padding}
    more = {k: compact(v) for k, v in sizes.items()}
    return t.add(t.name, plain(t, input), ceil_mode=ceil_mode, count_include_pad=count_include_pad, **more)


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d")
def _adaptive_pool(t: Translator, input: Value, output_size: Any, return_indices: bool = False) -> Node:
    if return_indices:
        raise Unsupported("pooling with indices")
    return t.add(t.name, plain(t, input), output_size=compact(t.out.shape[1:]))


@rule("interpolate")
def _interpolate(
    t: Translator, input: Value, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> Node:  # fmt: skip
    """A factor is the same as a size where it gives a whole number of pixels."""
    x = plain(t, input)
    factors = scale_factor if isinstance(scale_factor, tuple | list) else (scale_factor,) * (len(x.shape) - 1)
    exact = all(f is None or n * f == m for n, m, f in zip(x.shape[1:], t.out.shape[1:], factors, strict=True))
    if not exact and not recompute_scale_factor:
        raise Unsupported(f"resizing by {scale_factor}, which is not a whole number of pixels")
    size = compact(t.out.shape[1:])
    return t.add("resize", x, size=size, mode=mode, align_corners=bool(align_corners), antialias=antialias)


def _axes(layout: Layout, dim: Any) -> tuple[int, ...]:
    if dim is None:
        raise Unsupported("a reduction over the batch")
    return tuple(layout.axis(d) for d in ((dim,) if isinstance(dim, int) else dim))


@rule("mean")
def _mean(t: Translator, input: Value, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Node:
    if t.out.dtype != input.layout.dtype:
        raise Unsupported(f"a mean as {t.out.dtype}")
    return t.add("mean", t.node(input), axes=_axes(input.layout, dim), keepdim=keepdim)


@rule("sum", "logsumexp", "amax", "amin")
def _reduce(t: Translator, input: Value, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Node:
    if dtype is not None and t.out.dtype != input.layout.dtype:
        raise Unsupported(f"a {t.name} as {t.out.dtype}")
    return t.add("reduce", t.node(input), kind=t.name, axes=_axes(input.layout, dim), keepdim=keepdim)


@rule("norm", "vector_norm", "linalg_vector_norm")
def _norm(
    t: Translator, input: Value, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None, *, ord: Any = 2
) -> Node:
    if (p, ord) != (2, 2) or dtype is not None:
        raise Unsupported(f"a norm of order {p}")
    return t.add("reduce", t.node(input), kind="norm", axes=_axes(input.layout, dim), keepdim=keepdim)


@rule("max", "min")
def _extreme(t: Translator, input: Value, dim: Any = None, keepdim: bool = False) -> Any:
    """Over one dimension torch gives positions too, which no operator does; two tensors are compared."""
    if isinstance(dim, Value):
        return t.add("combine", *t.aligned(input, dim), kind=f"{t.name}imum")
    if dim is None or not all(_first(user) for user in t.call.users):
        raise Unsupported("positions of the largest values")
    axes = _axes(input.layout, dim)
    return t.add("reduce", t.node(input), kind=f"a{t.name}", axes=axes, keepdim=keepdim), None


def _first(user: Any) -> bool:
    return len(user.args) > 1 and user.args[1] in (0, "values")


@rule("var", "std")
def _variance(
    t: Translator,
    input: Value,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> Node:
    axes = _axes(input.layout, dim)
    correction = int(unbiased) if correction is None else int(correction)
    return t.add("reduce", t.node(input), kind=t.name, axes=axes, keepdim=keepdim, correction=correction)
