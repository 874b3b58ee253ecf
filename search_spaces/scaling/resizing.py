"""Resolution: the same network on images of another size, every shape inferred anew.

Operators that tell sizes (views, crops, resizing, pooling of whole maps) are told the new ones; maps of equal size stay
of equal size. What holds a size in its weights, as position embeddings do, cannot follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import GraphError, SpaceError
from ..graph import Graph, Node, Shape, Signature
from ..operators.base import make_operator, pair
from .rules import Rounding

_IMAGE_AXES = 3


def resize(graph: Graph, multiplier: float, rounding: Rounding) -> Graph:
    """The network on images whose height and width are multiplied.

    Inputs that the network resizes by itself keep their size: what they are resized to is multiplied.

    Raises:
        SpaceError: no input is an image, or a node cannot have another size.
    """
    return _Resizing(graph, multiplier, rounding).graph()


class _Resizing:
    """One graph on its way to another resolution.

    Attributes:
        made: new nodes by name.
        maps: height and width that maps of a height and width now have.
    """

    def __init__(self, graph: Graph, multiplier: float, rounding: Rounding) -> None:
        self._graph = graph
        self._scaled = lambda sides: tuple(rounding.resolution(n, multiplier) for n in sides)
        images = {node.name for node in graph.inputs if len(node.shape) == _IMAGE_AXES}
        if not images:
            shapes = ", ".join(str(node.shape) for node in graph.inputs)
            raise SpaceError(f"a network for inputs of {shapes} has no resolution; scale its depth or width")
        readers = {name: [n for n in graph.nodes if name in n.inputs] for name in images}
        self._first = {n.name for found in readers.values() for n in found if n.operator == "resize"}
        self._inputs = {name for name in images if {n.operator for n in readers[name]} != {"resize"}}
        self.made: dict[str, Node] = {}
        self.maps: dict[Shape, Shape] = {}

    def graph(self) -> Graph:
        for node in self._graph.nodes:
            try:
                new = self._resized(node)
            except (GraphError, SpaceError) as e:
                raise SpaceError(
                    f"node {node.name!r} ({node.operator}) cannot follow images of another size: {e}; keep the "
                    "resolution, or build the network for the other one"
                ) from None
            self.made[node.name] = new
            if len(node.shape) == _IMAGE_AXES and new.shape != node.shape:
                self.maps.setdefault(node.shape[1:], new.shape[1:])
        return Graph(tuple(self.made.values()), self._graph.outputs)

    def _resized(self, node: Node) -> Node:
        if node.name in self._inputs:
            size = (node.shape[0], *self._scaled(node.shape[1:]))
            return Node(node.name, Signature.of(make_operator("input", {**node.attributes, "size": size}), ()))
        inputs = tuple(self.made[name].shape for name in node.inputs)
        if node.operator not in ("resize", "expand") and inputs == node.signature.inputs:
            return node
        operator, attributes = node.operator, node.attributes
        if operator == "again":
            settings = self._told(node, attributes["kind"], dict(attributes["settings"]), inputs)
            attributes = {**attributes, "settings": tuple(settings.items())}
        else:
            attributes = self._told(node, operator, attributes, inputs)
        return Node(node.name, Signature.of(make_operator(operator, attributes), inputs), node.inputs)

    def _told(self, node: Node, operator: str, attributes: dict[str, Any], inputs: tuple[Shape, ...]) -> dict[str, Any]:
        """The attributes for inputs of these shapes."""
        rewrite = _REWRITTEN.get(operator)
        return attributes if rewrite is None else rewrite(self, node, attributes, inputs)

    # ---- operators that tell sizes -------------------------------------------------------------------------

    def foreign(self, node: Node, attributes: dict[str, Any], inputs: tuple[Shape, ...]) -> dict[str, Any]:
        raise SpaceError("what it does with sizes is not known")

    def size(self, node: Node, attributes: dict[str, Any], inputs: tuple[Shape, ...]) -> dict[str, Any]:
        """`resize`: to the multiple, to the size that maps of the old size have now, or by the old ratio."""
        old = pair(attributes["size"])
        if node.name in self._first:
            return {**attributes, "size": _side(self._scaled(old))}
        was, now = node.signature.inputs[0][1:], inputs[0][1:]
        ratio = tuple(max(1, round(n * o / w)) for n, o, w in zip(now, old, was, strict=True))
        return {**attributes, "size": _side(self.maps.get(old, ratio))}

    def expanded(self, node: Node, attributes: dict[str, Any], inputs: tuple[Shape, ...]) -> dict[str, Any]:
        size, old = list(attributes["size"]), node.signature.inputs[0]
        following = self.maps.get(tuple(size[-2:]), tuple(size[-2:]))
        for axis, n in enumerate(size):
            if old[axis] == n:
                size[axis] = inputs[0][axis]
            elif axis >= len(size) - 2 and len(size) >= _IMAGE_AXES:
                size[axis] = following[axis - len(size)]
        return {**attributes, "size": tuple(size)}

    def reshaped(self, node: Node, attributes: dict[str, Any], inputs: tuple[Shape, ...]) -> dict[str, Any]:
        """Axes that stay, are joined or parted are found by their products."""
        old, size, new = node.signature.inputs[0], attributes["size"], inputs[0]
        found: list[int] = []
        for before, after in _matched(old, size):
            found += self._parted(math.prod(old[before]), math.prod(new[before]), size[after])
        return {**attributes, "size": tuple(found)}

    def _parted(self, old: int, new: int, sizes: Shape) -> Shape:
        """Axes of `sizes`, whose product is `old`, for the product `new`."""
        if new == old:
            return sizes
        wide = [i for i, n in enumerate(sizes) if n > 1]
        if len(wide) == 2 and math.prod(self.maps.get(tuple(sizes[i] for i in wide), (0,))) == new:
            parts = list(self.maps[tuple(sizes[i] for i in wide)])
        else:  # of windows, their number changes
            inner = math.prod(sizes[i] for i in wide[1:])
            if new % inner:
                raise SpaceError(f"a view of {old} numbers as {sizes} has no counterpart for {new}")
            parts = [new // inner, *(sizes[i] for i in wide[1:])]
        found = list(sizes)
        for i, n in zip(wide or [len(sizes) - 1], parts, strict=False):
            found[i] = n
        return tuple(found)

    def sliced(self, node: Node, attributes: dict[str, Any], inputs: tuple[Shape, ...]) -> dict[str, Any]:
        """Each end keeps its distance from the end of the axis that it is nearer to."""
        axis, start, stop = attributes["axis"], attributes["start"], attributes["stop"]
        old, new = node.signature.inputs[0][axis], inputs[0][axis]
        if old == new:
            return attributes
        if 2 * stop == old or (2 * start == old and start >= attributes["step"]):
            raise SpaceError(f"it takes entries {start} to {stop} of {old}, up to the middle")
        ends = (n if 2 * n < old or n < attributes["step"] else new - (old - n) for n in (start, stop))
        return {**attributes, **dict(zip(("start", "stop"), ends, strict=True))}

    def picked(self, node: Node, attributes: dict[str, Any], inputs: tuple[Shape, ...]) -> dict[str, Any]:
        axis = attributes["axis"]
        if node.signature.inputs[0][axis] != inputs[0][axis]:
            raise SpaceError("it picks entries by their numbers")
        return attributes

    def pooled(self, node: Node, attributes: dict[str, Any], inputs: tuple[Shape, ...]) -> dict[str, Any]:
        """A window of the whole map stays one."""
        old, kernel = node.signature.inputs[0][1:], attributes["kernel_size"]
        if old == (kernel if isinstance(kernel, tuple) else (kernel,) * len(old)) and set(node.shape[1:]) == {1}:
            window = _side(inputs[0][1:])
            stride = window if attributes["stride"] == kernel else attributes["stride"]
            return {**attributes, "kernel_size": window, "stride": stride}
        return attributes


Rewrite = Callable[[_Resizing, Node, dict[str, Any], tuple[Shape, ...]], dict[str, Any]]
_REWRITTEN: dict[str, Rewrite] = {
    "other": _Resizing.foreign,
    "item": _Resizing.foreign,
    "resize": _Resizing.size,
    "expand": _Resizing.expanded,
    "reshape": _Resizing.reshaped,
    "slice": _Resizing.sliced,
    "pick": _Resizing.picked,
    "max_pool1d": _Resizing.pooled,
    "max_pool2d": _Resizing.pooled,
    "avg_pool1d": _Resizing.pooled,
    "avg_pool2d": _Resizing.pooled,
}


def _side(size: Shape) -> int | Shape:
    """One number where all are equal, as operators are written elsewhere: equal ones then have equal attributes."""
    return size[0] if len(set(size)) == 1 else size


def _matched(a: Shape, b: Shape) -> Iterator[tuple[slice, slice]]:
    """The shortest runs of axes of two shapes of one product whose products are equal."""
    i = j = 0
    while i < len(a) or j < len(b):
        first, second = i, j
        left, right = math.prod(a[i : i + 1]), math.prod(b[j : j + 1])
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * a[i], i + 1
            else:
                right, j = right * b[j], j + 1
        if j >= len(b) or math.prod(b[j:]) == 1 or math.prod(a[i:]) == 1:  # ones at the end belong to the last run
            i, j = len(a), len(b)
        yield slice(first, i), slice(second, j)
