"""Operators over the steps of a text: searched cells, torch's LSTM and GRU, and dropouts of one mask for all steps.

Values are `(T, F)`, T steps of F features. The modules behind them are in `search_spaces.modules`; `Stateful`,
`carrying` and `reset_state` are read from here too, but loaded when they are first used, as they need torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import GraphError, did_you_mean
from .base import Cost, Operator, Shape, need_rank, register_operator
from .parameters import Parameter

if TYPE_CHECKING:
    from ..graph import Graph, GraphBuilder, Node
    from ..modules import Stateful, carrying, reset_state

__all__ = ["ACTIVATIONS", "OUTPUTS", "Stateful", "carrying", "reset_state"]

ACTIVATIONS = ("identity", "relu", "sigmoid", "tanh")
OUTPUTS = ("leaves", "all")
WEIGHTS = ("node", "pair")


def __getattr__(name: str) -> Any:
    if name in ("Stateful", "carrying", "reset_state"):
        return getattr(import_module("..modules", __package__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@register_operator("uniform_parameter")
class UniformParameter(Parameter):
    """A learned tensor that starts uniform between `-bound` and `bound`; otherwise as `parameter`."""

    size: tuple[int, ...]
    bound: float = 1.0

    def parameter(self) -> str:
        return f"{float(self.bound)!r} * (2 * torch.rand({self.size}) - 1)"


# ---- dropouts --------------------------------------------------------------------------------------------


@register_operator("variational_dropout")
class VariationalDropout(Operator):
    """Dropout of features of `(T, F)` by one mask for all steps (Gal and Ghahramani 2016)."""

    p: float = 0.5
    view = True

    def shape(self, *inputs: Shape) -> Shape:
        need_rank(self.name, inputs[0], 2)
        _probability(self.name, self.p)
        return inputs[0]

    def constructor(self, *inputs: Shape) -> str:
        return f"VariationalDropout({self.p})"


@register_operator("word_dropout")
class WordDropout(Operator):
    """Dropout of whole words: rows of an embedding, at all places of a batch (Gal and Ghahramani 2016).

    Inputs are tokens `(T,)` and their embeddings `(T, E)`; `rows` is the size of the vocabulary.
    """

    rows: int
    p: float = 0.1
    view = True

    def shape(self, *inputs: Shape) -> Shape:
        tokens, x = inputs
        _probability(self.name, self.p)
        if x[:-1] != tokens:
            raise GraphError(f"{self.name} of tokens {tokens} and embeddings {x}; (T,) and (T, E) are allowed")
        return x

    def constructor(self, *inputs: Shape) -> str:
        return f"WordDropout({self.rows}, {self.p})"


def _probability(name: str, p: float) -> None:
    if not 0 <= p < 1:
        raise GraphError(f"{name} with probability {p}; 0 up to, not including, 1 is allowed")


# ---- searched cells --------------------------------------------------------------------------------------


@register_operator("highway")
class Highway(Operator):
    """One node of a searched cell at one step: `s + sigmoid(A s) * (f(B s) - s)` of a state `(F,)`.

    With two inputs, x `(E,)` and the state of the step before, s in `A s` and `B s` is both of them joined.
    `activation` is f, one of `ACTIVATIONS`. This is the form in which predictors read a cell; `recurrence` runs it.
    """

    features: int
    activation: str = "tanh"
    fused = True

    def __post_init__(self) -> None:
        _known(self.activation)

    def body(self, *inputs: Shape) -> Graph:
        from ..graph import GraphBuilder

        g = GraphBuilder(*inputs)
        state = g.inputs[-1]
        gate = g.add("activation", self._sum(g, "gate"), name="opened", kind="sigmoid")
        value = self._sum(g, "value")
        if self.activation != "identity":
            value = g.add("activation", value, name="activated", kind=self.activation)
        step = g.add("multiply", gate, g.add("subtract", value, state, name="difference"), name="step")
        return g.build(g.add("add", state, step, name="next"))

    def _sum(self, g: GraphBuilder, name: str) -> Node:
        names = (name,) if len(g.inputs) == 1 else (f"{name}_input", f"{name}_hidden")
        parts = [
            g.add("linear", x, name=n, out_features=self.features, bias=False)
            for x, n in zip(g.inputs, names, strict=True)
        ]
        return parts[0] if len(parts) == 1 else g.add("add", *parts, name=f"{name}_sum")


@register_operator("recurrence")
class Recurrence(Operator):
    """A cell of highway nodes over all steps; `search_spaces.modules.Recurrence` has the equations.

    Inputs: x `(T, E)`, W `(2H, E)`, U `(2H, H)`, and a weight `(2H, H)` for each of `nodes`; result `(T, H)`.
    """

    nodes: tuple[tuple[int, str], ...]
    output: str = "leaves"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_nodes(self.nodes)
        _probability(self.name, self.dropout)
        if self.output not in OUTPUTS:
            raise GraphError(f"unknown output {self.output!r} of {self.name}: {did_you_mean(self.output, OUTPUTS)}")

    def shape(self, *inputs: Shape) -> Shape:
        x, first, again, *own = inputs
        need_rank(self.name, x, 2)
        width = again[-1]
        fits = first == (2 * width, x[1]) and all(w == (2 * width, width) for w in (again, *own))
        if not fits or len(own) != len(self.nodes):
            raise GraphError(f"{self.name} of {len(self.nodes)} nodes and shape {x} by weights {inputs[1:]}: no fit")
        return x[0], width

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        """Every weight meets its number at every step; a node adds twice, the mean of the ends once less than those."""
        steps, width = output
        ends = len(ends_of(self.nodes, self.output))
        adds = 2 * width + 2 * width * (1 + len(self.nodes)) + width * (ends - 1)
        return self.moving(inputs, output, macs=steps * sum(map(math.prod, inputs[1:])), adds=steps * adds)

    def constructor(self, *inputs: Shape) -> str:
        return f"Recurrence({self.nodes}, {self.output!r}, {self.dropout})"


@register_operator("recurrent_cell")
class RecurrentCell(Operator):
    """A searched cell with its weights: `(T, E) -> (T, hidden)`.

    `nodes`, `output` and `dropout` as in `recurrence`. Weights are named `from_input`, `from_state`, and `node3` for
    the third node (`weights` "node": DARTS, NAO) or `node3.from1` for the third node reading the first ("pair":
    ENAS), so a supernet shares them that way. They start uniform in plus or minus `1 / sqrt(hidden)`, as those of
    torch's LSTM do.
    """

    hidden: int
    nodes: tuple[tuple[int, str], ...]
    output: str = "leaves"
    dropout: float = 0.0
    weights: str = "node"
    fused = True

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise GraphError(f"unknown weights {self.weights!r} of {self.name}: {did_you_mean(self.weights, WEIGHTS)}")

    def body(self, *inputs: Shape) -> Graph:
        from ..graph import GraphBuilder

        need_rank(self.name, inputs[0], 2)
        g = GraphBuilder(*inputs)
        sizes = {"from_input": inputs[0][1], "from_state": self.hidden}
        for j, (read, _) in enumerate(self.nodes, 1):
            sizes[f"node{j}" if self.weights == "node" else f"node{j}.from{read}"] = self.hidden
        bound = self.hidden**-0.5
        weights = []
        for name, width in sizes.items():
            size = (2 * self.hidden, width)
            weight = g.add("uniform_parameter", name=name, size=size, bound=bound)
            weights.append(g.add("batch_of_one", weight, name=f"{name}_value", size=size))
        settings = {"nodes": self.nodes, "output": self.output, "dropout": self.dropout}
        return g.build(g.add("recurrence", g.input, *weights, name="recurrence", **settings))


def check_nodes(nodes: tuple[tuple[int, str], ...]) -> None:
    """Raise `GraphError` unless every node reads an earlier one (0 is the first) through a known activation."""
    for j, (read, activation) in enumerate(nodes, 1):
        _known(activation)
        if not 0 <= read < j:
            raise GraphError(f"node {j} of a recurrent cell reads node {read}; 0 to {j - 1} are allowed")


def ends_of(nodes: tuple[tuple[int, str], ...], output: str) -> tuple[int, ...]:
    """The nodes whose mean a cell gives."""
    if output == "all":
        return tuple(range(1, len(nodes) + 1)) or (0,)
    return tuple(sorted(set(range(len(nodes) + 1)) - {read for read, _ in nodes}))


def _known(activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise GraphError(
            f"unknown activation {activation!r} of a recurrent cell: {did_you_mean(activation, ACTIVATIONS)}"
        )


# ---- torch's own -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Gated(Operator):
    """A layer of `gates` gates, each with two biases, as torch has them."""

    gates: ClassVar[int]
    sums: ClassVar[int]
    module: ClassVar[str]
    hidden: int
    dropout: float = 0.0

    def shape(self, *inputs: Shape) -> Shape:
        need_rank(self.name, inputs[0], 2)
        _probability(self.name, self.dropout)
        return inputs[0][0], self.hidden

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        steps, features = inputs[0]
        weights = self.gates * self.hidden * (features + self.hidden)
        biases = 2 * self.gates * self.hidden
        adds = steps * (biases + self.gates * self.hidden + self.sums * self.hidden)
        return self.moving(inputs, output, params=weights + biases, macs=steps * weights, adds=adds)

    def constructor(self, *inputs: Shape) -> str:
        return f"{self.module}({inputs[0][1]}, {self.hidden}, {self.dropout})"


@register_operator("lstm")
class Lstm(_Gated):
    """torch's LSTM of one layer, `(T, E) -> (T, hidden)`; `dropout` is of its hidden-to-hidden weights."""

    gates, sums, module = 4, 1, "Lstm"


@register_operator("gru")
class Gru(_Gated):
    """torch's GRU of one layer, `(T, E) -> (T, hidden)`; `dropout` is of its hidden-to-hidden weights."""

    gates, sums, module = 3, 2, "Gru"
