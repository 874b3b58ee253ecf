"""Recurrent cells for language models, as ENAS, DARTS and NAO search them on the Penn Treebank.

A cell is a tree of highway nodes: each picks an earlier node to read and an activation. The skeleton around it
(embedding, dropouts of one mask a window, cell, decoder) is fixed, and `plain` puts an LSTM or a GRU into it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from .errors import SpaceError, did_you_mean
from .graph import Graph, GraphBuilder, Node
from .operators.recurrent import ACTIVATIONS, OUTPUTS, WEIGHTS, ends_of
from .space import Architecture, Choice, SearchSpace
from .spaces import register_space

if TYPE_CHECKING:
    import numpy as np

Nodes = tuple[tuple[int, str], ...]

PUBLISHED: dict[str, Nodes] = {
    "darts": (
        (0, "relu"),
        (1, "relu"),
        (2, "tanh"),
        (3, "relu"),
        (4, "relu"),
        (1, "identity"),
        (5, "relu"),
        (1, "relu"),
    ),
    "enas": (
        (0, "tanh"),
        (1, "tanh"),
        (1, "relu"),
        (3, "tanh"),
        (3, "tanh"),
        (3, "relu"),
        (4, "relu"),
        (7, "relu"),
        (8, "relu"),
        (8, "relu"),
        (8, "relu"),
    ),
}
"""Cells found by others: the first with output "all" and 8 nodes, the second with "leaves" and 11."""

PLAIN = ("gru", "lstm")


@register_space("recurrent")
class Recurrent(SearchSpace):
    """Language models with a searched cell: tokens `(T,)` of a vocabulary of V to logits `(T, V)` of the next ones.

    The defaults are a small model for a CPU. DARTS has `nodes=8, hidden=850, output="all"`, NAO `nodes=11, hidden=850`,
    both with tied weights.

    Args:
        input_shape: `(T,)`, the steps of one training window; no weight depends on it.
        classes: V.
        nodes: searched nodes of a cell, beside the first, which joins input and state and is a tanh.
        hidden: H, width of the cell's state.
        embedding: E, width of an embedding; None is H.
        tied: the decoder uses the embedding's weights (Press and Wolf 2017), so E must be H.
        output: a step gives the mean of the "leaves", nodes that no other reads (ENAS, NAO), or of "all" (DARTS).
        weights: a supernet's nodes have one weight each ("node": DARTS, NAO), or one for each node they may read
            ("pair": ENAS).
        word_dropout: of words of the vocabulary.
        input_dropout: of features of embeddings.
        hidden_dropout: of states inside the cell; `plain` takes it for its hidden-to-hidden weights.
        output_dropout: of features before the decoder.

    All dropouts draw one mask for all steps of a window.
    """

    input_axes: tuple[str, ...] = ("steps",)

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (35,),
        classes: int = 10000,
        nodes: int = 8,
        hidden: int = 200,
        embedding: int | None = None,
        tied: bool = True,
        output: str = "leaves",
        weights: str = "node",
        word_dropout: float = 0.0,
        input_dropout: float = 0.2,
        hidden_dropout: float = 0.1,
        output_dropout: float = 0.2,
    ) -> None:
        if nodes < 1 or hidden < 1 or (embedding is not None and embedding < 1):
            raise SpaceError(
                f"space 'recurrent' needs nodes, hidden and embedding >= 1; got {nodes}, {hidden}, {embedding}"
            )
        if tied and embedding not in (None, hidden):
            raise SpaceError(
                f"space 'recurrent' with tied weights needs embedding = hidden; got {embedding} and {hidden}, "
                "give tied=False"
            )
        _allowed("output", output, OUTPUTS)
        _allowed("weights", weights, WEIGHTS)
        self.dropouts = {
            "word": word_dropout,
            "input": input_dropout,
            "hidden": hidden_dropout,
            "output": output_dropout,
        }
        for name, p in self.dropouts.items():
            if not 0 <= p < 1:
                raise SpaceError(f"space 'recurrent' takes {name}_dropout from 0 up to, not including, 1; got {p}")
        self.nodes, self.hidden, self.embedding = int(nodes), int(hidden), int(embedding or hidden)
        self.tied, self.output, self.weights = tied, output, weights
        choices = []
        for j in range(1, self.nodes + 1):
            if j > 1:
                choices.append(Choice(f"node{j}.input", tuple(range(j))))
            choices.append(Choice(f"node{j}.activation", ACTIVATIONS))
        super().__init__(choices, input_shape=input_shape, classes=classes)

    # ---- cells -------------------------------------------------------------------------------------------

    def cell(self, architecture: Architecture) -> Nodes:
        """For each node the number of the node it reads, 0 being the first, and its activation."""
        a = {**architecture.values, "node1.input": 0}
        return tuple((int(a[f"node{j}.input"]), str(a[f"node{j}.activation"])) for j in range(1, self.nodes + 1))

    def from_cell(self, nodes: Sequence[tuple[int, str]]) -> Architecture:
        """Inverse of `cell`; raises `SpaceError` for a cell of another size or with unknown parts."""
        if len(nodes) != self.nodes or nodes[0][0] != 0:
            raise SpaceError(f"a cell of this space has {self.nodes} nodes, of which the first reads 0; got {nodes}")
        values: dict[str, int | str] = {}
        for j, (read, activation) in enumerate(nodes, 1):
            values[f"node{j}.activation"] = activation
            if j > 1:
                values[f"node{j}.input"] = read
        return self.architecture(values)

    def canonical(self, architecture: Architecture) -> Architecture:
        """The cell with its nodes in the order of a walk through the tree, branches sorted by what they hold.

        Numbers of nodes mean nothing to a network of its own: two cells are the same network if their trees of
        activations are the same (Aho, Hopcroft and Ullman 1974, example 3.2), weights being those of nodes.
        """
        nodes = self.cell(architecture)
        readers = _readers(nodes)
        text = [""] * len(readers)
        for j in reversed(range(len(readers))):
            readers[j].sort(key=lambda i: text[i])
            text[j] = f"{nodes[j - 1][1] if j else ''}({','.join(text[i] for i in readers[j])})"
        walked: list[tuple[int, str]] = []
        waiting = [(0, j) for j in reversed(readers[0])]
        while waiting:
            read, j = waiting.pop()
            walked.append((read, nodes[j - 1][1]))
            waiting += [(len(walked), i) for i in reversed(readers[j])]
        return self.from_cell(walked)

    def symmetric(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """The cell with its nodes in a random order; all cells that are the same tree are alike in probability.

        The next node is drawn among those that may come next by how many nodes hang on it, which makes all orders of a
        tree equally probable (Knuth 1973, volume 3, exercise 5.1.4-20).
        """
        nodes = self.cell(architecture)
        readers = _readers(nodes)
        heavy = [1] * len(readers)
        for j in reversed(range(1, len(readers))):
            heavy[nodes[j - 1][0]] += heavy[j]
        number, ready, drawn = {0: 0}, list(readers[0]), []
        while ready:
            total = sum(heavy[j] for j in ready)
            j = ready.pop(int(rng.choice(len(ready), p=[heavy[j] / total for j in ready])))
            number[j] = len(number)
            ready += readers[j]
            drawn.append((number[nodes[j - 1][0]], nodes[j - 1][1]))
        return self.from_cell(drawn)

    # ---- graphs ------------------------------------------------------------------------------------------

    def graph(self, architecture: Architecture) -> Graph:
        nodes = self.cell(architecture)

        def cell(g: GraphBuilder, x: Node) -> Node:
            return g.add(
                "recurrent_cell",
                x,
                name="cell",
                hidden=self.hidden,
                nodes=nodes,
                output=self.output,
                dropout=self.dropouts["hidden"],
                weights=self.weights,
            )

        return self.around(cell, self.embedding)

    def around(self, layer: Callable[[GraphBuilder, Node], Node], embedding: int) -> Graph:
        """The skeleton: `layer` adds what maps embeddings `(T, E)` to states `(T, H)`."""
        g = GraphBuilder()
        tokens = g.add("input", name="tokens", size=self.input_shape, dtype="int64")
        table = g.add("uniform_parameter", name="embedding", size=(self.classes, embedding), bound=0.1)
        table = g.add("batch_of_one", table, name="table", size=(self.classes, embedding))
        x = g.add("functional_embedding", tokens, table, name="embedded")
        if self.dropouts["word"]:
            x = g.add("word_dropout", tokens, x, name="word_dropout", rows=self.classes, p=self.dropouts["word"])
        if self.dropouts["input"]:
            x = g.add("variational_dropout", x, name="input_dropout", p=self.dropouts["input"])
        x = layer(g, x)
        if self.dropouts["output"]:
            x = g.add("variational_dropout", x, name="output_dropout", p=self.dropouts["output"])
        if not self.tied:
            return g.build(g.add("linear", x, name="decoder", out_features=self.classes))
        bias = g.add("uniform_parameter", name="bias", size=(self.classes,), bound=0.0)
        bias = g.add("batch_of_one", bias, name="biases", size=(self.classes,))
        return g.build(g.add("functional_linear", x, table, bias, name="decoder"))

    def sketch(self, architecture: Architecture) -> Graph:
        """One step of the cell: a `highway` a node, reading x `(E,)` and h `(H,)`, and the mean of the ends."""
        nodes = self.cell(architecture)
        g = GraphBuilder((self.embedding,), (self.hidden,))
        states = [g.add("highway", *g.inputs, name="node0", features=self.hidden)]
        for j, (read, activation) in enumerate(nodes, 1):
            states.append(g.add("highway", states[read], name=f"node{j}", features=self.hidden, activation=activation))
        ends = [states[j] for j in ends_of(nodes, self.output)]
        total = g.add("add", *ends, name="sum") if len(ends) > 1 else ends[0]
        return g.build(g.add("scalar", total, name="mean", kind="multiply", value=1 / len(ends)))

    def envelope(self) -> Iterator[Architecture]:
        """Cells whose nodes all read the latest, the latest but one, ...: together they read every earlier node."""
        for back in range(1, self.nodes + 1 if self.weights == "pair" else 2):
            yield self.from_cell([(max(0, j - back), ACTIVATIONS[-1]) for j in range(1, self.nodes + 1)])


def _readers(nodes: Nodes) -> list[list[int]]:
    """For each node, the first included, those that read it."""
    readers: list[list[int]] = [[] for _ in range(len(nodes) + 1)]
    for j, (read, _) in enumerate(nodes, 1):
        readers[read].append(j)
    return readers


def plain(space: Recurrent, kind: str, params: int | None = None) -> Graph:
    """The language model of a space with torch's "lstm" or "gru" in place of the searched cell.

    Its state, and its embedding where weights are tied, is as wide as `params` learned numbers allow; None is as many
    as any member of the space has.

    Raises:
        SpaceError: another kind, or too few parameters for a state of one number.
    """
    _allowed("kind of layer", kind, PLAIN)
    budget = space.graph(space.architecture()).cost.params if params is None else params

    def made(hidden: int) -> Graph:
        return space.around(
            lambda g, x: g.add(kind, x, name=kind, hidden=hidden, dropout=space.dropouts["hidden"]),
            hidden if space.tied else space.embedding,
        )

    hidden = bisect_right(range(1, 1 << 20), budget, key=lambda n: made(n).cost.params)
    if hidden < 1:
        raise SpaceError(f"a {kind} of this space takes at least {made(1).cost.params} parameters; got {budget}")
    return made(hidden)


def _allowed(what: str, name: str, allowed: Sequence[str]) -> None:
    if name not in allowed:
        raise SpaceError(f"unknown {what} {name!r} of space 'recurrent': {did_you_mean(name, allowed)}")
