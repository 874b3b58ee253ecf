"""The cell space of NAS-Bench-201 (Dong and Yang 2020): five operations on the six edges of a four-node cell.

15,625 cells, 6,466 of them distinct once dead edges and identities are accounted for. The skeleton is the
published one (stem, three stages of equal cells, two residual reductions, linear head) with its sizes configurable.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from .errors import SpaceError
from .graph import Graph, GraphBuilder, Node
from .operators.base import Operator, Shape, register_operator
from .space import Architecture, Choice, SearchSpace
from .spaces import register_space

if TYPE_CHECKING:
    import numpy as np

OPERATIONS = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


@register_operator("relu_conv_bn")
class ReluConvBn(Operator):
    """ReLU, convolution without bias ("same" padding), batch normalisation."""

    out_channels: int
    kernel_size: int = 3
    stride: int = 1
    fused = True

    def body(self, *inputs: Shape) -> Graph:
        g = GraphBuilder(*inputs)
        x = g.add("activation", g.input, name="relu", kind="relu")
        x = g.add(
            "conv2d",
            x,
            name="conv",
            out_channels=self.out_channels,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding="same",
        )
        return g.build(g.add("batch_norm", x, name="bn"))


@register_operator("nasbench201_cell")
class Cell(Operator):
    """A four-node cell; `operations` in the order of `EDGES`. A node is the sum of its incoming edges."""

    operations: tuple[str, ...]

    def body(self, *inputs: Shape) -> Graph:
        g = GraphBuilder(*inputs)
        values = [g.input]
        for target in (1, 2, 3):
            parts = [
                self._edge(g, values[source], f"edge{source}{target}", operation)
                for (source, t), operation in zip(EDGES, self.operations, strict=True)
                if t == target and operation != "none"
            ]
            values.append(_total(g, parts, f"node{target}"))
        return g.build(values[-1])

    def _edge(self, g: GraphBuilder, x: Node, name: str, operation: str) -> Node:
        if operation == "skip_connect":
            return g.add("identity", x, name=f"{name}.skip_connect")
        if operation == "avg_pool_3x3":
            return g.add(
                "avg_pool2d",
                x,
                name=f"{name}.avg_pool_3x3",
                kernel_size=3,
                stride=1,
                padding=1,
                count_include_pad=False,
            )
        size = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}[operation]
        return g.add("relu_conv_bn", x, name=f"{name}.{operation}", out_channels=x.shape[0], kernel_size=size)


def _total(g: GraphBuilder, parts: Sequence[Node], name: str) -> Node:
    if not parts:
        return g.add("zero", g.input, name=name)
    return parts[0] if len(parts) == 1 else g.add("add", *parts, name=name)


@register_operator("nasbench201_reduction")
class Reduction(Operator):
    """Residual block of stride 2: two 3x3 convolutions, beside average pooling and a 1x1 convolution."""

    out_channels: int
    fused = True

    def body(self, *inputs: Shape) -> Graph:
        g = GraphBuilder(*inputs)
        x = g.add("relu_conv_bn", g.input, name="conv_a", out_channels=self.out_channels, stride=2)
        x = g.add("relu_conv_bn", x, name="conv_b", out_channels=self.out_channels)
        y = g.add("avg_pool2d", g.input, name="pool", kernel_size=2, stride=2, ceil_mode=True)
        y = g.add("conv2d", y, name="shortcut", out_channels=self.out_channels)
        return g.build(g.add("add", x, y, name="residual"))


@register_space("nasbench201")
class NasBench201(SearchSpace):
    """The topology space of NAS-Bench-201.

    Args:
        channels: channels of the first stage; they double at each reduction.
        cells: cells in each stage.
        stages: stages, with a reduction between two.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (3, 32, 32),
        classes: int = 10,
        channels: int = 16,
        cells: int = 5,
        stages: int = 3,
    ) -> None:
        super().__init__(
            [Choice(f"edge{s}{t}", OPERATIONS) for s, t in EDGES], input_shape=input_shape, classes=classes
        )
        self.channels, self.cells, self.stages = int(channels), int(cells), int(stages)

    def operations(self, architecture: Architecture) -> tuple[str, ...]:
        """The six operations in the order of `EDGES`."""
        return tuple(OPERATIONS[i] for i in architecture.indices)

    def graph(self, architecture: Architecture) -> Graph:
        operations = self.operations(architecture)
        g = GraphBuilder(self.input_shape)
        x = g.add("conv_bn_act", g.input, name="stem", out_channels=self.channels, activation=None)
        for stage in range(self.stages):
            if stage:
                width = self.channels * 2**stage
                x = g.add("nasbench201_reduction", x, name=f"reduction{stage}", out_channels=width)
            for cell in range(self.cells):
                x = g.add("nasbench201_cell", x, name=f"stage{stage}.cell{cell}", operations=operations)
        x = g.add("batch_norm", x, name="head.bn")
        x = g.add("activation", x, name="head.relu")
        return g.build(g.add("classifier", x, name="head.classifier", classes=self.classes))

    def sketch(self, architecture: Architecture) -> Graph:
        """One cell, without its dead edges."""
        cell = Cell(self.operations(self.canonical(architecture)))
        return cell.body((self.channels, *self.input_shape[1:])).live()

    def envelope(self):  # type: ignore[no-untyped-def]
        """The cells that have one operation on all edges: together they hold every operator of every edge."""
        for i in range(len(OPERATIONS)):
            yield self.from_indices([i] * len(EDGES))

    # ---- the published notation --------------------------------------------------------------------------

    def from_text(self, text: str) -> Architecture:
        """The cell in the benchmark's notation, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`; op~s is the edge from node s.

        Raises:
            SpaceError: another notation, or an unknown operation.
        """
        parts = [part.strip("|").split("|") for part in text.strip().split("+")]
        edges = [(part.rpartition("~")[2], t) for t, node in enumerate(parts, 1) for part in node]
        if edges != [(str(s), t) for s, t in EDGES]:
            raise SpaceError(f"{text!r} is not a cell; expected |op~0|+|op~0|op~1|+|op~0|op~1|op~2|")
        operations = [part.rpartition("~")[0] for node in parts for part in node]
        return self.from_indices([c.index(o) for c, o in zip(self.choices, operations, strict=True)])

    def to_text(self, architecture: Architecture) -> str:
        """Inverse of `from_text`."""
        operations = dict(zip(EDGES, self.operations(architecture), strict=True))
        return "+".join(f"|{'|'.join(f'{operations[s, t]}~{s}' for s in range(t))}|" for t in (1, 2, 3))

    # ---- isomorphism -------------------------------------------------------------------------------------

    def key(self, architecture: Architecture) -> str:
        """The cell as an expression in which dead edges are `#` and identities are looked through.

        The benchmark's own rule of isomorphism: 6,466 keys over the space.
        """
        operations = dict(zip(EDGES, self.operations(architecture), strict=True))
        nodes = ["0"]
        for target in (1, 2, 3):
            parts = [_term(nodes[s], operations[s, target]) for s in range(target)]
            nodes.append("+".join(sorted(parts)))
        return nodes[-1]

    def canonical(self, architecture: Architecture) -> Architecture:
        """The cheapest member with the same key (by weights, then by code)."""
        return self._representatives[self.key(architecture)]

    def symmetric(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """A member with the same key, all alike in probability."""
        same = self._isomorphic[self.key(architecture)]
        return same[int(rng.integers(len(same)))]

    @cached_property
    def _representatives(self) -> dict[str, Architecture]:
        return {key: min(same, key=self._expense) for key, same in self._isomorphic.items()}

    def _expense(self, architecture: Architecture) -> tuple[int, int, str]:
        operations = self.operations(architecture)
        weights = 9 * operations.count("nor_conv_3x3") + operations.count("nor_conv_1x1")
        return weights, -operations.count("none"), architecture.code

    @cached_property
    def _isomorphic(self) -> dict[str, list[Architecture]]:
        """All members of each key."""
        members: dict[str, list[Architecture]] = {}
        for a in self.enumerate():
            members.setdefault(self.key(a), []).append(a)
        return members


def _term(source: str, operation: str) -> str:
    if operation == "none" or source == "#":
        return "#"
    return source if operation == "skip_connect" else f"({source})@{operation}"
