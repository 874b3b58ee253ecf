"""The memory of a training step, counted from a graph.

The step is walked through as autograd does it: forward, where each value lives until its last reader has run or for as
long as something keeps it, then backwards, where what was kept goes and gradients come. A reversible stack keeps its
output alone and works in the memory of one function at a time.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache

from search_spaces.graph import Graph, GraphBuilder, Node, Signature
from search_spaces.operators.base import FLOAT_BYTES

from .base import CostModel, register_cost_model
from .retention import Retention, numbers, retention

_WIDE = 2  # sums of reversible layers are in float64
_OPTIMIZER = 2  # Adam's two moments
_MIXED = 15  # times the features is what Anderson's method holds: five iterates, their steps, and what it makes of them


@register_cost_model("train_memory_bytes")
class TrainMemoryBytes(CostModel):
    """Peak bytes of one training step with Adam in float32, beyond the data: weights, gradients, moments, what is kept
    for gradients, and the largest passing need. Networks of graphs run their reversible stacks reversibly.

    Args:
        batch: examples in a step, or graphs.
    """

    unit = "bytes"

    def __init__(self, batch: int = 1) -> None:
        self.batch = batch

    def cost(self, graph: Graph) -> float:
        simple = graph.simplify(undone)
        weights = numbers(*[sum(_params(node.signature) for node in simple.nodes)])
        largest = max((_largest(node.signature) for node in simple.nodes), default=0)
        walk = Walk(simple, self.batch, loss=True)
        return float((1 + _OPTIMIZER) * weights + max(walk.train(), weights + largest))


def undone(node: Node) -> bool:
    """Whether a network undoes this node's layers for their gradient, as it does by default."""
    return node.operator == "graph_stack" and node.attributes["connection"] == "reversible"


def _params(signature: Signature) -> int:
    return signature.cost.params


def _largest(signature: Signature) -> int:
    """Bytes of what Adam needs beside the moments of one operator's weights while it changes them."""
    if signature.body is not None:
        return max((_largest(node.signature) for node in signature.body.nodes), default=0)
    return 2 * numbers(signature.cost.params)


# ---- the walk --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Storage:
    """Memory of one value, or of a gradient that several values have in common.

    Attributes:
        size: bytes.
        readers: nodes that have yet to read it.
        keepers: nodes that keep it for their gradient.
    """

    size: int
    readers: int = 0
    keepers: int = 0


@dataclass(slots=True)
class Walk:
    """One training step through a graph of primitive nodes and whole stacks.

    Args:
        graph: simplified.
        batch: examples.
        loss: a cross-entropy follows, otherwise the gradient of the output comes from outside.
        differentiated: inputs that need a gradient, by name.
    """

    graph: Graph
    batch: int
    loss: bool = False
    differentiated: frozenset[str] = frozenset()
    live: int = 0
    peak: int = 0
    _values: dict[str, _Storage] = field(default_factory=dict)
    _slopes: dict[str, _Storage] = field(default_factory=dict)
    _needs: set[str] = field(default_factory=set)

    def infer(self) -> int:
        """Peak bytes of running the graph with nothing kept, inputs not counted."""
        self._forward(keep=False)
        return self.peak

    def train(self) -> int:
        """Peak bytes of running it and forming its gradients, those of weights and inputs included."""
        self._forward(keep=True)
        given = [self._bytes(self.graph[name].signature) for name in self.graph.outputs]
        logarithms = sum(given) if self.loss else 0  # of probabilities, from which the gradient is formed
        self.live += logarithms
        for name, size in zip(self.graph.outputs, given, strict=True):
            self._arrive(name, _Storage(size), size)
        self.live -= logarithms
        for node in reversed(self.graph.nodes):
            if node.name in self._slopes and node.operator != "input":
                self._backward(node)
        return self.peak

    def _tell(self, passing: int = 0) -> None:
        self.peak = max(self.peak, self.live + passing)

    def _bytes(self, signature: Signature) -> int:
        return self.batch * numbers(*signature.shape)

    def _rule(self, node: Node) -> Retention:
        rule, times = _rule(node.signature), self.batch
        if times == 1:
            return rule
        return replace(rule, held=times * rule.held, forward=times * rule.forward, backward=times * rule.backward)

    def _forward(self, keep: bool) -> None:
        reads = Counter(name for node in self.graph.nodes for name in set(node.inputs))
        reads.update(self.graph.outputs)
        reached = self._reached()
        for node in self.graph.nodes:
            rule, read = self._rule(node), [self._values[name] for name in dict.fromkeys(node.inputs)]
            learned = node.signature.cost.params > 0 or node.name in self.differentiated
            if node.name in reached and (learned or not self._needs.isdisjoint(node.inputs)):
                self._needs.add(node.name)
            kept = keep and node.name in self._needs
            if node.operator == "input" or (rule.shares and not node.inputs):
                self._values[node.name] = _Storage(0, reads[node.name])
                continue
            self._tell(rule.forward)
            if rule.shares:
                own = self._values[node.inputs[0]]
            else:
                own = _Storage(self._bytes(node.signature))
                self.live += own.size
            own.readers += reads[node.name]
            self._values[node.name] = own
            if kept:
                self.live += rule.held
                for storage in self._kept(node, rule):
                    storage.keepers += 1
            for storage in read:
                storage.readers -= 1
            for storage in {id(s): s for s in (own, *read)}.values():
                self._let_go(storage)
        self._tell()

    def _reached(self) -> set[str]:
        """Values that a gradient comes to; what is kept for others goes with them."""
        reached = set(self.graph.outputs)
        for node in reversed(self.graph.nodes):
            if node.name in reached and self._rule(node).cuts:
                reached.discard(node.name)
            elif node.name in reached:
                reached.update(node.inputs)
        return reached

    def _kept(self, node: Node, rule: Retention) -> list[_Storage]:
        kept = [self._values[node.inputs[i]] for i in rule.keeps if i < len(node.inputs)]
        return [*kept, self._values[node.name]] if rule.keeps_output else kept

    def _let_go(self, storage: _Storage) -> None:
        if not storage.readers and not storage.keepers:
            self.live -= storage.size
            storage.size = 0

    # ---- backwards

    def _arrive(self, name: str, slope: _Storage, new: int) -> None:
        """A gradient for a value, of which `new` bytes are not in memory yet; a second one is added to the first."""
        self.live += new
        self._tell()
        before = self._slopes.get(name)
        if before is None:
            slope.readers += 1
            self._slopes[name] = slope
            return
        if before.readers > 1:  # others read it as well, so that nothing can be added in place
            before.readers -= 1
            total = self._slopes[name] = _Storage(self._bytes(self.graph[name].signature), 1)
            self.live += total.size
            self._tell()
            self._drop(before)
        self._drop(slope)

    def _drop(self, slope: _Storage) -> None:
        if not slope.readers:
            self.live -= slope.size
            slope.size = 0

    def _backward(self, node: Node) -> None:
        rule, slope = self._rule(node), self._slopes.pop(node.name)
        wanted = [name for name in dict.fromkeys(node.inputs) if name in self._needs]
        weights = FLOAT_BYTES * node.signature.cost.params
        sizes = {name: self._bytes(self.graph[name].signature) for name in wanted}
        self._tell(rule.backward + (0 if rule.passes else sum(sizes.values())) + weights)
        self.live += weights
        for name in wanted:
            if rule.passes and self._same(node, name):
                self._arrive(name, slope, 0)
            else:
                self._arrive(name, _Storage(sizes[name]), sizes[name])
        slope.readers -= 1
        self._drop(slope)
        self.live -= rule.held
        for storage in self._kept(node, rule):
            storage.keepers -= 1
            self._let_go(storage)

    def _same(self, node: Node, name: str) -> bool:
        """Whether a gradient that is passed on needs no memory: it does where a part of a value was read."""
        joined = node.operator == "concat"
        return joined or math.prod(self.graph[name].shape) == math.prod(node.shape)


@cache
def _rule(signature: Signature) -> Retention:
    if signature.body is not None:
        return _stack(signature)
    if signature.operator.name == "graph_equilibrium":
        return _equilibrium(signature)
    rule, known = retention(signature)
    if not known:
        warnings.warn(
            f"what operator {signature.operator.name!r} keeps in training is not known: train_memory_bytes counts its "
            "inputs alone",
            stacklevel=2,
        )
    return rule


# ---- what works in the memory of one function ------------------------------------------------------------


def _stack(signature: Signature) -> Retention:
    """A stack that is undone: its output in float64, and passing by, other groups and one function's values."""
    layers = [node.signature for node in (signature.body or ()) if node.operator == "graph_layer"]
    inferred, trained = (max(_function(layer)[i] for layer in layers) for i in (0, 1))
    stream = numbers(*signature.shape)
    wide = _WIDE * stream
    part = stream // layers[0].operator.attributes["groups"]
    return Retention(
        keeps=tuple(range(1, len(signature.inputs))),
        held=wide,
        forward=2 * wide + max(part + inferred, stream),
        backward=wide + trained,
    )


@cache
def _function(layer: Signature) -> tuple[int, int]:
    """Peak bytes of a reversible layer's largest function, run alone and run for its gradient."""
    blocks = [node.signature for node in (layer.body or ()) if node.operator == "graph_block"]
    peaks = [(_walk(block).infer(), _walk(block, (0, 2)).train()) for block in blocks]
    return max(alone for alone, _ in peaks), max(both for _, both in peaks)


def _equilibrium(signature: Signature) -> Retention:
    """A fixed point: input and result are kept, and passing by, what the solver mixes and one function's values."""
    settings = {k: v for k, v in signature.operator.attributes.items() if k not in ("iterations", "tolerance")}
    block = Signature.named("graph_block", {**settings, "channels": signature.shape[-1]}, signature.inputs)
    stream = numbers(*signature.shape)
    return Retention(
        keeps=tuple(range(len(signature.inputs))),
        held=stream,
        forward=_MIXED * stream + _walk(block).infer(),
        backward=_MIXED * stream + _walk(block).train(),
    )


def _walk(block: Signature, differentiated: tuple[int, ...] = (0,)) -> Walk:
    """A step through a block; gradients are formed of inputs at some positions, but for masks."""
    g = GraphBuilder(*block.inputs)
    graph = g.build(g.add(block.operator.name, *g.inputs, name="f", **block.operator.attributes))
    features = g.inputs[: 2 + block.operator.attributes["edge_features"]]
    names = frozenset(node.name for i, node in enumerate(features) if i in differentiated)
    return Walk(graph.simplify(), 1, differentiated=names)
