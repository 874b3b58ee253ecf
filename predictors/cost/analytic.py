"""Costs that are counted: parameters, MACs, additions, shifts, bytes moved, and the peak of live activations.

All but the last are sums over nodes. The peak is no sum, but a composite changes it only through what goes in and what
comes out, so the peak inside a block is computed once for each situation it meets and looked up from then on.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from search_spaces.graph import Graph, Node, Signature
from search_spaces.operators.base import FLOAT_BYTES, Cost

from .base import CostModel, SignatureCosts, register_cost_model


class _Counted(CostModel):
    """A sum over all nodes, dead ones included, of one figure of `Cost`."""

    def __init__(self) -> None:
        self._values = SignatureCosts(self._of)

    @abstractmethod
    def figure(self, cost: Cost) -> float:
        """The figure of one operator that is summed."""

    def _of(self, signature: Signature) -> float:
        cost = signature.cost
        if not cost.counted:
            warnings.warn(
                f"{self.name} of operator {signature.operator.name!r} is not known and counts as "
                f"{self.figure(cost)}; Graph.uncounted names such nodes",
                stacklevel=2,
            )
        return self.figure(cost)

    def cost(self, graph: Graph) -> float:
        values = self._values
        return float(sum([values[node.signature] for node in graph.nodes]))

    def costs(self, graphs: Iterable[Graph]) -> NDArray[np.float64]:
        values = self._values
        return np.fromiter((sum([values[node.signature] for node in graph.nodes]) for graph in graphs), np.float64)


@register_cost_model("params")
class Params(_Counted):
    """Learned numbers."""

    unit = "parameters"

    def figure(self, cost: Cost) -> float:
        return cost.params


@register_cost_model("macs")
class Macs(_Counted):
    """Multiply-accumulates of one example: convolutions, linear layers and matrix products."""

    unit = "MACs"

    def figure(self, cost: Cost) -> float:
        return cost.macs


@register_cost_model("adds")
class Adds(_Counted):
    """Additions of one example outside multiply-accumulates: of biases and element-wise sums, and what
    multiplication-free operators do instead of multiplying (two a weight and output in an adder layer)."""

    unit = "additions"

    def figure(self, cost: Cost) -> float:
        return cost.adds


@register_cost_model("shifts")
class Shifts(_Counted):
    """Bit shifts of one example: what operators with weights that are powers of two do instead of multiplying."""

    unit = "shifts"

    def figure(self, cost: Cost) -> float:
        return cost.shifts


@register_cost_model("bytes_moved")
class BytesMoved(_Counted):
    """Memory-access cost of one example (ShuffleNet V2, section 2): every primitive operator reads its inputs and
    weights and writes its output once, in float32; views move nothing."""

    unit = "bytes"

    def figure(self, cost: Cost) -> float:
        return cost.bytes_moved


@register_cost_model("activation_bytes")
class ActivationBytes(CostModel):
    """Peak of live activation bytes in inference of one example, float32.

    The primitive nodes of `graph.inline()` run in order. A tensor lives from the node that makes it to the last node
    that reads it or a view of it; the graph's inputs and outputs live to the end. Weights are not activations.
    """

    unit = "bytes"

    def cost(self, graph: Graph) -> float:
        if (peak := _chain_peak(graph)) is not None:
            return float(peak)
        sizes = tuple(FLOAT_BYTES * math.prod(node.shape) for node in graph.inputs)
        return float(_peak(graph, tuple(range(len(sizes))), sizes, (True,) * len(sizes), graph.outputs))


@dataclass(frozen=True, slots=True)
class _Result:
    """What a signature does to memory, as seen from outside.

    Attributes:
        composite: it has a body, whose peak counts.
        reads: positions of the inputs that some primitive node reads.
        alias: position of the input whose storage the output shares, -1 where the output has its own.
        bytes: size of the output's own storage (more than the output where that is a view of part of it).
    """

    composite: bool
    reads: tuple[int, ...]
    alias: int
    bytes: int


_FOREVER = 1 << 60


@cache
def _result(signature: Signature) -> _Result:
    operator, body = signature.operator, signature.body
    if body is not None:
        return _composite_result(signature, body)
    reads = tuple(range(len(signature.inputs)))
    if operator.view and reads:
        return _Result(False, reads, 0, 0)
    stored = operator.view or operator.parameter() is not None  # among the weights
    return _Result(False, reads, -1, 0 if stored else FLOAT_BYTES * math.prod(signature.shape))


def _composite_result(signature: Signature, body: Graph) -> _Result:
    # origin of a tensor: (position of an input, 0) or (-1, bytes of its own storage)
    origin: dict[str, tuple[int, int]] = {node.name: (i, 0) for i, node in enumerate(body.inputs)}
    reads: set[int] = set()
    for node in body.nodes:
        if node.operator == "input":
            continue
        inner = _result(node.signature)
        reads.update(origin[node.inputs[i]][0] for i in inner.reads)
        origin[node.name] = (-1, inner.bytes) if inner.alias < 0 else origin[node.inputs[inner.alias]]
    alias, size = origin[body.outputs[0]]
    return _Result(True, tuple(sorted(reads - {-1})), alias, size)


def _chain_peak(graph: Graph) -> int | None:
    """`_peak` of a graph in which each node reads the one before it, which most spaces make; None for others."""
    before = graph.nodes[0].name
    if graph.nodes[0].signature.operator.name != "input" or graph.outputs != (graph.nodes[-1].name,):
        return None
    given = size = peak = FLOAT_BYTES * math.prod(graph.nodes[0].signature.shape)
    kept = True
    for node in graph.nodes[1:]:
        link = _link(node.signature, size, kept) if node.inputs == (before,) else None
        if link is None:
            return None
        top = link[0] if kept else link[0] + given
        if top > peak:
            peak = top
        _, size, kept = link
        before = node.name
    return peak


@cache
def _link(signature: Signature, size: int, kept: bool) -> tuple[int, int, bool] | None:
    """One node of a chain whose input has a storage of `size` bytes that outlives the chain or not (`kept`).

    Gives the peak within the node, and size and `kept` of the output's storage; None where the input is not read.
    """
    result = _result(signature)
    if not result.reads:
        return None
    shares = result.alias >= 0
    top = (
        _body_peak(signature, (0,), (size,), (kept or shares,), not shares) if result.composite else size + result.bytes
    )
    return (top, size, kept) if shares else (top, result.bytes, False)


def _peak(
    graph: Graph, groups: Sequence[int], sizes: Sequence[int], kept: Sequence[bool], outputs: Sequence[str]
) -> int:
    """Peak of live bytes while a graph runs, the storages of its inputs included as long as they live.

    Args:
        groups: for each input, the number of its storage; inputs may share one.
        sizes: bytes of these storages.
        kept: whether a storage is needed after the graph has run; one that is not dies with its last reader.
        outputs: the tensors needed after the graph has run.
    """
    storage, sizes, last = _lifetimes(graph, groups, sizes, kept, outputs)
    live = peak = sum(size for size, end in zip(sizes[: len(kept)], last, strict=False) if end >= 0)
    made = len(kept)
    for i, node in enumerate(graph.nodes):
        result = _result(node.signature)
        if node.signature.operator.name == "input":
            continue
        own = made if result.alias < 0 else -1
        during = live + _inside(node, i, own, storage, sizes, last) if result.composite else live
        if own >= 0:
            live += sizes[own]
            made += 1
        peak = max(peak, during, live)
        for s in {storage[name] for name in node.inputs} | {storage[node.name]}:
            if last[s] == i:
                live -= sizes[s]
    return peak


def _lifetimes(
    graph: Graph, groups: Sequence[int], sizes: Sequence[int], kept: Sequence[bool], outputs: Sequence[str]
) -> tuple[dict[str, int], list[int], list[int]]:
    """Storage of each tensor; bytes of each storage; the step after which it is free (-1: before the first)."""
    storage: dict[str, int] = {}
    sizes = list(sizes)
    last = [_FOREVER if keep else -1 for keep in kept]
    feed = iter(groups)
    for i, node in enumerate(graph.nodes):
        if node.signature.operator.name == "input":
            storage[node.name] = next(feed)
            continue
        result = _result(node.signature)
        for position in result.reads:
            s = storage[node.inputs[position]]
            if last[s] < i:
                last[s] = i
        if result.alias < 0:
            storage[node.name] = len(sizes)
            sizes.append(result.bytes)
            last.append(i)
        else:
            storage[node.name] = storage[node.inputs[result.alias]]
    for name in outputs:
        last[storage[name]] = _FOREVER
    return storage, sizes, last


def _inside(node: Node, i: int, own: int, storage: dict[str, int], sizes: list[int], last: list[int]) -> int:
    """Bytes at the peak inside a composite node beyond those live before it."""
    needed = own >= 0 and last[own] > i
    if len(node.inputs) == 1:
        s = storage[node.inputs[0]]
        end = last[s]
        inner = _body_peak(node.signature, (0,), (sizes[s],), (end > i,), needed)
        return inner - sizes[s] if end >= i else inner
    shared = list(dict.fromkeys(storage[name] for name in node.inputs))
    groups = tuple(shared.index(storage[name]) for name in node.inputs)
    kept = tuple(last[s] > i for s in shared)
    inner = _body_peak(node.signature, groups, tuple(sizes[s] for s in shared), kept, needed)
    return inner - sum(sizes[s] for s in shared if last[s] >= i)


@cache
def _body_peak(
    signature: Signature, groups: tuple[int, ...], sizes: tuple[int, ...], kept: tuple[bool, ...], needed: bool
) -> int:
    """`_peak` of a composite's body; `needed`: its output has a storage of its own, which is read afterwards."""
    body = signature.body
    if body is None:
        raise TypeError(f"{signature!r} is primitive")
    return _peak(body, groups, sizes, kept, body.outputs[:1] if needed else ())
