"""Graphs of networks that are not built: what becomes of a graph when units and blocks go, or units are repeated.

Each node is rewritten by itself from what is kept along its axes, and remembered by that: the next cut that leaves it
the same costs a look-up, so a space of cuts is costed as fast as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GraphError, SpaceError, did_you_mean
from ..graph import Graph, Node, Shape, Signature, slot
from ..operators.base import make_operator
from .units import NONE, Block, Coupling

if TYPE_CHECKING:
    from ..slices import Kept


def cut(coupling: Coupling, keep: np.ndarray, without: Collection[str] = ()) -> Graph:
    """The graph of the network of which the kept units are left, without the blocks of these names.

    Args:
        keep: `(units,)` bool; or whole numbers, how often each unit occurs, for a network of another width. The first
            is exact, for weights that are kept; the second is for networks that are trained anew: there a shortcut that
            puts channels among zeros goes on to put them in the same proportion, whichever they are.

    Raises:
        SpaceError: a mask of another length, a group of which nothing is kept, or an unknown block.
    """
    return cutter(coupling).cut(keep, without)


def cutter(coupling: Coupling) -> Cutter:
    """The cutter of a coupling; there is one, as it remembers the nodes that it made."""
    found = coupling.__dict__.get("_cutter")
    if found is None:
        found = coupling.__dict__["_cutter"] = Cutter(coupling)
    return found


def check_keep(coupling: Coupling, keep: np.ndarray) -> np.ndarray:
    """The mask, or the counts as int64; every group must keep a unit."""
    keep = np.asarray(keep)
    counts = keep.dtype.kind in "iu"
    if keep.shape != (coupling.count,) or (keep.dtype != np.bool_ and not counts) or (counts and (keep < 0).any()):
        raise SpaceError(
            f"keep is a bool mask of {coupling.count} units, or whole numbers from 0 on; got {keep.dtype} of shape "
            f"{keep.shape}"
        )
    if counts:
        keep = keep.astype(np.int64)
    left = np.bincount(coupling.group_of[keep > 0], minlength=len(coupling.groups))
    if not left.all():
        names = ", ".join(coupling.groups[i].name for i in np.flatnonzero(left == 0)[:3])
        raise SpaceError(f"nothing would be left of {names}; keep at least one unit of each group")
    return keep


def chosen_blocks(coupling: Coupling, without: Collection[str]) -> list[Block]:
    """The blocks of these names."""
    known = {block.name: block for block in coupling.blocks}
    for name in without:
        if name not in known:
            raise SpaceError(f"no removable block {name!r}: {did_you_mean(name, known)}")
    return [known[name] for name in without]


class Cutter:
    """Cuts one graph in many ways."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self._nodes = {n.name: _Rewriter(coupling, n) for n in coupling.graph.nodes}

    def cut(self, keep: np.ndarray, without: Collection[str] = ()) -> Graph:
        keep = check_keep(self.coupling, keep)
        gone, alias = self._removed(without)
        shapes: dict[str, Shape] = {}
        nodes: list[Node] = []
        made: dict[str, Node] = {}
        for name, rewriter in self._nodes.items():
            if name in gone or name in alias:
                continue
            inputs = tuple(_followed(i, alias) for i in rewriter.node.inputs) if alias else rewriter.node.inputs
            if alias and _repeated(rewriter.node, made.get(inputs[0]) if inputs else None):
                alias[name] = inputs[0]
                continue
            made[name] = node = rewriter(keep, inputs, tuple(shapes[i] for i in inputs))
            shapes[name] = node.shape
            nodes.append(node)
        graph = Graph(tuple(nodes), tuple(_followed(o, alias) for o in self.coupling.graph.outputs))
        return graph.live() if alias else graph

    def _removed(self, without: Collection[str]) -> tuple[set[str], dict[str, str]]:
        """Nodes that go with the blocks, and what their sums become."""
        gone: set[str] = set()
        alias: dict[str, str] = {}
        for block in chosen_blocks(self.coupling, without):
            gone.update(block.nodes)
            alias[block.sum] = self.coupling.graph[block.sum].inputs[1 - block.branch]
        return gone, alias


def _followed(name: str, alias: dict[str, str]) -> str:
    """What stands for a node now."""
    while name in alias:
        name = alias[name]
    return name


def _repeated(node: Node, source: Node | None) -> bool:
    """Whether it is a ReLU of a ReLU, which a block leaves behind."""
    return (
        source is not None
        and node.operator == source.operator == "activation"
        and node.attributes == source.attributes
        and node.attributes["kind"] in ("relu", "relu6")
    )


class _Rewriter:
    """Makes what is left of one node."""

    def __init__(self, coupling: Coupling, node: Node) -> None:
        self.node = node
        self._out = coupling.values.get(node.name, ())
        self._in = tuple(coupling.values.get(i, ()) for i in node.inputs)
        self._tensor = coupling.tensors.get(node.name, ())
        weight = coupling.tensors.get(f"{slot(node)}.weight", ())
        self._whole = len(weight) > 1 and weight[1] is None
        borne = [v for axes in (self._out, *self._in, self._tensor) for v in axes if v is not None]
        units = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *borne]))
        self._units = units[units != NONE]
        self._made: dict[tuple[bytes, tuple[str, ...]], Node] = {}

    def __call__(self, keep: np.ndarray, inputs: tuple[str, ...], shapes: tuple[Shape, ...]) -> Node:
        key = keep[self._units].tobytes(), inputs
        if key not in self._made:
            self._made[key] = self._make(keep, inputs, shapes)
        return self._made[key]

    def _make(self, keep: np.ndarray, inputs: tuple[str, ...], shapes: tuple[Shape, ...]) -> Node:
        node = self.node
        out = kept_along(self._out, keep)
        shape = shrunk(node.shape, out)
        if not len(self._units):
            return node if inputs == node.inputs else Node(node.name, node.signature, inputs)
        operator, attributes = node.operator, dict(node.attributes)
        if operator in ("parameter", "buffer"):
            attributes = _sliced_tensor(attributes, kept_along(self._tensor, keep))
        elif operator in _SIZED:
            attributes["size"] = shape
        elif operator == "pad" and keep.dtype != np.bool_:
            attributes["padding"] = _proportional(node, shapes[0], shape)
        elif operator in _REWRITTEN:
            before = kept_along(self._in[0], keep) if self._in else ()
            operator, attributes = _REWRITTEN[operator](node, attributes, _Left(before, out, shape, self._whole))
        signature = Signature.of(make_operator(operator, attributes), shapes)
        if out and signature.shape != shape:
            raise GraphError(f"node {node.name!r} would have shape {signature.shape} after the cut, expected {shape}")
        return Node(node.name, signature, inputs)


def kept_along(axes: tuple[np.ndarray | None, ...], keep: np.ndarray) -> Kept:
    """Indices that stay along each axis, those of repeated units as often as they occur; None where all stay."""
    if keep.dtype == np.bool_:
        return tuple(None if v is None else np.flatnonzero((v == NONE) | keep[v]) for v in axes)
    return tuple(None if v is None else np.repeat(np.arange(len(v)), np.where(v == NONE, 1, keep[v])) for v in axes)


def shrunk(shape: Shape, kept: Kept) -> Shape:
    """A shape with what is kept of each axis."""
    if not kept:
        return shape
    return tuple(n if k is None else len(k) for n, k in zip(shape, kept, strict=True))


# ---- operators whose attributes tell of channels ------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Left:
    """What is left around a node.

    Attributes:
        before: of its first input, along each axis.
        out: of its value.
        shape: of its value.
        whole: of a convolution in groups, whether whole groups go or are repeated.
    """

    before: Kept
    out: Kept
    shape: Shape
    whole: bool


Rewrite = Callable[[Node, dict[str, Any], _Left], tuple[str, dict[str, Any]]]
_SIZED = frozenset({"reshape", "expand", "batch_of_one"})


def _sliced_tensor(attributes: dict[str, Any], kept: Kept) -> dict[str, Any]:
    size = tuple(n if k is None else len(k) for n, k in zip(attributes["size"], kept, strict=True))
    values = attributes.get("values")
    if values is not None:
        array = np.array(values).reshape(attributes["size"])
        for axis, indices in enumerate(kept):
            array = array if indices is None else array.take(indices, axis)
        attributes["values"] = tuple(array.ravel().tolist())
    return {**attributes, "size": size}


def _convolution(node: Node, attributes: dict[str, Any], left: _Left) -> tuple[str, dict[str, Any]]:
    groups, channels = attributes["groups"], node.signature.inputs[0][0]
    if groups > 1 and left.whole and left.before and left.before[0] is not None:
        attributes["groups"] = len(left.before[0]) // (channels // groups)
    return node.operator, {**attributes, "out_channels": left.shape[0]}


def _linear(node: Node, attributes: dict[str, Any], left: _Left) -> tuple[str, dict[str, Any]]:
    return node.operator, {**attributes, "out_features": left.shape[-1]}


def _embedding(node: Node, attributes: dict[str, Any], left: _Left) -> tuple[str, dict[str, Any]]:
    return node.operator, {**attributes, "features": left.shape[-1]}


def _prelu(node: Node, attributes: dict[str, Any], left: _Left) -> tuple[str, dict[str, Any]]:
    return node.operator, {"slopes": left.shape[0] if attributes["slopes"] > 1 else 1}


def _again(node: Node, attributes: dict[str, Any], left: _Left) -> tuple[str, dict[str, Any]]:
    kind = attributes["kind"]
    inner = Node(slot(node), Signature.of(make_operator(kind, dict(attributes["settings"])), node.signature.inputs))
    settings = inner.attributes
    if kind in _REWRITTEN:
        _, settings = _REWRITTEN[kind](inner, dict(settings), left)
    return node.operator, {**attributes, "settings": tuple(settings.items())}


def _entries(node: Node, left: _Left, axis: int, sources: np.ndarray) -> tuple[str, dict[str, Any]]:
    """The cut of a node whose output entry `i` along an axis is input entry `sources[i]`, or zero where that is -1.

    Of entries that occur several times, each copy is the same copy of its source, or zero where there is none.
    """
    size = node.signature.inputs[0][axis]
    old, new = _indices(left.before, axis, size), _indices(left.out, axis, len(sources))
    copy = np.arange(len(new)) - np.searchsorted(new, new)
    wanted = sources[new]
    first, many = np.searchsorted(old, wanted), np.bincount(old, minlength=size)[wanted]
    entries = np.where((wanted < 0) | (copy >= many), -1, first + copy)
    return picked(axis, entries, len(old), len(node.shape))


def _indices(kept: Kept, axis: int, size: int) -> np.ndarray:
    """What is kept along an axis of this size."""
    indices = kept[axis] if kept else None
    return np.arange(size) if indices is None else indices


def picked(axis: int, entries: np.ndarray, count: int, rank: int) -> tuple[str, dict[str, Any]]:
    """The simplest operator that gives these entries of an axis of `count`, zeros where an entry is -1."""
    if np.array_equal(entries, np.arange(count)):
        return "identity", {}
    inner = np.flatnonzero(entries >= 0)
    if len(inner):
        first, last = inner[0], inner[-1]
        run = entries[first : last + 1]
        if (run == np.arange(run[0], run[0] + len(run))).all():
            if len(run) == len(entries):
                return "slice", {"axis": axis, "start": int(run[0]), "stop": int(run[-1]) + 1}
            if len(run) == count:
                borders = (int(first), len(entries) - 1 - int(last))
                return "pad", {"padding": (*(0, 0) * (rank - 1 - axis), *borders)}
    return "pick", {"axis": axis, "entries": tuple(entries.tolist())}


def _slice(node: Node, attributes: dict[str, Any], left: _Left) -> tuple[str, dict[str, Any]]:
    axis = attributes["axis"] % len(node.shape)
    if not left.before or left.before[axis] is None:
        return node.operator, attributes
    sources = np.arange(attributes["start"], attributes["stop"], attributes["step"])
    return _entries(node, left, axis, sources)


def _pick(node: Node, attributes: dict[str, Any], left: _Left) -> tuple[str, dict[str, Any]]:
    return _entries(node, left, attributes["axis"] % len(node.shape), np.array(attributes["entries"]))


def _select(node: Node, attributes: dict[str, Any], left: _Left) -> tuple[str, dict[str, Any]]:
    axis = attributes["axis"] % len(node.signature.inputs[0])
    kept = left.before[axis] if left.before else None
    if kept is not None:
        attributes["index"] = int(np.searchsorted(kept, attributes["index"] % node.signature.inputs[0][axis]))
    return node.operator, {**attributes, "axis": axis}


def _proportional(node: Node, before: Shape, after: Shape) -> tuple[int, ...]:
    """Borders that bring an axis of channels from one size to another and lie around it as the old ones did."""
    padding = list(node.attributes["padding"])
    rank = len(node.shape)
    for i in range(len(padding) // 2):
        axis = rank - 1 - i
        low, high = padding[2 * i : 2 * i + 2]
        if after[axis] - before[axis] != low + high:
            total = after[axis] - before[axis]
            padding[2 * i] = round(total * low / (low + high)) if low + high else total // 2
            padding[2 * i + 1] = total - padding[2 * i]
    return tuple(padding)


def _pad(node: Node, attributes: dict[str, Any], left: _Left) -> tuple[str, dict[str, Any]]:
    """A border around channels may become other borders; borders of the other axes stay in either case."""
    rank, padding = len(node.shape), attributes["padding"]
    borders = [(padding[2 * i], padding[2 * i + 1]) for i in range(len(padding) // 2)]
    for i, (low, high) in enumerate(borders):
        axis = rank - 1 - i
        if (low or high) and any(k and k[axis] is not None for k in (left.before, left.out)):
            if any(b != (0, 0) for j, b in enumerate(borders) if j != i):
                raise GraphError(f"{node.name!r} pads channels and other axes at once, which cannot be cut")
            sources = np.full(node.shape[axis], -1)
            inside = np.arange(max(low, 0), node.shape[axis] - max(high, 0))
            sources[inside] = inside - low
            return _entries(node, left, axis, sources)
    return node.operator, attributes


_REWRITTEN: dict[str, Rewrite] = {
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv_transpose1d": _convolution,
    "conv_transpose2d": _convolution,
    "linear": _linear,
    "embedding": _embedding,
    "prelu": _prelu,
    "again": _again,
    "slice": _slice,
    "pick": _pick,
    "select": _select,
    "pad": _pad,
}
