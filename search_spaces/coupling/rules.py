"""What each operator does with labels. An operator without a rule fixes what it reads."""

from __future__ import annotations

import numpy as np

from ..graph import Node, Signature, slot
from ..operators.base import inner_axis, make_operator
from .labels import FIXED, Flow, Labels, rule, rules, run, spread, squeeze, whole

__all__ = ["run"]


def fixed(node: Node) -> Labels:
    """Labels of a value that cannot be cut."""
    return np.full((1,) * len(node.shape), FIXED)


# ---- weights -----------------------------------------------------------------------------------------------


@rule("input", "constant", "zero")
def _uncuttable(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    return fixed(node)


@rule("parameter", "buffer")
def _tensor(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    """An atom for each number; the first axis, which counts as the batch, is kept apart.

    Weights that the network computes before it uses them (standardised ones, say) are not cut.
    """
    size = node.attributes["size"]
    if node.name in flow.computed:
        return fixed(node)
    labels = flow.fresh(*size)
    flow.bare[node.name] = labels
    if size[0] == 1:
        return labels[0]
    return labels  # only `batch_of_one` can read it


@rule("batch_of_one")
def _batch_of_one(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    labels = flow.bare.get(node.inputs[0])
    return fixed(node) if labels is None else labels.reshape(node.shape)


@rule("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d")
def _convolution(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    groups = node.attributes["groups"]
    channels, out = node.signature.inputs[0][0], node.shape[0]
    many = groups >= channels // groups
    if groups > 1 and (many or not (flow.exact or _pointwise(node))):
        return _whole_groups(flow, node, inputs[0], channels, out)
    read, atoms = flow.read(node, 0, 0), np.tile(flow.fresh(out // groups), groups)
    if groups > 1:
        flow.merge(read.reshape(groups, -1), 1)
    if node.operator.startswith("conv_transpose"):
        axes = read, atoms[: out // groups]
    else:
        axes = atoms, read[: channels // groups]
    return _made(flow, node, atoms, axes)


def _pointwise(node: Node) -> bool:
    """Whether a kernel is one pixel: such groups are few for good (a shuffle follows); others are of one width."""
    size = node.attributes["kernel_size"]
    return size == 1 or (isinstance(size, tuple) and set(size) == {1})


def _whole_groups(flow: Flow, node: Node, labels: Labels, channels: int, out: int) -> Labels:
    """Whole groups go or stay, as the channels of a depthwise convolution do: atoms pass from input to output."""
    groups = node.attributes["groups"]
    if labels.size != labels.shape[0]:
        flow.fix(labels, node, f"{node.name!r} reads channels that change over the image")
        return fixed(node)
    read = np.broadcast_to(labels.reshape(-1), (channels,))
    flow.merge(read.reshape(groups, -1), 0)
    atoms = np.repeat(read.reshape(groups, -1)[:, 0], out // groups)
    return _made(flow, node, atoms, (read if node.operator.startswith("conv_transpose") else atoms, None))


def _made(flow: Flow, node: Node, atoms: Labels, weight: tuple[Labels | None, ...], axis: int = 0) -> Labels:
    """File the tensors of a module that makes these atoms; the labels of its output."""
    path = slot(node)
    flow.makers[path] = atoms
    flow.tensors[f"{path}.weight"], flow.tensors[f"{path}.bias"] = weight, (atoms,)
    return spread(atoms, len(node.shape), axis)


@rule("linear")
def _linear(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    read, atoms = flow.read(node, 0, -1), flow.fresh(node.shape[-1])
    return _made(flow, node, atoms, (atoms, read), len(node.shape) - 1)


@rule("embedding")
def _embedding(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    return _made(flow, node, atoms := flow.fresh(node.shape[-1]), (None, atoms), len(node.shape) - 1)


@rule("batch_norm", "instance_norm", "prelu")
def _per_channel(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    labels = inputs[0]
    if labels.size != labels.shape[0]:
        flow.fix(labels, node, f"{node.name!r} works on channels that change over the image")
        return fixed(node)
    if node.operator == "prelu" and node.attributes["slopes"] == 1:
        return labels
    atoms = np.broadcast_to(labels.reshape(-1), (node.shape[0],))
    for name in ("weight", "bias", "running_mean", "running_var"):
        flow.tensors[f"{slot(node)}.{name}"] = (atoms,)
    return labels


@rule("again")
def _again(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    """A module called again: its input and output channels are those of the first call."""
    kind = make_operator(node.attributes["kind"], dict(node.attributes["settings"]))
    first = next(n for n in flow.graph.nodes if n.name == slot(node))
    for mine, its in zip(node.inputs, first.inputs, strict=True):
        if flow.values[mine].shape != flow.values[its].shape:
            for labels in (*inputs, flow.values[its], flow.values[first.name]):
                flow.fix(labels, node, f"{slot(node)!r} is called with inputs of two shapes")
            return fixed(node)
        flow.join(flow.values[mine], flow.values[its])
    called = Node(node.name, Signature.of(kind, node.signature.inputs), node.inputs)
    known, made = dict(flow.tensors), dict(flow.makers)
    labels = rules[called.operator](flow, called, inputs) if called.operator in rules else fixed(node)
    flow.tensors, flow.makers = known, made  # they are filed by the first call
    flow.join(labels, flow.values[first.name])
    return labels


# ---- what works on each channel alone ------------------------------------------------------------------------


@rule("activation", "dropout", "drop_path", "scalar", "elementwise", "clamp", "cast", "identity")
def _pass(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    return inputs[0]


@rule(
    "max_pool1d",
    "max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "resize",
)
def _pool(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    if inputs[0].size != inputs[0].shape[0]:
        flow.fix(inputs[0], node, f"{node.name!r} mixes places with different channels")
        return fixed(node)
    return inputs[0]


@rule("mean", "reduce")
def _reduce(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    (labels,) = inputs
    axes = tuple(inner_axis(node.operator, node.signature.inputs[0], a) for a in node.attributes["axes"])
    if any(labels.shape[a] > 1 for a in axes):
        if flow.exact:
            flow.fix(labels, node, f"{node.name!r} joins all channels in one number")
        return fixed(node)
    return labels if node.attributes["keepdim"] else labels.squeeze(axes)


@rule("softmax", "normalize")
def _over_axis(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    (labels,) = inputs
    if labels.shape[node.attributes["axis"]] > 1:
        flow.fix(labels, node, f"{node.name!r} normalises over channels, so all of them are needed")
    return labels


@rule("layer_norm", "rms_norm")
def _layer_norm(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    if not flow.exact:
        return inputs[0]
    flow.fix(inputs[0], node, f"{node.name!r} normalises over channels, so all of them are needed")
    return fixed(node)


@rule("group_norm")
def _group_norm(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    labels = inputs[0]
    if not flow.exact and labels.size == labels.shape[0] > 1:  # as many channels in each group
        flow.merge(labels.reshape(node.attributes["groups"], -1), 1)
    return _layer_norm(flow, node, inputs)


# ---- what joins several values -------------------------------------------------------------------------------


@rule("add", "multiply", "subtract", "combine")
def _together(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    """Channels that meet go together; a value that is the same for all channels does not join them."""
    rank = len(node.shape)
    out = np.full((1,) * rank, FIXED)
    first = True
    for labels, shape in zip(inputs, node.signature.inputs, strict=True):
        labels = labels.reshape((1,) * (rank - labels.ndim) + labels.shape)
        size = (1,) * (rank - len(shape)) + shape
        if all(n == 1 for n, m, k in zip(size, node.shape, labels.shape, strict=True) if m > 1 or k > 1):
            flow.fix(labels, node, f"{node.name!r} uses it for all channels")  # one number for all
            continue
        out = labels if first else _meet(flow, node, out, labels, size)
        first = False
    return out


def _meet(flow: Flow, node: Node, out: Labels, labels: Labels, size: tuple[int, ...]) -> Labels:
    """Labels of a sum of what came so far and one more value of shape `size`."""
    for axis, n in enumerate(size):
        if n == 1 and node.shape[axis] > 1 and out.shape[axis] > 1:
            flow.fix(labels, node, f"{node.name!r} uses it for all channels")
            return out
        if n > 1 and out.shape[axis] == 1 and labels.shape[axis] > 1 and _repeated(flow, node, axis):
            flow.fix(out, node, f"{node.name!r} uses it for all channels")
            return labels
    flow.join(out, labels)
    return out if out.size >= labels.size else np.broadcast_to(labels, np.broadcast_shapes(out.shape, labels.shape))


def _repeated(flow: Flow, node: Node, axis: int) -> bool:
    """Whether the first input of a sum has one entry on an axis of the result, which is repeated."""
    shape = node.signature.inputs[0]
    return axis < len(node.shape) - len(shape) or shape[axis - len(node.shape) + len(shape)] == 1


@rule("matmul")
def _matmul(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    return _by_head(flow, node, inputs)


@rule("scaled_dot_product_attention")
def _attention(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    labels = _by_head(flow, node, inputs[:3])
    for mask, shape in zip(inputs[3:], node.signature.inputs[3:], strict=True):
        if any(n > 1 for n in shape[:-2]):  # a mask for each head
            flow.join(labels, mask)
        else:
            flow.fix(mask, node, "it is a mask of attention")
    return labels


def _by_head(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    """Products over the last two axes: what lies at one place of the axes before (a head) goes together."""
    rank = len(node.shape)
    if rank < 3 or any(labels.ndim != rank for labels in inputs):
        for labels in inputs:
            flow.fix(labels, node, f"{node.name!r} multiplies channels of two values")
        return fixed(node)
    heads = node.shape[:-2]
    rows = [np.broadcast_to(x, (*heads, *x.shape[-2:])).reshape(int(np.prod(heads)), -1) for x in inputs]
    for row in rows:
        flow.merge(row, 0)
        flow.join(row[:, :1], rows[0][:, :1])
    return squeeze(rows[0][:, 0].reshape(*heads, 1, 1))


# ---- moves of data -------------------------------------------------------------------------------------------


@rule("reshape", "flatten")
def _reshape(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    return squeeze(whole(inputs[0], node.signature.inputs[0]).reshape(node.shape))


@rule("permute")
def _permute(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    return inputs[0].transpose(node.attributes["axes"])


@rule("slice")
def _slice(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    a, labels = node.attributes, inputs[0]
    axis = a["axis"] % labels.ndim
    if labels.shape[axis] == 1:
        return labels
    return labels.take(range(a["start"], a["stop"], a["step"]), axis)


@rule("select")
def _select(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    axis = node.attributes["axis"] % inputs[0].ndim
    if inputs[0].shape[axis] == 1:
        return inputs[0].squeeze(axis)
    return squeeze(inputs[0].take(node.attributes["index"], axis))


@rule("pick")
def _pick(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    """Entries of an axis: what is picked may go where its source stays, and the other way round."""
    axis, entries = node.attributes["axis"] % inputs[0].ndim, node.attributes["entries"]
    if not flow.exact and min(entries) >= 0 and inputs[0].shape[axis] > 1:
        return inputs[0].take(entries, axis)
    return inputs[0] if inputs[0].shape[axis] == 1 else _border(flow, node, axis)


@rule("expand")
def _expand(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    return inputs[0]


@rule("tile")
def _tile(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    repeats = [r if n > 1 else 1 for r, n in zip(node.attributes["repeats"], inputs[0].shape, strict=True)]
    return np.tile(inputs[0], repeats)


@rule("concat")
def _concat(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    axis = node.attributes["axis"] % len(node.shape)
    parts = [whole(x, shape, (axis,)) for x, shape in zip(inputs, node.signature.inputs, strict=True)]
    rest = np.broadcast_shapes(*[(*p.shape[:axis], 1, *p.shape[axis + 1 :]) for p in parts])
    wide = [np.broadcast_to(p, (*rest[:axis], p.shape[axis], *rest[axis + 1 :])) for p in parts]
    return squeeze(np.concatenate(wide, axis))


@rule("pad")
def _pad(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    (labels,), padding, rank = inputs, node.attributes["padding"], len(node.shape)
    moved = [rank - 1 - i for i in range(len(padding) // 2) if any(padding[2 * i : 2 * i + 2])]
    borne = [axis for axis in moved if labels.shape[axis] > 1]
    if not borne:
        return labels
    if len(borne) > 1 or node.attributes["mode"] != "constant" or node.attributes["value"]:
        flow.fix(labels, node, f"{node.name!r} puts a border around channels")
        return fixed(node)
    return _border(flow, node, borne[0])


def _border(flow: Flow, node: Node, axis: int) -> Labels:
    """Channels put among zeros, as shortcuts without weights do: the result has atoms of its own.

    A channel of the result may stay where its source is gone (it is zero then), and the other way round.
    """
    atoms = flow.fresh(node.shape[axis])
    flow.read(node, 0, axis)
    return spread(atoms, len(node.shape), axis)


@rule("roll", "flip")
def _shifted(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    if any(inputs[0].shape[axis] > 1 for axis in node.attributes["axes"]):
        flow.fix(inputs[0], node, f"{node.name!r} moves channels along")
        return fixed(node)
    return inputs[0]


@rule("pixel_shuffle", "pixel_unshuffle", "item", "index_select")
def _moves_channels(flow: Flow, node: Node, inputs: list[Labels]) -> Labels:
    flow.fix(inputs[0], node, f"{node.operator} at {node.name!r} takes channels apart")
    return fixed(node)
