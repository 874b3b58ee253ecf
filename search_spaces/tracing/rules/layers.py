"""Rules of layers with weights. Where one sub-module has all the weights of a call, it becomes a node of its name.

Otherwise (weights that are computed, or read in several places) the weights are inputs of the operator.
"""

from __future__ import annotations

from typing import Any

from ...graph import Node
from ...operators.base import Shape, spread
from ..layout import Unsupported, Value
from ..translator import Translator, rule
from .pooling import compact, plain


@rule("linear")
def _linear(t: Translator, input: Value, weight: Value, bias: Value | None = None) -> Node:
    if input.layout.batch == len(input.layout.sizes) - 1 or len(weight.layout.sizes) != 2:
        raise Unsupported("a linear map over the batch")
    path = t.owner({"weight": weight, "bias": bias})
    if path is not None:
        features, bare = weight.layout.sizes[0], bias is None
        return t.layer(path, "linear", t.node(input), out_features=features, bias=not bare)
    return t.add("functional_linear", t.node(input), *_shared(t, weight, bias))


def _shared(t: Translator, *weights: Value | None) -> list[Node]:
    """Nodes of weights, which must be the same for all examples."""
    given = [w for w in weights if w is not None]
    if any(w.layout.batch is not None for w in given):
        raise Unsupported("other weights for each example")
    return [t.node(w) for w in given]


@rule("conv1d", "conv2d")
def _conv(
    t: Translator, input: Value, weight: Value, bias: Value | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Node:  # fmt: skip
    x, kernel = plain(t, input), weight.layout.sizes[2:]
    if isinstance(padding, str):
        x, padding = _string_padding(t, x, padding, kernel, dilation)
    sizes = {"stride": compact(stride), "padding": compact(padding), "dilation": compact(dilation)}
    path = t.owner({"weight": weight, "bias": bias})
    if path is None:
        return t.add(f"functional_{t.name}", x, *_shared(t, weight, bias), groups=groups, **sizes)
    out_channels = weight.layout.sizes[0]
    more = {"out_channels": out_channels, "kernel_size": compact(kernel), "groups": groups, "bias": bias is not None}
    return t.layer(path, t.name, x, **more, **sizes)


def _string_padding(t: Translator, x: Node, padding: str, kernel: Shape, dilation: Any) -> tuple[Node, Any]:
    """torch's "same" and "valid" in numbers; a border that is wider at its end gets a node of its own."""
    if padding == "valid":
        return x, 0
    whole = [d * (k - 1) for k, d in zip(kernel, spread(compact(dilation), len(kernel)), strict=True)]
    if all(w % 2 == 0 for w in whole):
        return x, [w // 2 for w in whole]
    border = [side for w in reversed(whole) for side in (w // 2, w - w // 2)]
    return t.add("pad", x, name=t.free_name("pad"), padding=tuple(border)), 0


@rule("conv_transpose1d", "conv_transpose2d")
def _conv_transpose(
    t: Translator, input: Value, weight: Value, bias: Value | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Node:  # fmt: skip
    path = t.owner({"weight": weight, "bias": bias})
    if path is None:
        raise Unsupported("a transposed convolution with computed weights")
    _, per_group, *kernel = weight.layout.sizes
    sizes = {"kernel_size": kernel, "stride": stride, "padding": padding, "output_padding": output_padding}
    more = {k: compact(v) for k, v in {**sizes, "dilation": dilation}.items()}
    channels = {"out_channels": per_group * groups, "groups": groups, "bias": bias is not None}
    return t.layer(path, t.name, plain(t, input), **channels, **more)


@rule("embedding")
def _embedding(
    t: Translator, input: Value, weight: Value, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Node:  # fmt: skip
    if max_norm is not None or scale_grad_by_freq or sparse or not input.layout.plain:
        raise Unsupported("an embedding with max_norm, scale_grad_by_freq or sparse")
    path = t.owner({"weight": weight})
    if path is None:
        return t.add("functional_embedding", t.node(input), *_shared(t, weight))
    rows, features = weight.layout.sizes
    return t.layer(path, "embedding", t.node(input), rows=rows, features=features)


@rule("prelu")
def _prelu(t: Translator, input: Value, weight: Value) -> Node:
    path = t.owner({"weight": weight})
    if path is None:
        raise Unsupported("prelu with computed slopes")
    return t.layer(path, "prelu", plain(t, input), slopes=weight.layout.sizes[0])


@rule("_weight_norm")
def _weight_norm(t: Translator, v: Value, g: Value, dim: int = 0) -> Node:
    """A direction and a length (Salimans and Kingma 2016, equation 2); `dim` is the axis that keeps its lengths."""
    rest = tuple(v.layout.axis(d) for d in range(len(v.layout.sizes)) if d != dim)
    length = t.add("reduce", t.node(v), kind="norm", axes=rest, keepdim=True)
    return t.add("multiply", t.node(v), t.add("combine", t.node(g), length, kind="divide"))


# ---- normalisation ----------------------------------------------------------------------------------------


@rule("batch_norm")
def _batch_norm(
    t: Translator, input: Value, running_mean: Value | None, running_var: Value | None, weight: Value | None = None,
    bias: Value | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Node:  # fmt: skip
    tensors = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    path = t.owner(tensors)
    if path is None and input.layout.batch is None and training and running_mean is None:
        return _standardized(t, input, weight, bias, eps)
    if path is None or training is not (running_mean is None) or (weight is None) is not (bias is None):
        raise Unsupported("a batch normalisation with tensors of several modules")
    momentum = getattr(t.part(path), "momentum", momentum)  # the call has the factor of this very step
    attributes = {"eps": float(eps), "momentum": momentum, "affine": weight is not None}
    if running_mean is None:
        attributes["track_running_stats"] = False
    if not (input.layout.joined and input.layout.batch == 0):
        return t.layer(path, "batch_norm", plain(t, input), **attributes)
    rest = range(2, len(input.layout.sizes))  # what is joined to the batch is one more axis to take statistics over
    x = t.add("permute", t.node(input), name=t.free_name("permute"), axes=(1, 0, *rest))
    x = t.layer(path, "batch_norm", x, **attributes)
    return t.add("permute", x, axes=(1, 0, *rest))


def _standardized(t: Translator, input: Value, weight: Value | None, bias: Value | None, eps: float) -> Node:
    """Statistics over all but axis 1 of a weight `(1, channels, numbers)`, as weight standardisation takes them."""
    if len(input.layout.sizes) != 3 or input.layout.sizes[0] != 1:
        raise Unsupported(f"batch normalisation of a weight of sizes {input.layout.sizes}")
    x = t.add("layer_norm", t.node(input), affine=False, eps=float(eps))
    return _scaled(t, x, weight, bias, (1, input.layout.sizes[1], 1))


def _scaled(t: Translator, x: Node, weight: Value | None, bias: Value | None, shape: Shape) -> Node:
    """Scale and shift by weights that are no layer's own."""
    for operator, value in (("multiply", weight), ("add", bias)):
        if value is not None:
            _shared(t, value)
            x = t.add(operator, x, t.shaped(value, shape))
    return x


@rule("layer_norm")
def _layer_norm(
    t: Translator, input: Value, normalized_shape: Any, weight: Value | None = None, bias: Value | None = None,
    eps: float = 1e-5, cudnn_enable: bool = True,
) -> Node:  # fmt: skip
    axes = _last_axes(input, normalized_shape)
    path = t.owner({"weight": weight, "bias": bias}) if weight is not None else None
    if path is not None:
        return t.layer(path, "layer_norm", t.node(input), axes=axes, eps=float(eps), affine=True, bias=bias is not None)
    x = t.add("layer_norm", t.node(input), axes=axes, eps=float(eps), affine=False)
    return _scaled(t, x, weight, bias, (1,) * (len(x.shape) - axes) + x.shape[len(x.shape) - axes :])


@rule("rms_norm")
def _rms_norm(
    t: Translator, input: Value, normalized_shape: Any, weight: Value | None = None, eps: float | None = None
) -> Node:
    axes, eps = _last_axes(input, normalized_shape), None if eps is None else float(eps)
    path = t.owner({"weight": weight}) if weight is not None else None
    if path is not None:
        return t.layer(path, "rms_norm", t.node(input), axes=axes, eps=eps, affine=True)
    x = t.add("rms_norm", t.node(input), axes=axes, eps=eps, affine=False)
    return _scaled(t, x, weight, None, (1,) * (len(x.shape) - axes) + x.shape[len(x.shape) - axes :])


def _last_axes(input: Value, normalized_shape: Any) -> int:
    axes = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
    if input.layout.batch is not None and input.layout.batch >= len(input.layout.sizes) - axes:
        raise Unsupported("a normalisation over the batch")
    return axes


@rule("group_norm")
def _group_norm(
    t: Translator, input: Value, num_groups: int, weight: Value | None = None, bias: Value | None = None,
    eps: float = 1e-5, cudnn_enabled: bool = True,
) -> Node:  # fmt: skip
    path = t.owner({"weight": weight, "bias": bias}) if weight is not None and bias is not None else None
    if path is not None:
        return t.layer(path, "group_norm", plain(t, input), groups=num_groups, eps=float(eps), affine=True)
    x = t.add("group_norm", plain(t, input), groups=num_groups, eps=float(eps), affine=False)
    return _scaled(t, x, weight, bias, (x.shape[0], *(1,) * (len(x.shape) - 1)))


@rule("instance_norm")
def _instance_norm(
    t: Translator, input: Value, running_mean: Value | None = None, running_var: Value | None = None,
    weight: Value | None = None, bias: Value | None = None, use_input_stats: bool = True, momentum: float = 0.1,
    eps: float = 1e-5,
) -> Node:  # fmt: skip
    if running_mean is not None or not use_input_stats:
        raise Unsupported("an instance normalisation with running statistics")
    path = t.owner({"weight": weight, "bias": bias}) if weight is not None and bias is not None else None
    if path is not None:
        return t.layer(path, "instance_norm", plain(t, input), eps=float(eps), affine=True)
    x = t.add("instance_norm", plain(t, input), eps=float(eps), affine=False)
    return _scaled(t, x, weight, bias, (x.shape[0], *(1,) * (len(x.shape) - 1)))
