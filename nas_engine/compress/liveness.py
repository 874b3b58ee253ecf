"""Which channels still matter when kernels are gone: those that are not zero, and those that something reads.

Convolutions are judged by their masks. Operators without weights are run: a channel is alive if any of its values is
not zero where dead inputs are, and it is needed if a derivative comes back to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from search_spaces.graph import Graph, Node
from search_spaces.network import function

from .criteria.lean_norms import CONVOLUTIONS

_EACH = frozenset({"activation", "dropout", "scalar", "elementwise", "clamp", "cast", "batch_norm", "prelu"})
_SILENT = frozenset({"dropout", "prelu"})  # modules that leave zeros what they are
_ZEROS = frozenset({"pad", "pick", "zero"})  # operators that may add channels of zeros
_PROBES = 64  # values of each channel in a run of an operator, at least: no ReLU stops all of them


@dataclass(eq=False)
class Life:
    """What is known of channels, along the first axis of each node's value.

    Attributes:
        graph: simplified.
        masks: `(out, in / groups)` bool of the convolutions whose kernels may go; updated by `run`.
        silenced: channels of batch norms that count as dead whatever they read.
        alive: channels that are not zero, by node.
        needed: channels from which a way leads to an output.
    """

    graph: Graph
    masks: dict[str, np.ndarray]
    silenced: Mapping[str, np.ndarray] = field(default_factory=dict)
    alive: dict[str, np.ndarray] = field(default_factory=dict)
    needed: dict[str, np.ndarray] = field(default_factory=dict)

    def run(self) -> Life:
        """Remove kernels from dead and into unneeded channels until nothing changes."""
        before = -1
        while (left := sum(int(m.sum()) for m in self.masks.values())) != before:
            before = left
            self._forward()
            self._backward()
        return self

    def unread(self, node: str) -> np.ndarray:
        """(in,) channels that a convolution with masks reads no more."""
        mask, groups = self.masks[node], self.graph[node].attributes["groups"]
        return ~mask.reshape(groups, -1, mask.shape[1]).any(1).ravel()

    def _forward(self) -> None:
        for node in self.graph.nodes:
            self.alive[node.name] = self._lives(node, [self.alive[i] for i in node.inputs])

    def _lives(self, node: Node, inputs: list[np.ndarray]) -> np.ndarray:
        everything = np.ones(_channels(node.shape), dtype=bool)
        if node.name in self.masks:
            self.masks[node.name] = self.masks[node.name] & _by_row(inputs[0], node)
            return np.asarray(self.masks[node.name].any(1))
        if node.operator == "batch_norm" and node.attributes["affine"]:
            return inputs[0] & self._heard(node)
        if node.operator in _SILENT and node.attributes.get("kind") != "alpha":
            return inputs[0]
        if not node.signature.pure or (node.operator not in _ZEROS and all(i.all() for i in inputs)):
            return everything
        return _not_zero(node, inputs)

    def _backward(self) -> None:
        self.needed = {n.name: np.zeros(_channels(n.shape), dtype=bool) for n in self.graph.nodes}
        for name in self.graph.outputs:
            self.needed[name][:] = True
        for node in reversed(self.graph.nodes):
            for name, needs in zip(node.inputs, self._reads(node, self.needed[node.name]), strict=True):
                self.needed[name] |= needs

    def _reads(self, node: Node, needed: np.ndarray) -> list[np.ndarray]:
        shapes = node.signature.inputs
        if node.name in self.masks:
            self.masks[node.name] = self.masks[node.name] & needed[:, None]
            return [~self.unread(node.name)]
        if not needed.any():
            return [np.zeros(_channels(s), dtype=bool) for s in shapes]
        if node.operator in _EACH:
            return [needed & self._heard(node)]
        if node.operator in CONVOLUTIONS:
            groups = node.attributes["groups"]
            return [np.repeat(needed.reshape(groups, -1).any(1), shapes[0][0] // groups)]
        if not node.signature.pure or needed.all():
            return [np.ones(_channels(s), dtype=bool) for s in shapes]
        return _derived(node, needed)

    def _heard(self, node: Node) -> np.ndarray | bool:
        return ~self.silenced[node.name] if node.name in self.silenced else True


def _channels(shape: tuple[int, ...]) -> int:
    return shape[0] if shape else 1


def _by_row(alive: np.ndarray, node: Node) -> np.ndarray:
    """What of the input each output channel of a convolution may read, `(out, in / groups)`."""
    groups = node.attributes["groups"]
    return np.repeat(alive.reshape(groups, -1), node.shape[0] // groups, 0)


def _probe(node: Node, position: int) -> torch.Tensor:
    """Random numbers for an input; all inputs have the same number of examples."""
    places = min((math.prod(shape[1:]) for shape in (*node.signature.inputs, node.shape)), default=1)
    size = (max(2, -(-_PROBES // places)), *node.signature.inputs[position])
    return torch.randn(size, generator=torch.Generator().manual_seed(position))


def _shaped(channels: np.ndarray, rank: int) -> torch.Tensor:
    """A vector of channels that multiplies a value with a batch in front."""
    return torch.from_numpy(channels.astype(np.float32)).reshape(1, *(-1, *(1,) * (rank - 1))[:rank])


def _call(node: Node, values: list[torch.Tensor]) -> torch.Tensor | None:
    """The value of an operator without weights; None if it is not one of numbers with a derivative."""
    expression = node.signature.operator.expression(*(f"x{i}" for i in range(len(values))))
    try:
        out = function(expression or "", len(values))(*values)
    except (RuntimeError, IndexError):  # it wants whole numbers, say: nothing is known of it
        return None
    return out if isinstance(out, torch.Tensor) and out.is_floating_point() else None


def _not_zero(node: Node, inputs: list[np.ndarray]) -> np.ndarray:
    """Channels of the result that are not zero for random inputs whose dead channels are."""
    ranks = [len(shape) for shape in node.signature.inputs]
    values = [_probe(node, i) * _shaped(a, rank) for i, (a, rank) in enumerate(zip(inputs, ranks, strict=True))]
    out = _call(node, values)
    if out is None:
        return np.ones(_channels(node.shape), dtype=bool)
    return _touched(out)


def _touched(value: torch.Tensor) -> np.ndarray:
    """Channels of a value with a batch in front that hold anything but zeros."""
    found: np.ndarray = (value.reshape(len(value), _channels(tuple(value.shape[1:])), -1) != 0).any(2).any(0).numpy()
    return found


def _derived(node: Node, needed: np.ndarray) -> list[np.ndarray]:
    """Channels of the inputs on which the needed channels of the result depend."""
    values = [_probe(node, i).requires_grad_() for i in range(len(node.inputs))]
    out = _call(node, values)
    if out is None or not out.requires_grad:
        return [np.ones(_channels(s), dtype=bool) for s in node.signature.inputs]
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)) * _shaped(needed, len(node.shape))
    slopes = torch.autograd.grad(out, values, weight, allow_unused=True)
    return [
        np.zeros(_channels(s), dtype=bool) if g is None else _touched(g)
        for g, s in zip(slopes, node.signature.inputs, strict=True)
    ]
