"""The graph whose nodes are channels and whose edges are kernels, valued by their operator norms.

Each value of the operator graph gets a node for each channel, or those of what it is made of where channels only move.
Kernels are edges that can be removed; sums, pooling and resizing are edges from a channel to itself that cannot.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np

from search_spaces import Network
from search_spaces.errors import ConfigError, did_you_mean
from search_spaces.graph import Graph, Node
from search_spaces.network import slot
from search_spaces.operators.base import inner_axis, spread

from .lean_chains import PATIENCE, Extraction, Layer, extract
from .lean_norms import CONVOLUTIONS, GRID, batch_norm_scales, node_norms, operator_norms

SCALES = ("none", "network", "layer")
MIXING = CONVOLUTIONS | {"linear", "matmul", "scaled_dot_product_attention", "again", "other"}


def prunable(graph: Graph, heads: bool = False) -> tuple[Node, ...]:
    """Convolutions whose kernels may be cut: not those that run twice, nor those that make outputs unless `heads`."""
    kept = {slot(n) for n in graph.nodes if n.operator == "again"} | (set() if heads else _heads(graph))
    return tuple(n for n in graph.nodes if n.operator in CONVOLUTIONS and n.name not in kept)


def _heads(graph: Graph) -> set[str]:
    """Nodes that mix channels and from which an output is reached without another such node."""
    found: set[str] = set()
    reach = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.name in reach:
            if node.operator in MIXING:
                found.add(node.name)
            else:
                reach.update(node.inputs)
    return found


@dataclass(eq=False)
class ChannelGraph:
    """Channels and the edges between them.

    Attributes:
        count: how many channels have a node.
        layers: the edges, in topological order.
        shapes: `(out, in / groups)` of each convolution whose kernels may be cut.
    """

    count: int = 0
    layers: list[Layer] = field(default_factory=list)
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    _layer_of: dict[str, int] = field(default_factory=dict)

    def fresh(self, channels: int) -> np.ndarray:
        """Numbers of new nodes."""
        self.count += channels
        return np.arange(self.count - channels, self.count)

    def link(self, sources: np.ndarray, value: float | np.ndarray = 1.0) -> np.ndarray:
        """New nodes with an edge from each of `(channels, in)` others that is never removed; their numbers."""
        with np.errstate(divide="ignore"):
            values = np.log(np.broadcast_to(value, (len(sources),)))
        targets = self.fresh(len(sources))
        self.layers.append(Layer(int(targets[0]), sources, np.repeat(values[:, None], sources.shape[1], 1)))
        return targets

    def convolve(self, name: str, sources: np.ndarray, norms: np.ndarray) -> np.ndarray:
        """New nodes with an edge for each kernel, from `(groups, in)` others; their numbers."""
        with np.errstate(divide="ignore"):
            logs = np.log(norms)
        offset = self.kernels
        targets = self.fresh(len(norms))
        self._layer_of[name], self.shapes[name] = len(self.layers), (int(norms.shape[0]), int(norms.shape[1]))
        self.layers.append(Layer(int(targets[0]), sources, logs, offset))
        return targets

    def fold(self, name: str, scales: np.ndarray) -> None:
        """Multiply all edges into each output channel of a convolution."""
        with np.errstate(divide="ignore"):
            self.layers[self._layer_of[name]].logs[:] += np.log(scales)[:, None]

    @property
    def kernels(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    def parts(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """A vector over all kernels as a matrix `(out, in / groups)` for each convolution."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes.values()])
        pieces = np.split(flat, ends[:-1]) if self.shapes else []
        return {n: piece.reshape(shape) for (n, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    def norms(self) -> dict[str, np.ndarray]:
        """Norms of the kernels, batch norms folded in."""
        return {name: np.exp(self.layers[i].logs) for name, i in self._layer_of.items()}

    def scaled(self, scale: str) -> ChannelGraph:
        """The same with norms divided by the median of all of them ("network") or of their layer ("layer").

        Chains are made of norms above 1; where training has made all norms small there are none otherwise.
        """
        if scale not in SCALES:
            raise ConfigError(f"unknown scale {scale!r}: {did_you_mean(scale, SCALES)}")
        own = {i: layer.logs[layer.logs > -np.inf] for i, layer in enumerate(self.layers) if layer.offset is not None}
        together = np.concatenate([np.zeros(0), *own.values()])
        layers = []
        for i, layer in enumerate(self.layers):
            known = own[i] if scale == "layer" and i in own else together
            if scale == "none" or i not in own or not len(known):
                layers.append(layer)
            else:
                layers.append(Layer(layer.first, layer.sources, layer.logs - np.median(known), layer.offset))
        return ChannelGraph(self.count, layers, self.shapes, self._layer_of)

    def extract(self, quota: int | None = None, patience: int = PATIENCE) -> Extraction:
        """Take kernels by longest chains; see `lean_chains.extract`."""
        return extract(self.count, self.layers, quota, patience)


def channel_graph(graph: Graph, network: Network, *, grid: int = GRID, heads: bool = False) -> ChannelGraph:
    """The channels and kernels of a network.

    Args:
        graph: simplified, with the names of the network's modules.
        grid: pixels along each axis of the image that norms are taken on.
        heads: whether kernels that make the network's outputs may be cut; chains end before them otherwise.
    """
    return _Builder(graph, network, grid, {n.name for n in prunable(graph, heads)}).build()


class _Builder:
    """Walks through the operator graph and keeps the node numbers of each value's channels."""

    def __init__(self, graph: Graph, network: Network, grid: int, prunable: Collection[str]) -> None:
        self.graph, self.network, self.grid, self.prunable = graph, network, grid, prunable
        self.readers = Counter(i for node in graph.nodes for i in node.inputs)
        self.channels = ChannelGraph()
        self.of: dict[str, np.ndarray] = {}

    def build(self) -> ChannelGraph:
        for node in self.graph.nodes:
            found = _RULES.get(node.operator, _end)(self, node)
            if not node.shape or len(found) != node.shape[0]:
                found = self.channels.fresh(node.shape[0] if node.shape else 1)
            self.of[node.name] = found
        return self.channels

    def source(self, node: Node) -> np.ndarray:
        """Numbers of the channels of a node's first input."""
        return self.of[node.inputs[0]]


Rule = Callable[[_Builder, Node], np.ndarray]


def _end(builder: _Builder, node: Node) -> np.ndarray:
    """Chains end here; others begin at the channels of the node."""
    return builder.channels.fresh(node.shape[0] if node.shape else 1)


def _convolution(builder: _Builder, node: Node) -> np.ndarray:
    if node.name not in builder.prunable:
        return _end(builder, node)
    norms = node_norms(builder.network, node, builder.grid)
    sources = builder.source(node).reshape(node.attributes["groups"], -1)
    return builder.channels.convolve(node.name, sources, norms)


def _batch_norm(builder: _Builder, node: Node) -> np.ndarray:
    """Its scale is folded into the convolution before it, or an edge where something else reads that too."""
    scales, before = batch_norm_scales(builder.network, node), node.inputs[0]
    if before in builder.prunable and builder.readers[before] == 1:
        builder.channels.fold(before, scales)
        return builder.of[before]
    return builder.channels.link(builder.source(node)[:, None], scales)


def _pass(builder: _Builder, node: Node) -> np.ndarray:
    """Activations are 1-Lipschitz or nearly so; what normalisers by the data's own statistics do is not known."""
    return builder.source(node)


def _scalar(builder: _Builder, node: Node) -> np.ndarray:
    factor = abs(node.attributes["value"])
    if node.attributes["kind"] == "multiply":
        return builder.channels.link(builder.source(node)[:, None], factor)
    if node.attributes["kind"] == "divide" and factor:
        return builder.channels.link(builder.source(node)[:, None], 1 / factor)
    return builder.source(node)


def _pool(builder: _Builder, node: Node) -> np.ndarray:
    """The norm of averaging over the window; a maximum counts as the average in its place."""
    axes = len(node.shape) - 1
    size = spread(node.attributes["kernel_size"], axes)
    stride = node.attributes["stride"]
    strides = size if stride is None else spread(stride, axes)
    norm = float(operator_norms(np.full(size, 1 / math.prod(size)), strides, builder.grid))
    return builder.channels.link(builder.source(node)[:, None], norm)


def _resize(builder: _Builder, node: Node) -> np.ndarray:
    """The norm of averaging over, or repeating, pixels: the root of how many there are after for each before."""
    before = node.signature.inputs[0]
    if node.operator == "mean" and 0 in {inner_axis("mean", before, a) for a in node.attributes["axes"]}:
        return _end(builder, node)
    ratio = math.sqrt(math.prod(node.shape[1:]) / math.prod(before[1:]))
    return builder.source(node) if ratio == 1 else builder.channels.link(builder.source(node)[:, None], ratio)


def _together(builder: _Builder, node: Node) -> np.ndarray:
    """Channel c of the result has an edge from channel c of each operand of its shape."""
    shapes = zip(node.inputs, node.signature.inputs, strict=True)
    whole = [builder.of[name] for name, shape in shapes if shape == node.shape]
    if not whole:
        return _end(builder, node)
    return whole[0] if len(whole) == 1 else builder.channels.link(np.stack(whole, 1))


def _concat(builder: _Builder, node: Node) -> np.ndarray:
    if node.attributes["axis"] % len(node.shape):
        return builder.channels.link(np.stack([builder.of[i] for i in node.inputs], 1))
    return np.concatenate([builder.of[i] for i in node.inputs])


def _moved(builder: _Builder, node: Node) -> np.ndarray:
    """The operator is run on the numbers of the channels; a channel made of several ends the chains."""
    import torch

    from search_spaces.network import function

    shape = node.signature.inputs[0]
    numbers = torch.from_numpy(builder.source(node) + 1.0).reshape(1, -1, *(1,) * (len(shape) - 1))
    call = function(node.signature.operator.expression("x0") or "", 1)
    rows = call(numbers.expand(1, *shape).contiguous())[0].reshape(node.shape[0], -1).round().long()
    highest = rows.amax(1)
    same = ((rows == highest[:, None]) | (rows == 0)).all(1) & (highest > 0)  # zeros are a border
    ended = builder.channels.fresh(int((~same).sum()))
    found = highest.numpy() - 1
    found[~same.numpy()] = ended
    return found


_RULES: dict[str, Rule] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    "batch_norm": _batch_norm,
    **dict.fromkeys(("activation", "dropout", "elementwise", "clamp", "cast", "identity", "prelu", "softmax"), _pass),
    **dict.fromkeys(("group_norm", "instance_norm", "layer_norm", "rms_norm", "normalize"), _pass),
    "scalar": _scalar,
    **dict.fromkeys((f"{kind}_pool{axes}d" for kind in ("max", "avg") for axes in (1, 2)), _pool),
    **dict.fromkeys((f"adaptive_{kind}_pool{axes}d" for kind in ("max", "avg") for axes in (1, 2)), _resize),
    **dict.fromkeys(("resize", "mean"), _resize),
    **dict.fromkeys(("add", "subtract", "multiply", "combine"), _together),
    "concat": _concat,
    **dict.fromkeys(("reshape", "flatten", "permute", "slice", "select", "pick", "pad", "tile"), _moved),
    **dict.fromkeys(("roll", "flip"), _moved),
}
