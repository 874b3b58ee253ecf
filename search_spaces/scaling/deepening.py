"""Depth: the residual blocks of a graph, the stages they form, and the same network with more or fewer of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..graph import Graph, Node
from .rules import Rounding

if TYPE_CHECKING:
    from ..coupling import Block


@dataclass(frozen=True)
class Layer:
    """What a stage repeats: the residual blocks of one module, one behind the other.

    Attributes:
        name: what the names of its nodes with weights have in common, else that of the first.
        start: the node that it reads.
        nodes: in the order of the graph.
        outputs: the last sum, and the nodes without weights that belong behind it; the last of them is read by the next
            layer.
    """

    name: str
    start: str
    nodes: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def end(self) -> str:
        return self.outputs[-1]


@dataclass(frozen=True)
class Stage:
    """Layers of one shape, one behind the other.

    Attributes:
        layers: that can be left out or repeated.
        changing: whether a block stands before them that brings channels or pixels to the stage's. It counts in the
            depth and is neither left out nor repeated.
        period: layers of a pattern, where kinds alternate; 1 where all are alike, and where there is no pattern.
    """

    layers: tuple[Layer, ...]
    changing: bool
    period: int

    @property
    def name(self) -> str:
        """That of the first layer."""
        return self.layers[0].name

    @property
    def depth(self) -> int:
        """Layers as papers count them."""
        return len(self.layers) + self.changing


def stages(graph: Graph) -> tuple[Stage, ...]:
    """The stages whose depth can change, in the order of the graph.

    A stage is a row of residual blocks of one shape. What is in none keeps its depth: single blocks between two shapes,
    and networks without residual blocks, for which the result is empty.

    >>> from search_spaces import GraphBuilder
    >>> g = GraphBuilder((3, 8, 8))
    >>> x = g.add("conv2d", g.input, name="stem", out_channels=4)
    >>> for i in range(2):
    ...     x = g.add("add", x, g.add("conv2d", x, name=f"blocks.{i}.conv", out_channels=4))
    >>> [(stage.name, stage.depth) for stage in stages(g.build(x))]
    [('blocks.0.conv', 2)]
    """
    graph = graph.simplify()
    position = {node.name: i for i, node in enumerate(graph.nodes)}
    found, seen = [], 0
    for row in _rows(graph):
        layers = _layers(graph, row)
        before = graph.nodes[seen : position[layers[0].start] + 1]
        found.append(Stage(layers, _changes(before, layers[0].name), _period(graph, layers)))
        seen = position[layers[-1].end] + 1
    return tuple(found)


def deepen(graph: Graph, multiplier: float, rounding: Rounding) -> Graph:
    """The graph with the depth of every stage multiplied; what is added is as the stage's last layers.

    Layers are added behind a stage's last and left out from the last on. An added one is named after what the stage
    starts from, `START_more1` and so on: neither how many come nor which of a stage's own layers are there changes the
    name, so names stay weight slots.
    """
    graph = graph.simplify()
    changed = _Changed(graph)
    for stage in stages(graph):
        wanted = rounding.depth(stage.depth, multiplier) - stage.changing
        if wanted < len(stage.layers):
            changed.shorten(stage, wanted)
        else:
            changed.lengthen(stage, wanted)
    return changed.graph()


# ---- finding stages ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """A residual block in its place.

    Attributes:
        block: whose place it is.
        start: what it reads.
        way: nodes without weights, the first behind `source`, the last `start`; empty where it reads a sum itself.
        source: the nearest sum, or node with weights, that it comes from.
        prefix: what the names of its nodes with weights have in common, up to a dot.
    """

    block: Block
    start: str
    way: tuple[str, ...]
    source: str
    prefix: str


def _rows(graph: Graph) -> list[list[_Part]]:
    """Rows of blocks of which each reads the one before; of nested blocks only the inner ones.

    An inner branch without a layer (a norm of responses, say) is a part of its block, and no block.
    """
    from ..coupling.blocks import find_blocks

    blocks = find_blocks(graph)
    inside = {name for block in blocks for name in block.nodes}
    blocks = tuple(b for b in blocks if b.sum not in inside or any(_weighs(graph[n]) for n in b.nodes))
    sums = {block.sum for block in blocks}
    rows: list[list[_Part]] = []
    ends: dict[str, list[_Part]] = {}
    for block in blocks:
        if sums & set(block.nodes):
            continue
        part = _part(graph, block)
        row = ends.pop(part.source, None)
        if row is None:
            row = []
            rows.append(row)
        row.append(part)
        ends[block.sum] = row
    return rows


def _part(graph: Graph, block: Block) -> _Part:
    start = name = graph[block.sum].inputs[1 - block.branch]
    way: list[str] = []
    while _passes(graph, name):
        way.insert(0, name)
        (name,) = graph[name].inputs
    names = [n.split(".") for n in block.nodes if graph[n].signature.cost.params]
    common = 0
    while all(len(n) > common and n[common] == names[0][common] for n in names):
        common += 1
    return _Part(block, start, tuple(way), name, ".".join(names[0][:common]))


def _weighs(node: Node) -> bool:
    """Whether it is a layer as papers count them: a convolution or a linear map."""
    return bool(node.signature.cost.params and node.signature.cost.macs)


def _passes(graph: Graph, name: str) -> bool:
    """Whether a node gives a value of the same shape for one value, without weights."""
    node = graph[name]
    return len(node.inputs) == 1 and not node.signature.cost.params and graph[node.inputs[0]].shape == node.shape


def _layers(graph: Graph, row: Sequence[_Part]) -> tuple[Layer, ...]:
    """The layers of a row: blocks of one module are one layer."""
    tails = [part.way for part in row[1:]] + [_last_tail(graph, row)]
    joined: list[list[int]] = []
    for i, part in enumerate(row):
        if joined and part.prefix and part.prefix == row[joined[-1][-1]].prefix:
            joined[-1].append(i)
        else:
            joined.append([i])
    order = {node.name: i for i, node in enumerate(graph.nodes)}
    layers = []
    for members in joined:
        nodes = [n for i in members for n in (*row[i].block.nodes, row[i].block.sum, *tails[i])]
        first, last = row[members[0]], members[-1]
        outputs = (row[last].block.sum, *tails[last])
        name = first.prefix or first.block.name
        layers.append(Layer(name, first.start, tuple(sorted(nodes, key=order.__getitem__)), outputs))
    return tuple(layers)


def _last_tail(graph: Graph, row: Sequence[_Part]) -> tuple[str, ...]:
    """Nodes without weights behind the last block that are its own, as those between the blocks before are.

    Of a single block behind a stem nothing is known but what follows: an activation that alone reads it is its own.
    """
    total = row[-1].block.sum
    readers = [n for n in graph.nodes if total in n.inputs]
    if len(row) == 1 and graph[row[0].source].operator != "add":
        own = len(readers) == 1 and readers[0].operator == "activation"
        return (readers[0].name,) if own else ()
    tail: list[str] = []
    for name in row[-1].way:
        signature = graph[name].signature
        following = next((n.name for n in readers if n.signature == signature), None)
        if following is None:
            return ()
        tail.append(following)
        readers = [n for n in graph.nodes if following in n.inputs]
    return tuple(tail)


def _changes(before: Iterable[Node], name: str) -> bool:
    """Whether what stands between the stage before and a first layer of this name holds a block of its stage.

    That is more than the one layer that brings a width to another, and, where names number the blocks of a container,
    something of the same container.
    """
    weighed = [node.name for node in before if _weighs(node)]
    numbered = re.match(r"(.*?)\d+(\.\D+)?$", name)
    return len(weighed) > 1 and (numbered is None or any(n.startswith(numbered[1]) for n in weighed))


def _period(graph: Graph, layers: Sequence[Layer]) -> int:
    """The fewest layers whose repetition gives all of them, by their operators; 1 where it takes all."""
    kinds = [[graph[n].operator for n in layer.nodes] for layer in layers]
    for period in range(1, len(kinds) // 2 + 1):
        if len(kinds) % period == 0 and all(a == b for a, b in zip(kinds, kinds[period:], strict=False)):
            return period
    return 1


# ---- changing them -------------------------------------------------------------------------------------------


class _Changed:
    """The nodes of a graph while layers come and go.

    Attributes:
        nodes: by name.
        alias: what is read now in the place of a node; of nodes whose readers were given another.
    """

    def __init__(self, graph: Graph) -> None:
        self.nodes = {node.name: node for node in graph.nodes}
        self.alias: dict[str, str] = {}
        self._outputs = graph.outputs

    def shorten(self, stage: Stage, wanted: int) -> None:
        """Leave out the last layers; what read them reads the last that stays."""
        last = stage.layers[-1]
        stays = stage.layers[wanted - 1].outputs if wanted else (self._now(stage.layers[0].start),)
        for layer in stage.layers[wanted:]:
            for name in layer.nodes:
                del self.nodes[name]
        self._redirect(_paired(last.outputs, stays), ())

    def lengthen(self, stage: Stage, wanted: int) -> None:
        """Repeat the last pattern of layers; what read the last layer reads the last copy."""
        have, last = len(stage.layers), stage.layers[-1]
        inside, end, outputs = set(last.nodes), last.end, last.outputs
        for i in range(have, wanted):
            layer = stage.layers[have - stage.period + (i - have) % stage.period]
            names = self._names(layer, stage.layers[0].start)
            made = {self._now(layer.start): end, **names}
            for name in layer.nodes:
                node = self.nodes[name]
                copy = Node(names[name], node.signature, tuple(made.get(n, n) for n in node.inputs))
                self.nodes[copy.name] = copy
            inside.update(names.values())
            outputs = tuple(names[o] for o in layer.outputs)
            end = outputs[-1]
        if end != last.end:
            fits = len(outputs) == len(last.outputs)
            self._redirect(
                dict(zip(last.outputs, outputs if fits else (end,) * len(last.outputs), strict=True)), inside
            )

    def _names(self, layer: Layer, start: str) -> dict[str, str]:
        """Names of a copy in a stage that starts from a node, by those of the layer; the first that are free."""
        for k in itertools.count(1):
            names = {n: f"{start}_more{k}.{_inside(n, layer.name)}" for n in layer.nodes}
            if not any(n in self.nodes for n in names.values()):
                break
        return names

    def _now(self, name: str) -> str:
        while name in self.alias:
            name = self.alias[name]
        return name

    def _redirect(self, reads: Mapping[str, str], inside: Collection[str]) -> None:
        """Give readers other nodes to read, but for those inside."""
        self.alias.update(reads)
        for node in list(self.nodes.values()):
            if node.name not in inside and any(n in reads for n in node.inputs):
                inputs = tuple(reads.get(n, n) for n in node.inputs)
                self.nodes[node.name] = Node(node.name, node.signature, inputs)

    def graph(self) -> Graph:
        """The graph as it is now, each node behind what it reads."""
        ordered: dict[str, Node] = {}
        for name in self.nodes:
            waiting = [name]
            while waiting:
                node = self.nodes[waiting[-1]]
                missing = [n for n in node.inputs if n not in ordered]
                waiting.extend(reversed(missing))
                if not missing:
                    ordered.setdefault(waiting.pop(), node)
        return Graph(tuple(ordered.values()), tuple(self._now(o) for o in self._outputs)).live()


def _paired(old: tuple[str, ...], new: tuple[str, ...]) -> dict[str, str]:
    """The new output for each old one: its counterpart, or the last where they are not alike."""
    return dict(zip(old, new if len(old) == len(new) else new[-1:] * len(old), strict=True))


def _inside(name: str, module: str) -> str:
    """The name of a node within a module; that of one outside of it is its own."""
    if name == module:
        return name.rpartition(".")[2]
    return name.removeprefix(f"{module}.")
