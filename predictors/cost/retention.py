"""What an operator keeps from the forward to the backward pass, and what it needs while either runs.

Rules say what torch and PyTorch Geometric do in float32: most layers keep their input, ReLU its output, sums nothing,
and graph convolutions whatever their messages cost them. Bytes are those of a batch of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from search_spaces.graph import Signature
from search_spaces.operators.base import FLOAT_BYTES, make_operator

_INDEX_BYTES = 8
_PART = 1 << 18  # numbers of messages that GENConv works on at a time, see `search_spaces.message_passing`


@dataclass(frozen=True, slots=True)
class Retention:
    """What one operator does to memory in training.

    Attributes:
        keeps: positions of the inputs that are kept.
        keeps_output: whether the output is kept.
        held: bytes kept beside these.
        forward: bytes allocated at the peak of the forward pass, output and `held` included.
        backward: bytes allocated at the peak of the backward pass beside gradients of inputs and weights.
        shares: the output has no storage of its own, but is (part of) the first input.
        passes: the gradient of the output is, as it stands, (part of) that of every input.
        cuts: no gradient goes through it.
    """

    keeps: tuple[int, ...] = ()
    keeps_output: bool = False
    held: int = 0
    forward: int = 0
    backward: int = 0
    shares: bool = False
    passes: bool = False
    cuts: bool = False


def retention(signature: Signature) -> tuple[Retention, bool]:
    """The rule of a primitive operator, and whether there is one; without, it is said to keep its inputs."""
    if signature.operator.name == "again":
        settings = signature.operator.attributes
        return retention(Signature.of(make_operator(settings["kind"], dict(settings["settings"])), signature.inputs))
    name = signature.operator.name
    if name in _RULES:
        return _RULES[name](signature), True
    if signature.operator.parameter() is not None or (signature.operator.view and name not in _DROPPING):
        return Retention(shares=True, passes=True), True
    every = tuple(range(len(signature.inputs)))
    return Retention(every, forward=_output(signature)), name in _KEEPING


def numbers(*shape: int) -> int:
    """Bytes of so many numbers in float32."""
    return FLOAT_BYTES * math.prod(shape)


def _output(s: Signature) -> int:
    return numbers(*s.shape)


def _keeps_nothing(s: Signature) -> Retention:
    return Retention(forward=_output(s))


def _keeps_input(s: Signature) -> Retention:
    return Retention((0,), forward=_output(s))


def _keeps_output(s: Signature) -> Retention:
    return Retention(keeps_output=True, forward=_output(s))


def _sum(s: Signature) -> Retention:
    """Gradients of sums and joins go on as they are."""
    return Retention(forward=_output(s), passes=True)


def _product(s: Signature) -> Retention:
    """Both factors; a gradient that is summed over an axis is formed in full first."""
    return Retention(tuple(range(len(s.inputs))), forward=_output(s), backward=_output(s))


def _convolution(s: Signature) -> Retention:
    """Kernels larger than a point run in a layout of their own, to and from which maps are copied."""
    settings, out = s.operator.attributes, _output(s)
    kernel = settings["kernel_size"]
    point = (max(kernel) if isinstance(kernel, tuple) else kernel) == 1
    if point and settings["groups"] == 1:
        return _keeps_input(s)
    return Retention((0,), forward=2 * out, backward=out + numbers(*s.inputs[0]))


def _norm(s: Signature) -> Retention:
    """Its input; what it keeps of means is nothing beside it."""
    return Retention((0,), forward=_output(s), backward=_output(s))


def _layer_norm(s: Signature) -> Retention:
    rows = math.prod(s.shape[: len(s.shape) - s.operator.attributes.get("axes", 1)])
    return Retention((0,), held=2 * numbers(rows), forward=_output(s) + 2 * numbers(rows))


def _activation(s: Signature) -> Retention:
    kept = s.operator.attributes["kind"] in ("relu", "leaky_relu", "sigmoid", "tanh", "elu", "selu")
    return _keeps_output(s) if kept else _keeps_input(s)


def _max_pool(s: Signature) -> Retention:
    positions = _INDEX_BYTES * math.prod(s.shape)
    return Retention((0,), held=positions, forward=_output(s) + positions)


def _resize(s: Signature) -> Retention:
    return Retention(forward=_output(s) + numbers(*s.inputs[0]))


def _dropout(s: Signature) -> Retention:
    """A mask as large as the features."""
    return Retention(held=_output(s), forward=2 * _output(s))


def _masked(s: Signature) -> Retention:
    return Retention((1,), forward=_output(s))


def _mask(s: Signature) -> Retention:
    return Retention(forward=2 * _output(s), cuts=True)


def _zero(s: Signature) -> Retention:
    return Retention(forward=_output(s), cuts=True)


# ---- graph convolutions ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes: features of nodes before (ni) and after (no), of edges (ei, eo) with and without loops (li, lo)."""

    ni: int
    no: int
    ei: int
    eo: int
    li: int
    lo: int
    edges: int  # with loops
    heads: int
    attributes: int  # features of an edge
    normed: bool


def _graph_conv(s: Signature) -> Retention:
    (n, i), (_, e), *attributes = s.inputs
    o, settings = s.shape[1], s.operator.attributes
    sizes = _Sizes(
        ni=numbers(n, i),
        no=numbers(n, o),
        ei=numbers(e, i),
        eo=numbers(e, o),
        li=numbers(n + e, i),
        lo=numbers(n + e, o),
        edges=n + e,
        heads=settings["heads"],
        attributes=attributes[0][1] if attributes else 0,
        normed=settings["norm"] != "none",
    )
    keeps, held, forward, backward = _CONVOLUTIONS[settings["kind"]](sizes)
    return Retention(keeps, held=held, forward=forward, backward=backward)


_Rule = Callable[[_Sizes], tuple[tuple[int, ...], int, int, int]]  # keeps, held, forward, backward


def _gcn(z: _Sizes) -> tuple[tuple[int, ...], int, int, int]:
    """Edges with loops and their weights; messages and weighted messages live while they are summed."""
    held = z.edges * (2 * _INDEX_BYTES + FLOAT_BYTES)
    return (0,), held, held + 2 * z.no + 2 * z.lo, 2 * z.lo


def _sage(z: _Sizes) -> tuple[tuple[int, ...], int, int, int]:
    return (0,), z.ni, z.ni + z.no + z.ei, z.ei + z.ni


def _gat(z: _Sizes) -> tuple[tuple[int, ...], int, int, int]:
    """Weighted messages have two factors, so the messages themselves are kept; with features of edges those as well."""
    held = z.no + z.lo + z.edges * (2 * _INDEX_BYTES + 4 * FLOAT_BYTES * z.heads)
    if z.attributes:
        held += z.lo + z.edges * (2 * _INDEX_BYTES + FLOAT_BYTES * z.attributes)
    return (0,), held, held + z.no + z.lo, 3 * z.lo


def _gen(z: _Sizes) -> tuple[tuple[int, ...], int, int, int]:
    """Sums of the softmax, its result, and what the perceptron of twice the width keeps."""
    inner = (4 if z.normed else 2) * z.no
    held = 3 * z.ni + inner
    perceptron = 3 * z.ni + (6 if z.normed else 4) * z.no
    if z.attributes:
        part = min(z.ei, numbers(_PART))
        return (0, 2), held, max(perceptron, 3 * part + z.ni), max(2 * part + 2 * z.ni - inner, 4 * z.no)
    parts = min(z.ei, 2 * numbers(_PART))  # the next one is made before the last is gone
    return (0,), held, max(perceptron, 4 * z.ni + parts), max(5 * z.ni + parts - inner, 4 * z.no)


def _gin(z: _Sizes) -> tuple[tuple[int, ...], int, int, int]:
    return (), z.ni + z.no, max(z.ei + z.ni, z.ni + 2 * z.no), z.ei + z.ni


def _gin_linear(z: _Sizes) -> tuple[tuple[int, ...], int, int, int]:
    return (), z.ni, max(z.ei + z.ni, z.ni + z.no), z.ei + z.ni


def _cheb(z: _Sizes) -> tuple[tuple[int, ...], int, int, int]:
    held = z.ni + z.edges * (2 * _INDEX_BYTES + FLOAT_BYTES)
    return (0,), held, held + z.no + 2 * z.li, 2 * z.li


def _arma(z: _Sizes) -> tuple[tuple[int, ...], int, int, int]:
    return (0,), z.no + z.edges * FLOAT_BYTES, 2 * z.no + 2 * z.eo, 2 * z.eo


def _graph(z: _Sizes) -> tuple[tuple[int, ...], int, int, int]:
    return (0,), z.ni, max(z.ei + z.ni, z.ni + z.no), z.ei + z.ni


_CONVOLUTIONS: dict[str, _Rule] = {
    "gcn": _gcn,
    "sage": _sage,
    "gat": _gat,
    "gen": _gen,
    "gin": _gin,
    "gin_linear": _gin_linear,
    "cheb": _cheb,
    "arma": _arma,
    "graph": _graph,
}

_DROPPING = ("dropout", "drop_path", "variational_dropout", "masked", "dropout_mask")
_KEEPING = ("matmul", "einsum", "combine", "scaled_dot_product_attention", "functional_linear")

_RULES: dict[str, Callable[[Signature], Retention]] = {
    **dict.fromkeys(("input", "mean", "scalar", "pad", "roll", "flip", "normalize", "clamp"), _keeps_nothing),
    **dict.fromkeys(("channel_shuffle", "tile", "pixel_shuffle", "pixel_unshuffle", "drop_path"), _keeps_nothing),
    **dict.fromkeys(("linear", "prelu", "adaptive_avg_pool1d", "adaptive_avg_pool2d"), _keeps_input),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "embedding", "functional_embedding", "elementwise"), _keeps_input),
    **dict.fromkeys(("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"), _convolution),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d"), _max_pool),
    **dict.fromkeys(("batch_norm", "node_batch_norm", "instance_norm", "group_norm", "rms_norm"), _norm),
    **dict.fromkeys(("add", "subtract", "concat"), _sum),
    **dict.fromkeys(("dropout", "variational_dropout"), _dropout),
    "zero": _zero,
    "layer_norm": _layer_norm,
    "activation": _activation,
    "softmax": _keeps_output,
    "multiply": _product,
    "resize": _resize,
    "masked": _masked,
    "dropout_mask": _mask,
    "graph_conv": _graph_conv,
}
