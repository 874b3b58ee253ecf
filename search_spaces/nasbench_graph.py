"""The graph networks of NAS-Bench-Graph (Qin et al. 2022): four computing nodes, each of one of nine operations.

A computing node reads the input or an earlier computing node, and the output reads all nodes that no other reads.
Members, their isomorphism and their numbers are the published ones: 26,206 networks; so is the skeleton, whose sizes
are configurable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from itertools import permutations
from typing import TYPE_CHECKING, Any

from .errors import SpaceError
from .graph import Graph, GraphBuilder, Node
from .operators.base import Cost, Operator, Shape, register_operator
from .operators.message_passing import CONVOLUTIONS
from .space import Architecture, Choice, SearchSpace
from .spaces import register_space

if TYPE_CHECKING:
    import numpy as np

OPERATIONS = ("gat", "gcn", "gin", "cheb", "sage", "arma", "graph", "fc", "skip")
"""In the order of their digits in a network's number."""

LINKS = (
    (0, 0, 0, 0),
    (0, 0, 0, 1),
    (0, 0, 1, 1),
    (0, 0, 1, 2),
    (0, 0, 1, 3),
    (0, 1, 1, 1),
    (0, 1, 1, 2),
    (0, 1, 2, 2),
    (0, 1, 2, 3),
)
"""What nodes 1 to 4 read, 0 being the input; in the order of their digits. Every tree of four nodes is one of these."""

PUBLISHED: dict[str, dict[str, Any]] = {
    "cora": {"hidden": 256, "before": 0, "after": 1, "dropout": 0.7},
    "citeseer": {"hidden": 256, "before": 0, "after": 1, "dropout": 0.7},
    "pubmed": {"hidden": 128, "before": 0, "after": 0, "dropout": 0.3},
    "cs": {"hidden": 128, "before": 1, "after": 0, "dropout": 0.6},
    "physics": {"hidden": 256, "before": 1, "after": 1, "dropout": 0.4},
    "photo": {"hidden": 128, "before": 1, "after": 0, "dropout": 0.7},
    "computers": {"hidden": 64, "before": 1, "after": 1, "dropout": 0.1},
    "arxiv": {"hidden": 128, "before": 0, "after": 1, "dropout": 0.2},
    "proteins": {
        "hidden": 256,
        "before": 1,
        "after": 1,
        "dropout": 0.0,
        "operations": ("gcn", "sage", "arma", "fc", "skip"),
    },
}
"""The sizes that the benchmark trained with on each graph, as arguments of `NasBenchGraph`."""

_SKIP = OPERATIONS.index("skip")
_KINDS = {**{kind: kind for kind in OPERATIONS[:7]}, "gin": "gin_linear"}

Tree = tuple[tuple[int, ...], tuple[int, ...]]
"""What each node reads, and its operation's digit."""


@register_operator("graph_step")
class GraphStep(Operator):
    """A computing node as predictors read it: features of nodes `(N, F)` to `(N, channels)`; edges are understood.

    Attributes:
        operation: one of `OPERATIONS`.
        channels: features of a node after it.
        edges: of the graph, for the cost.
    """

    operation: str
    channels: int
    edges: int

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0] if self.operation == "skip" else (inputs[0][0], self.channels)

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        if self.operation == "skip":
            return Cost()
        nodes, features = inputs[0]
        if self.operation == "fc":
            weights = features * self.channels
            return self.moving(inputs, output, weights + self.channels, nodes * weights, nodes * self.channels)
        kind = CONVOLUTIONS[_KINDS[self.operation]]
        params = kind.params(features, self.channels, 0, True)
        macs = kind.macs(nodes, self.edges, features, self.channels, 0)
        return self.moving(inputs, output, params=params, macs=macs, adds=self.edges * self.channels)


@register_space("nasbench_graph")
class NasBenchGraph(SearchSpace):
    """The space of NAS-Bench-Graph.

    Choices are called like the columns of the public tables: `link` (what nodes 1 to 4 read, as in "0-1-1-2") and `op1`
    to `op4`. Members that the benchmark calls isomorphic are the same network: such that differ in the numbers of
    nodes, and in where a `skip` stands that nothing but its reader sees. A network of skips alone is none of the
    benchmark's; it can be made, but is not met on walks through the space.

    Args:
        input_shape: `(N, F)`, nodes and features of a node of the graph.
        edges: E of the graph; like N it only matters to costs.
        hidden: features of a node behind each computing node.
        before, after: linear layers in front of the computing nodes, and behind what joins their results.
        dropout: of the input and of what each computing node reads.
        heads: of `gat`.
        operations: some of `OPERATIONS`; on ogbn-proteins the benchmark has five.
    """

    input_axes = ("nodes", "features")

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (2708, 1433),
        classes: int = 7,
        edges: int = 10_556,
        hidden: int = 256,
        before: int = 0,
        after: int = 1,
        dropout: float = 0.7,
        heads: int = 2,
        operations: Sequence[str] = OPERATIONS,
    ) -> None:
        chosen = Choice("operation", OPERATIONS)
        digits = sorted(chosen.index(operation) for operation in operations)
        links = tuple("-".join(map(str, link)) for link in LINKS)
        options = tuple(OPERATIONS[d] for d in digits)
        super().__init__(
            [Choice("link", links), *(Choice(f"op{i}", options) for i in (1, 2, 3, 4))],
            input_shape=input_shape,
            classes=classes,
        )
        if min(edges, before, after) < 0 or min(hidden, heads) < 1 or hidden % heads or not 0 <= dropout < 1:
            raise SpaceError(
                f"space 'nasbench_graph' needs edges, before and after of 0 or more, hidden that heads divide, dropout "
                f"from 0 to below 1; got {edges}, {before}, {after}, {hidden} with {heads} heads, {dropout}"
            )
        self.edges, self.hidden, self.before, self.after = int(edges), int(hidden), int(before), int(after)
        self.dropout, self.heads = float(dropout), int(heads)
        self._digits, self._place = digits, {d: i for i, d in enumerate(digits)}

    # ---- the published notation --------------------------------------------------------------------------

    def tree(self, architecture: Architecture) -> Tree:
        """What nodes 1 to 4 read, and the digits of their operations."""
        link, *operations = architecture.indices
        return LINKS[link], tuple(self._digits[i] for i in operations)

    def from_tree(self, reads: Sequence[int], operations: Sequence[str | int]) -> Architecture:
        """The canonical member of a network whose nodes may stand in any order in which they read earlier ones.

        Args:
            reads: for each of the four nodes the number of the node it reads, 0 for the input.
            operations: of the nodes, by name or digit.

        Raises:
            SpaceError: another number of nodes, a node that reads itself or a later one, an unknown operation.
        """
        if len(reads) != 4 or len(operations) != 4 or not all(0 <= r <= i for i, r in enumerate(reads)):
            raise SpaceError(f"four nodes read 0 (the input) or an earlier node each; got {reads} and {operations}")
        names = [o if isinstance(o, str) else OPERATIONS[o] for o in operations]
        digits = tuple(self._digits[c.index(name)] for c, name in zip(self.choices[1:], names, strict=True))
        return self._member(_canonical((tuple(reads), digits)))

    def hash(self, architecture: Architecture) -> int:
        """The number under which the public tables have the network: the link and four operations, a digit each."""
        reads, operations = _canonical(self.tree(architecture))
        return int("".join(map(str, (LINKS.index(reads), *operations))))

    def from_hash(self, number: int) -> Architecture:
        """The canonical member of a number.

        Raises:
            SpaceError: not the number of a canonical member.
        """
        digits = [int(d) for d in f"{number:05d}"] if 0 <= number < 100_000 else []
        if not digits or digits[0] >= len(LINKS) or not set(digits[1:]) <= set(self._digits):
            raise SpaceError(f"{number} is not a network; expected a digit for the link and four for the operations")
        member = self._member((LINKS[digits[0]], tuple(digits[1:])))
        if self.hash(member) != number:
            raise SpaceError(f"{number} is not canonical, so no table has it; the same network is {self.hash(member)}")
        return member

    def from_text(self, text: str) -> Architecture:
        """The canonical member of a number that is written as text, with or without leading zeros."""
        if not text.isdecimal():
            raise SpaceError(f"{text!r} is not the number of a network; expected one such as 17777")
        return self.from_hash(int(text))

    def to_text(self, architecture: Architecture) -> str:
        """The number as the tables write it."""
        return str(self.hash(architecture))

    def _member(self, tree: Tree) -> Architecture:
        return self.from_indices([LINKS.index(tree[0]), *(self._place[d] for d in tree[1])])

    # ---- isomorphism -------------------------------------------------------------------------------------

    def canonical(self, architecture: Architecture) -> Architecture:
        """The member whose number stands for the network in the public tables."""
        return self._member(_canonical(self.tree(architecture)))

    def symmetric(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """A member that is the same network, all alike in probability."""
        same = self._isomorphic[self.canonical(architecture).indices]
        return self.from_indices(same[int(rng.integers(len(same)))])

    @cached_property
    def distinct(self) -> int:
        """Number of distinct networks."""
        return len(self._isomorphic)

    @cached_property
    def _isomorphic(self) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
        """Members by their canonical one, all as positions of options."""
        members: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for a in self.enumerate():
            members.setdefault(self.canonical(a).indices, []).append(a.indices)
        return members

    # ---- walking: all but networks of skips alone ----------------------------------------------------------

    def _empty(self, architecture: Architecture) -> bool:
        return all(d == _SKIP for d in self.tree(architecture)[1])

    @cached_property
    def size(self) -> int:
        return super().size - (len(LINKS) if _SKIP in self._place else 0)

    def enumerate(self) -> Iterator[Architecture]:
        return (a for a in super().enumerate() if not self._empty(a))

    def sample(self, rng: np.random.Generator) -> Architecture:
        while self._empty(member := super().sample(rng)):
            pass
        return member

    def mutate(self, architecture: Architecture, rng: np.random.Generator, changes: int = 1) -> Architecture:
        while self._empty(member := super().mutate(architecture, rng, changes)):
            pass
        return member

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        return (a for a in super().neighbours(architecture) if not self._empty(a))

    # ---- networks ----------------------------------------------------------------------------------------

    def graph(self, architecture: Architecture) -> Graph:
        """The published network of the canonical member.

        A computing node normalises (batch norm, ReLU, dropout) what it reads, unless that is the input itself; results
        of the last nodes are joined, go through a ReLU and a linear layer, and through `after` more.
        """
        g = GraphBuilder()
        x = g.add("input", name="x", size=self.input_shape)
        edges = g.add("input", name="edges", size=(2, self.edges), dtype="int64")
        x = self._dropped(g, x, "drop")
        for i in range(self.before):
            x = g.add("linear", x, name=f"before{i}", out_features=self.hidden)
        reads, operations = _canonical(self.tree(architecture))
        states, given = [x], [not self.before]
        for i, (read, digit) in enumerate(zip(reads, operations, strict=True), 1):
            states.append(self._step(g, states[read], edges, f"node{i}", OPERATIONS[digit], given[read]))
            given.append(given[read] and digit == _SKIP)
        ends = [i for i in range(1, 5) if i not in reads]
        return g.build(self._head(g, [states[i] for i in ends], own=not given[ends[0]]))

    def _step(self, g: GraphBuilder, x: Node, edges: Node, name: str, operation: str, given: bool) -> Node:
        """One computing node; weights that read the input are other ones than those that read another node."""
        if not given:
            x = g.add("node_batch_norm", x, name=f"{name}.norm")
            x = self._dropped(g, g.add("activation", x, name=f"{name}.act", kind="relu"), f"{name}.drop")
        slot = f"{name}.{operation}" + ("_of_input" if given else "")
        if operation == "skip":
            return g.add("identity", x, name=slot)
        if operation == "fc":
            return g.add("linear", x, name=slot, out_features=self.hidden)
        heads = {"heads": self.heads} if operation == "gat" else {}
        return g.add("graph_conv", x, edges, name=slot, kind=_KINDS[operation], channels=self.hidden, **heads)

    def _head(self, g: GraphBuilder, ends: Sequence[Node], own: bool) -> Node:
        x = ends[0] if len(ends) == 1 else g.add("concat", *ends, name="joined", axis=-1)
        x = g.add("activation", x, name="head.act", kind="relu")
        widths = [self.hidden] * self.after + [self.classes]
        for i, width in enumerate(widths):
            name = f"head.linear{i}" if i else f"head.join{len(ends)}" + ("" if own else "_of_input")
            x = g.add("linear", x, name=name, out_features=width)
        return x

    def _dropped(self, g: GraphBuilder, x: Node, name: str) -> Node:
        return g.add("dropout", x, name=name, p=self.dropout) if self.dropout else x

    def sketch(self, architecture: Architecture) -> Graph:
        """A `graph_step` a computing node, but for skips that every reader looks through."""
        reads, operations = _canonical(self.tree(architecture))
        g = GraphBuilder((self.input_shape[0], self.hidden if self.before else self.input_shape[1]))
        states = [g.input]
        for i, (read, digit) in enumerate(zip(reads, operations, strict=True), 1):
            settings = {"operation": OPERATIONS[digit], "channels": self.hidden, "edges": self.edges}
            seen_through = digit == _SKIP and states[read] is g.input
            states.append(
                states[read] if seen_through else g.add("graph_step", states[read], name=f"node{i}", **settings)
            )
        return g.build(*(states[i] for i in range(1, 5) if i not in reads))

    def envelope(self) -> Iterator[Architecture]:
        """For each operation four nodes of it beside and behind one another, and members of two and three ends."""
        learned = [OPERATIONS[d] for d in self._digits if d != _SKIP]
        for operation in learned:
            for reads in ((0, 0, 0, 0), (0, 1, 2, 3)):
                yield self.from_tree(reads, [operation] * 4)
        for reads in ((0, 1, 2, 2), (0, 1, 1, 1)):
            yield self.from_tree(reads, learned[-1:] * 4)


# ---- trees -------------------------------------------------------------------------------------------------


def _canonical(tree: Tree) -> Tree:
    """The benchmark's representative: skips that are looked through come first, and the number is the least."""
    reads, operations = _contracted(*tree)
    return min((link, tuple(operations[i] for i in order)) for link, order in _orders(reads))


def _contracted(reads: tuple[int, ...], operations: tuple[int, ...]) -> Tree:
    """Skips that change nothing, moved into a chain behind the input.

    Such are skips that another node reads, that are the only reader of a node, or that read the input: the benchmark
    leaves the input out of what it joins. One that is an end beside other readers of a computing node stays, as it
    gives that node to the output.
    """
    above = [0, *reads]
    kept = [1, 2, 3, 4]
    for i, operation in enumerate(operations, 1):
        if operation != _SKIP:
            continue
        readers = [j for j in kept if above[j] == i]
        beside = any(above[j] == above[i] for j in kept if j != i)
        if readers or not beside or above[i] == 0:
            kept.remove(i)
            for j in readers:
                above[j] = above[i]
    moved = 4 - len(kept)
    number = {0: moved, **{i: moved + place for place, i in enumerate(kept, 1)}}
    chain = tuple(range(moved))
    return (*chain, *(number[above[i]] for i in kept)), (*[_SKIP] * moved, *(operations[i - 1] for i in kept))


@cache
def _orders(reads: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The orders of the nodes, as positions, in which a tree has one of `LINKS`, with that link."""
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for order in permutations(range(4)):
        number = {0: 0, **{i + 1: place for place, i in enumerate(order, 1)}}
        link = tuple(number[reads[i]] for i in order)
        if link in LINKS:
            found.append((link, order))
    return found
