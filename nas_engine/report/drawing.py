"""Architectures as inline SVG: a box an operator, with its attributes and output shape, an arrow a tensor.

Equal operators in a row are drawn once with their number. Colours and fonts are classes of the page's style sheet, so
the drawing follows its light and dark themes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from html import escape
from typing import Any

from markupsafe import Markup

from search_spaces import Graph, Node, SearchSpace, Signature

from .layout import Layout, Point, Route, layered
from .words import TIMES, size

FAMILIES = {
    "convolution": "convolution",
    "linear": "linear layer",
    "pooling": "pooling, resizing",
    "activation": "normalisation, activation",
    "arithmetic": "identity, sum, product",
    "input": "input",
    "cell": "the searched cell",
    "other": "other",
}
_FAMILY_OF = {
    "convolution": ("conv2d", "conv_transpose2d", "functional_adder2d", "functional_shift_conv2d", "graph_conv"),
    "linear": ("linear", "matmul"),
    "pooling": ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "resize", "mean"),
    "activation": (
        *("activation", "batch_norm", "layer_norm", "group_norm", "node_batch_norm"),
        *("dropout", "dropout_mask", "masked"),
    ),
    "arithmetic": ("identity", "zero", "add", "multiply", "concat", "flatten"),
    "input": ("input",),
}
_SIGNS = {"add": "+", "multiply": TIMES, "concat": "concat"}
_IN_SHAPE = frozenset({"out_channels", "out_features", "reduced", "classes", "padding", "bias", "size"})
_TITLE, _DETAIL = 8.5, 6.6  # widths of an average character of the two lines in a wide font, pixels
_NARROWEST, _WIDEST = 130.0, 350.0
_MARGIN, _PAD, _ARC = 4.0, 11.0, 16.0
_SHRUNK = 0.72  # of its size is the least that a drawing is scaled to on a narrow screen; then it scrolls


@dataclass(frozen=True)
class Item:
    """What is drawn for one node, or for `repeats` equal nodes in a row; `told` is shown under the pointer."""

    node: Node
    inputs: tuple[str, ...]
    repeats: int
    detail: str
    family: str
    residual: bool
    told: str

    @property
    def sign(self) -> str | None:
        """The sign of an operator that joins tensors; it is drawn as a pill, not as a box."""
        return _SIGNS.get(self.node.operator) if len(self.inputs) > 1 else None

    @property
    def title(self) -> str:
        return self.node.operator.replace("_", " ") + (f"  {TIMES} {self.repeats}" if self.repeats > 1 else "")

    @property
    def label(self) -> str:
        """The node's name, where it tells more than the operator's."""
        return "" if self.node.name in (self.node.operator, self.title) else self.node.name

    @property
    def shape(self) -> str:
        return size(self.node.shape)

    @property
    def wanted(self) -> tuple[float, float]:
        """Width that the text needs, and height."""
        if self.sign:
            return len(self.sign) * _TITLE + len(self.shape) * _DETAIL + 38, 26.0
        first = len(self.title) * _TITLE + 16 + len(self.shape) * _DETAIL
        second = (len(self.detail) + len(self.label) + 2) * _DETAIL
        height = 44.0 if self.detail or self.label else 29.0
        return min(_WIDEST, max(_NARROWEST, first + 2 * _PAD, second + 2 * _PAD)), height


def has_cell(space: SearchSpace, graphs: Sequence[Graph]) -> bool:
    """Whether members repeat a searched cell, which is then drawn once, beside the network; a stack is one box."""
    stacked = any(node.operator == "graph_stack" for graph in graphs for node in graph.nodes)
    return type(space).sketch is not SearchSpace.sketch and not stacked


def repeated(graph: Graph) -> str | None:
    """The composite operator that is repeated most: the searched cell, in a space that has one."""
    counts = Counter(n.operator for n in graph.nodes if n.signature.body is not None)
    return counts.most_common(1)[0][0] if counts else None


def families(*graphs: Graph, cell: str | None = None) -> dict[str, str]:
    """Families that occur in the drawings of some graphs, with the words of the legend."""
    present = {item.family for graph in graphs for item in items(graph, cell)}
    return {name: words for name, words in FAMILIES.items() if name in present}


def family(signature: Signature) -> str:
    """Family of an operator; a composite is of the family that does most of its multiplications.

    Operators that nobody filed (a user's own primitives) are `other`.
    """
    if signature.body is None:
        name = signature.operator.name
        return next((kind for kind, names in _FAMILY_OF.items() if name in names), "other")
    parts = [s for _, s, _ in signature.flat if s.operator.name != "input"]
    return family(max(parts, key=lambda s: (s.cost.macs, s.cost.adds))) if parts else "arithmetic"


def has_residual(signature: Signature) -> bool:
    """Whether a composite ends in the sum of its branch and its input, or of two branches."""
    body = signature.body
    return body is not None and body[body.outputs[0]].operator == "add"


def details(signature: Signature) -> str:
    """The attributes that matter, in words; those that the output shape tells, or at their defaults, are left out.

    >>> details(Signature.named("conv2d", {"out_channels": 8, "kernel_size": 3, "groups": 8}, ((8, 4, 4),)))
    '3×3 · depthwise'
    """
    operator = signature.operator
    defaults = {f.name: f.default for f in fields(operator)}
    given = operator.attributes.items()
    words = (_attribute(name, value, value == defaults[name], signature.inputs) for name, value in given)
    return " · ".join(filter(None, words))


def _attribute(name: str, value: Any, default: bool, inputs: tuple[tuple[int, ...], ...]) -> str:
    if name == "kernel_size":
        pair = value if isinstance(value, tuple) else (value, value)
        return TIMES.join(map(str, pair))
    if name == "kinds":
        return _layers(value)
    if name == "connection":
        return str(value)
    if name == "tied":
        return "tied" if value else ""
    if name in _IN_SHAPE or value is None or isinstance(value, bool) or _holds_text(value):
        return ""
    if name in ("activation", "kind"):
        return str(value)
    if name == "expansion":
        return f"expand {value:g}"
    if default or (name == "stride" and value == 1):
        return ""
    if name == "groups" and inputs and value == inputs[0][0]:
        return "depthwise"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{'SE' if name == 'se_ratio' else name.replace('_', ' ')} {text}"


def _layers(kinds: Sequence[str]) -> str:
    """Kinds of a stack's layers: what they repeat, and how many layers there are.

    >>> _layers(("gen", "gat") * 56)
    'gen gat, 112 layers'
    """
    period = next(p for p in range(1, len(kinds) + 1) if all(k == kinds[i % p] for i, k in enumerate(kinds)))
    return f"{' '.join(kinds[:period])}, {len(kinds)} layer{'s' if len(kinds) > 1 else ''}"


def _holds_text(value: Any) -> bool:
    return isinstance(value, tuple) and any(isinstance(v, str) for v in value)


def items(graph: Graph, cell: str | None = None) -> list[Item]:
    """The nodes that outputs need, runs of equal nodes merged; `cell` names an operator that is drawn elsewhere."""
    live = graph.live()
    readers = Counter(name for node in live.nodes for name in node.inputs)
    runs: list[list[Node]] = []
    for node in live.nodes:
        last = runs[-1][-1] if runs else None
        alone = last is not None and node.inputs == (last.name,) and readers[last.name] == 1
        if alone and last is not None and node.signature is last.signature:
            runs[-1].append(node)
        else:
            runs.append([node])
    merged = {node.name: run[0].name for run in runs for node in run}
    return [_item(run, tuple(merged[i] for i in run[0].inputs), cell) for run in runs]


def _item(run: list[Node], inputs: tuple[str, ...], cell: str | None) -> Item:
    node = run[0]
    elsewhere = node.operator == cell
    return Item(
        node=node,
        inputs=inputs,
        repeats=len(run),
        detail="the cell" if elsewhere else details(node.signature),
        family="cell" if elsewhere else family(node.signature),
        residual=not elsewhere and has_residual(node.signature),
        told=node.name if elsewhere else f"{node.name}: {node.signature!r}",
    )


def draw_graph(graph: Graph, *, cell: str | None = None) -> Markup:
    """A graph from top to bottom as an `<svg>` element.

    Args:
        graph: what is drawn; composites are boxes, residuals inside them arcs.
        cell: name of an operator that is drawn on its own elsewhere.
    """
    shown = {item.node.name: item for item in items(graph, cell)}
    edges = [(source, name) for name, i in shown.items() for source in i.inputs]
    chain = len(edges) < len(shown) and all(len(i.inputs) < 2 for i in shown.values())
    widest = max((i.wanted[0] for i in shown.values()), default=_NARROWEST)
    sizes = {name: (widest, i.wanted[1]) if chain else i.wanted for name, i in shown.items()}
    placed = layered(sizes, edges, down=22.0 if chain else 38.0)
    return Markup("".join(_svg(shown, sizes, placed)))


def _svg(shown: dict[str, Item], sizes: dict[str, tuple[float, float]], placed: Layout) -> Iterator[str]:
    arc = _ARC if any(i.residual for i in shown.values()) else 0.0
    width, height = placed.width + 2 * _MARGIN + arc, placed.height + 2 * _MARGIN
    told = escape("; ".join(f"{i.title} {i.detail} to {i.shape}" for i in shown.values()))
    yield (
        f'<svg class="net" role="img" aria-label="{told}" width="{width:.0f}" height="{height:.0f}" '
        f'style="max-width: max(100%, {_SHRUNK * width:.0f}px)" '
        f'viewBox="{-_MARGIN:g} {-_MARGIN:g} {width:.1f} {height:.1f}" xmlns="http://www.w3.org/2000/svg">'
    )
    for route in placed.routes:
        yield _arrow(route)
    for name, item in shown.items():
        shape = _pill if item.sign else _box
        yield shape(item, placed.centres[name], sizes[name])
    yield "</svg>"


def _arrow(route: Route) -> str:
    (x, y), *rest = route.points
    path = [f"M{x:.1f} {y:.1f}"]
    for nx, ny in rest:
        end = ny - 5 if (nx, ny) == rest[-1] else ny
        bend = (end - y) * 0.55
        path.append(f"C{x:.1f} {y + bend:.1f} {nx:.1f} {end - bend:.1f} {nx:.1f} {end:.1f}")
        x, y = nx, ny
    return f'<path class="wire" d="{"".join(path)}"/><path class="head" d="M{x:.1f} {y:.1f}l-4 -7.5h8z"/>'


def _box(item: Item, centre: Point, extent: tuple[float, float]) -> str:
    (cx, cy), (wide, high) = centre, extent
    left, top, right = cx - wide / 2, cy - high / 2, cx + wide / 2
    inner = wide - 2 * _PAD
    fits = (len(item.detail) + len(item.label) + 2) * _DETAIL <= inner
    title = _cut(item.title, inner - len(item.shape) * _DETAIL - 10, _TITLE)
    parts = [
        f'<g class="op {item.family}"><title>{escape(item.told)}</title>',
        f'<rect class="fill" x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{high:.1f}" rx="7"/>',
        _text("title", left + _PAD, top + 18.5, title),
        _text("shape end", right - _PAD, top + 18.5, item.shape),
        _text("detail", left + _PAD, top + 35, _cut(item.detail, inner, _DETAIL)),
        _text("name end", right - _PAD, top + 35, item.label) if fits else "",
        _residual(right, top, high) if item.residual else "",
        "</g>",
    ]
    return "".join(parts)


def _residual(right: float, top: float, high: float) -> str:
    y0, y1, out = top + 9, top + high - 9, right + _ARC - 4
    return (
        f'<path class="arc" d="M{right:.1f} {y0:.1f}C{out:.1f} {y0:.1f} {out:.1f} {y1:.1f} {right + 5:.1f} {y1:.1f}"/>'
        f'<path class="arc-head" d="M{right:.1f} {y1:.1f}l6.5 -3.4v6.8z"/>'
    )


def _pill(item: Item, centre: Point, extent: tuple[float, float]) -> str:
    (cx, cy), (wide, high) = centre, extent
    left, top = cx - wide / 2, cy - high / 2
    return (
        f'<g class="op {item.family}"><title>{escape(item.told)}</title>'
        f'<rect class="fill" x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{high:.1f}" rx="{high / 2:.1f}"/>'
        + _text("title", left + 12, cy + 4.7, item.sign or "")
        + _text("shape end", left + wide - 12, cy + 4.2, item.shape)
        + "</g>"
    )


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>' if text else ""


def _cut(text: str, width: float, character: float) -> str:
    """Text shortened to a width, by the width of an average character."""
    most = max(4, int(width / character))
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
