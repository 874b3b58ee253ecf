"""Rules of calls that move data. Recorded shapes tell the result; arguments are read only where they name axes."""

from __future__ import annotations

import math
from typing import Any

from ...graph import Node
from ..layout import Batch, Layout, Unsupported, Value
from ..translator import Translator, rule


@rule("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "ravel")
def _reshape(t: Translator, input: Value, *args: Any, **kwargs: Any) -> Node:
    if not input.layout.keeps_batch(t.out) or input.layout.dtype != t.out.dtype:
        raise Unsupported("a reshape that mixes the examples of a batch")
    return t.shaped(input, t.out.shape)


def _permuted(t: Translator, value: Value, order: list[int]) -> Node:
    """Dimensions in another order; where only the batch moves, nothing is done."""
    layout = value.layout
    axes = [layout.position(d) for d in order if layout.joined or d != layout.batch]
    node = t.node(value)
    return node if axes == sorted(axes) else t.add("permute", node, axes=tuple(axes))


@rule("permute")
def _permute(t: Translator, input: Value, *dims: Any) -> Node:
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], tuple | list) else dims
    return _permuted(t, input, [input.layout.dim(d) for d in order])


@rule("transpose", "swapaxes", "swapdims")
def _transpose(t: Translator, input: Value, dim0: int, dim1: int) -> Node:
    order = list(range(len(input.layout.sizes)))
    a, b = input.layout.dim(dim0), input.layout.dim(dim1)
    order[a], order[b] = order[b], order[a]
    return _permuted(t, input, order)


@rule("t")
def _t(t: Translator, input: Value) -> Node:
    return _permuted(t, input, list(reversed(range(len(input.layout.sizes)))))


@rule("movedim", "moveaxis")
def _movedim(t: Translator, input: Value, source: Any, destination: Any) -> Node:
    pairs = [(source, destination)] if isinstance(source, int) else list(zip(source, destination, strict=True))
    moves = {input.layout.dim(d): input.layout.dim(s) for s, d in pairs}
    rest = iter([d for d in range(len(input.layout.sizes)) if d not in moves.values()])
    return _permuted(t, input, [moves[d] if d in moves else next(rest) for d in range(len(input.layout.sizes))])


@rule("getattr")
def _getattr(t: Translator, input: Any, name: str) -> Any:
    if isinstance(input, tuple) and name in ("values", "indices"):
        return input[name == "indices"]
    if not isinstance(input, Value) or name not in ("T", "mT", "H", "mH", "data"):
        raise Unsupported(f"attribute {name!r}")
    rank = len(input.layout.sizes)
    if name == "data":
        return input
    return _transpose(t, input, rank - 2, rank - 1) if name[0] == "m" else _t(t, input)


@rule("expand", "expand_as", "broadcast_to")
def _expand(t: Translator, input: Value, *args: Any, **kwargs: Any) -> Node:
    node = t.shaped(input, input.layout.aligned(t.out))
    if input.layout.batch is None and t.out.batch is not None:
        if t.out.joined:
            raise Unsupported("an expansion to more than the batch")
        return t.expanded(node, t.out.shape)
    return node if node.shape == t.out.shape else t.add("expand", node, size=t.out.shape)


@rule("repeat", "tile")
def _repeat(t: Translator, input: Value, *args: Any) -> Node:
    if t.out.joined or (input.layout.batch is None and t.out.batch is not None and not _one(input.layout, t.out)):
        raise Unsupported("a repetition of the batch")
    node = t.shaped(input, input.layout.aligned(t.out))
    repeats = tuple(b // a for a, b in zip(node.shape, t.out.shape, strict=True))
    if any(r != 1 for r in repeats):
        node = t.add("tile", node, repeats=repeats)
    if input.layout.batch is None and t.out.batch is not None:
        return t.expanded(node, t.out.shape)
    return node


def _one(layout: Layout, out: Layout) -> bool:
    sizes, _ = layout.padded(len(out.sizes))
    return out.batch is not None and sizes[out.batch] == 1


# ---- joining ----------------------------------------------------------------------------------------------


@rule("cat", "concat", "concatenate")
def _concat(t: Translator, tensors: Any, dim: int = 0) -> Node:
    if any(v.layout.batch != t.out.batch for v in tensors):
        raise Unsupported("a concatenation of tensors that have the batch in other places")
    return t.add("concat", *map(t.node, tensors), axis=t.out.axis(dim))


@rule("stack")
def _stack(t: Translator, tensors: Any, dim: int = 0) -> Node:
    axis = t.out.axis(dim)
    one = (*t.out.shape[:axis], 1, *t.out.shape[axis + 1 :])
    return t.add("concat", *(t.shaped(v, one) for v in tensors), axis=axis)


# ---- parts ------------------------------------------------------------------------------------------------


@rule("chunk", "split", "split_with_sizes", "tensor_split")
def _split(t: Translator, input: Value, sizes: Any, dim: int = 0) -> tuple[Node, ...]:
    axis, node, start, parts = input.layout.axis(dim), t.node(input), 0, []
    for out in t.out:
        stop = start + out.shape[axis]
        parts.append(t.add("slice", node, axis=axis, start=start, stop=stop))
        start = stop
    return tuple(parts)


@rule("unbind")
def _unbind(t: Translator, input: Value, dim: int = 0) -> tuple[Node, ...]:
    axis, node = input.layout.axis(dim), t.node(input)
    return tuple(t.add("select", node, axis=axis, index=i) for i in range(len(t.out)))


@rule("narrow")
def _narrow(t: Translator, input: Value, dim: int, start: int, length: int) -> Node:
    axis = input.layout.axis(dim)
    return t.add("slice", t.node(input), axis=axis, start=start % input.layout.sizes[dim], stop=start + length)


@rule("select")
def _select(t: Translator, input: Value, dim: int, index: int) -> Node:
    return t.add("select", t.node(input), axis=input.layout.axis(dim), index=index)


@rule("index_select")
def _index_select(t: Translator, input: Value, dim: int, index: Value) -> Node:
    if index.layout.batch is not None:
        raise Unsupported("another index for each example")
    return t.add("index_select", t.node(input), t.node(index), axis=input.layout.axis(dim))


@rule("getitem")
def _getitem(t: Translator, input: Any, index: Any) -> Any:
    if not isinstance(input, Value):
        return input[index]
    entries = _entries(index if isinstance(index, tuple) else (index,), len(input.layout.sizes))
    if sum(isinstance(e, Value) for e in entries) > 1:
        raise Unsupported("several tensors in one index")
    if all(e == slice(None) for e in entries):
        return t.shaped(input, t.out.shape)
    node = t.node(input)
    for dim, entry in reversed(list(enumerate(entries))):  # from the last, so that axes before it keep their number
        node = _taken(t, node, input.layout, dim, entry)
    return t.reshape(node, t.out.shape)


def _entries(index: tuple[Any, ...], rank: int) -> list[Any]:
    """An index for every dimension; new axes are left to the reshape that follows."""
    entries = [i for i in index if i is not None]
    if Ellipsis not in [i for i in entries if not isinstance(i, Value)]:
        entries.append(Ellipsis)
    at = next(i for i, e in enumerate(entries) if e is Ellipsis)
    return entries[:at] + [slice(None)] * (rank - len(entries) + 1) + entries[at + 1 :]


def _taken(t: Translator, node: Node, layout: Layout, dim: int, entry: Any) -> Node:
    """One entry of an index applied to one dimension."""
    if entry == slice(None) or (isinstance(entry, slice) and _whole(entry, layout, dim)):
        return node
    axis = layout.axis(dim)
    if isinstance(entry, slice):
        if any(isinstance(v, Batch) for v in (entry.start, entry.stop, entry.step)):
            raise Unsupported("a part of the batch's size")
        start, stop, step = entry.indices(layout.sizes[dim])
        return t.add("slice", node, axis=axis, start=start, stop=stop, step=step)
    if isinstance(entry, int) and not isinstance(entry, bool):
        return t.add("select", node, axis=axis, index=entry % layout.sizes[dim])
    if not isinstance(entry, Value) or entry.layout.batch is not None or "int" not in entry.layout.dtype:
        raise Unsupported(f"an index of {entry}")
    return t.add("index_select", node, t.shaped(entry, (math.prod(entry.layout.sizes),)), axis=axis)


def _whole(entry: slice, layout: Layout, dim: int) -> bool:
    """Whether a slice with written limits takes everything."""
    if dim == layout.batch:
        full = Batch(layout.sizes[dim])
        return entry.start in (None, 0) and entry.stop in (None, full) and entry.step in (None, 1)
    if any(isinstance(v, Batch) for v in (entry.start, entry.stop, entry.step)):
        return False
    size = layout.sizes[dim]
    return entry.indices(size) == (0, size, 1)


# ---- borders and orders -----------------------------------------------------------------------------------


@rule("pad")
def _pad(t: Translator, input: Value, pad: Any, mode: str = "constant", value: float | None = None) -> Node:
    padding = list(pad)
    while padding[-2:] == [0, 0]:
        del padding[-2:]
    layout, rank = input.layout, len(input.layout.sizes)
    if not all(isinstance(p, int) for p in padding) or (mode != "constant" and not layout.plain):
        raise Unsupported(f"padding {padding} of mode {mode!r}")
    for i in range(len(padding) // 2):
        layout.axis(rank - 1 - i)
    if not padding:
        return t.node(input)
    if layout.batch is not None and layout.batch >= rank - len(padding) // 2:
        raise Unsupported("padding around the batch")
    return t.add("pad", t.node(input), padding=tuple(padding), mode=mode, value=float(value or 0))


@rule("roll")
def _roll(t: Translator, input: Value, shifts: Any, dims: Any = None) -> Node:
    shifts, dims = ((v,) if isinstance(v, int) else v for v in (shifts, dims))
    axes = tuple(input.layout.axis(d) for d in dims or (None,))
    return t.add("roll", t.node(input), shifts=tuple(shifts), axes=axes)


@rule("flip")
def _flip(t: Translator, input: Value, *dims: Any) -> Node:
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], tuple | list) else dims
    return t.add("flip", t.node(input), axes=tuple(input.layout.axis(d) for d in order))


@rule("pixel_shuffle")
def _pixel_shuffle(t: Translator, input: Value, upscale_factor: int) -> Node:
    return t.add("pixel_shuffle", t.node(_plain(input)), factor=upscale_factor)


@rule("pixel_unshuffle")
def _pixel_unshuffle(t: Translator, input: Value, downscale_factor: int) -> Node:
    return t.add("pixel_unshuffle", t.node(_plain(input)), factor=downscale_factor)


@rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(t: Translator, input: Value, groups: int) -> Node:
    channels, *rest = _plain(input).layout.shape
    split = t.shaped(input, (groups, channels // groups, *rest))
    swapped = t.add("permute", split, axes=(1, 0, *range(2, len(split.shape))))
    return t.reshape(swapped, t.out.shape)


def _plain(value: Value) -> Value:
    if not value.layout.plain:
        raise Unsupported("the batch is not the first axis")
    return value
