"""Graph networks that classify nodes: stacks of searched convolutions, plain, residual, reversible, tied, or endless.

Each layer has the convolution of its place in a pattern, which the stack repeats. What keeps little for its gradient
(reversible and tied layers, equilibria) can be deep and wide within the memory that a shallow plain stack takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from .errors import SpaceError, did_you_mean
from .graph import Graph, GraphBuilder, Node
from .node_classifier import Layers, Sizes, node_classifier
from .operators.message_passing import CONVOLUTIONS, NORMS
from .space import Architecture, Choice, Option, SearchSpace
from .spaces import register_space

CONNECTIONS = ("plain", "residual", "reversible", "tied", "equilibrium")
_GROUPED = ("reversible", "tied")
_ONE_FUNCTION = ("tied", "equilibrium")  # all layers are one function, so of one kind


@register_space("gnn")
class Gnn(SearchSpace):
    """Classifiers of nodes: features `(N, F)` and edges `(2, E)` of a graph to logits `(N, classes)`.

    Around `depth` layers of norm, ReLU, dropout and convolution (Li et al. 2021, "Training Graph Neural Networks with
    1000 Layers") lies what `node_classifier` says. No weight depends on N and E: they are those of
    the data, which costs are counted for.

    Args:
        input_shape: `(N, F)`.
        classes: number of classes, or of labels that a node may have beside each other.
        edges: E, each direction by itself.
        edge_features: D, features of an edge, which gat and gen read; 0 for none.
        kinds: convolutions, of those of the operator `graph_conv`.
        connections: how layers are put around functions: "plain" f(x), "residual" x + f(x), "reversible" groups,
            "tied" reversible groups with one set of weights for all layers, "equilibrium" the fixed point of one layer.
        depths: numbers of layers, but of equilibria.
        widths: features between encoder and head, in multiples of groups and heads.
        groups: of features in reversible and tied layers.
        norms: "layer", "batch" or "none".
        dropouts: of features; one mask for all layers of a stack (Li et al. 2021, section 3.2), another for the head.
        input_dropouts: of the features that come in.
        pattern: choices of a convolution: layer j has choice `conv.{j mod pattern}`.
        heads: of gat's attention.
    """

    input_axes: tuple[str, ...] = ("nodes", "features")

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (2708, 1433),
        classes: int = 7,
        edges: int = 10556,
        edge_features: int = 0,
        kinds: Sequence[str] = ("gcn", "sage", "gat", "gen"),
        connections: Sequence[str] = CONNECTIONS,
        depths: Sequence[int] = (2, 3, 4, 8, 16),
        widths: Sequence[int] = (16, 32, 64, 128),
        groups: Sequence[int] = (2, 4),
        norms: Sequence[str] = ("layer", "batch"),
        dropouts: Sequence[float] = (0.0, 0.2, 0.5),
        input_dropouts: Sequence[float] = (0.0, 0.5),
        pattern: int = 3,
        heads: int = 1,
    ) -> None:
        _allowed("convolution", kinds, tuple(CONVOLUTIONS))
        _allowed("connection", connections, CONNECTIONS)
        _allowed("norm", norms, NORMS)
        if edges < 1 or edge_features < 0 or pattern < 1 or heads < 1:
            raise SpaceError(
                "space 'gnn' needs edges, pattern and heads >= 1 and edge_features >= 0; "
                f"got {edges}, {pattern}, {heads} and {edge_features}"
            )
        shares = (*dropouts, *input_dropouts)
        if min(depths, default=0) < 1 or not all(0 <= p < 1 for p in shares):
            raise SpaceError(
                f"space 'gnn' takes depths of 1 or more and dropouts from 0 to below 1; got {depths} and {shares}"
            )
        self.edges, self.edge_features, self.heads = int(edges), int(edge_features), int(heads)
        self.pattern = min(int(pattern), max(depths))
        depths = tuple(sorted(depths))
        choices = [Choice("connection", tuple(connections))]
        grouped = tuple(c for c in connections if c in _GROUPED)
        if grouped:
            choices.append(Choice("groups", tuple(sorted(groups)), _unless_all("connection", grouped, connections)))
        choices += [
            Choice("depth", depths),
            Choice("width", tuple(sorted(widths))),
            Choice("norm", tuple(norms)),
            Choice("dropout", tuple(sorted(dropouts))),
            Choice("input_dropout", tuple(sorted(input_dropouts))),
        ]
        for i in range(self.pattern):
            deep = tuple(d for d in depths if d > i)
            choices.append(Choice(f"conv.{i}", tuple(kinds), _unless_all("depth", deep, depths)))
        super().__init__(choices, input_shape=input_shape, classes=classes)
        nodes, features = self.input_shape
        self._sizes = Sizes(nodes, self.edges, features, self.edge_features, self.classes)
        _divisible(widths, groups if grouped else (1,), self.heads if "gat" in kinds else 1)

    # ---- members -----------------------------------------------------------------------------------------

    def kinds(self, architecture: Architecture) -> tuple[str, ...]:
        """The convolution of each layer."""
        a = architecture.values
        period = 1 if a["connection"] in _ONE_FUNCTION else self.pattern
        return tuple(str(a[f"conv.{j % period}"]) for j in range(int(a["depth"])))

    def canonical(self, architecture: Architecture) -> Architecture:
        """Convolutions that no layer has are set to the first kind, the depth of an equilibrium to the first."""
        if architecture["connection"] not in _ONE_FUNCTION:
            return architecture
        unused = [f"conv.{i}" for i in range(1, self.pattern)]
        if architecture["connection"] == "equilibrium":
            unused.append("depth")
        first = {name: self.choices[self._position[name]].options[0] for name in unused}
        return self.architecture({**architecture.values, **first})

    def envelope(self) -> Iterator[Architecture]:
        """The deepest and widest of each kind, connection, number of groups and norm."""
        options = {choice.name: choice.options for choice in self.choices}
        for norm, connection, kind in product(options["norm"], options["connection"], options["conv.0"]):
            convolutions: dict[str, Option] = {f"conv.{i}": kind for i in range(self.pattern)}
            ends = {name: options[name][-1] for name in ("depth", "width", "dropout", "input_dropout")}
            for groups in options["groups"] if connection in _GROUPED else (None,):
                given = {} if groups is None else {"groups": groups}
                yield self.canonical(
                    self.architecture({**convolutions, **ends, **given, "norm": norm, "connection": connection})
                )

    # ---- graphs ------------------------------------------------------------------------------------------

    def graph(self, architecture: Architecture) -> Graph:
        """Slots are shared by all widths and depths; networks of other connections, groups or norms have their own.

        With one encoder and one head for all, the shared weights of all connections stay near chance on Cora.
        """
        kinds, settings, connection = self.kinds(architecture), self._settings(architecture), architecture["connection"]
        heads = {"heads": self.heads} if "gat" in kinds else {}
        name = self._name(architecture)

        def stack(g: GraphBuilder, x: Node, *rest: Node, **inputs: bool) -> Node:
            if connection == "equilibrium":
                return self._equilibrium(g, x, *rest, name=f"{name}.{kinds[0]}", kind=kinds[0], **settings, **inputs)
            tied = {"tied": True} if connection in _ONE_FUNCTION else {}
            more = {**settings, **tied, **heads, "connection": _layers_of(connection)}
            return g.add("graph_stack", x, *rest, name=name, kinds=kinds, **more, **inputs)

        return self._around(architecture, stack)

    def _equilibrium(self, g: GraphBuilder, x: Node, *rest: Node, kind: str, edge_features: bool, **more: Any) -> Node:
        """The fixed point of a layer."""
        if kind == "gat":
            more["heads"] = self.heads
        return g.add("graph_equilibrium", x, *rest, kind=kind, edge_features=edge_features, **more)

    def sketch(self, architecture: Architecture) -> Graph:
        """The pattern once, a layer each, and their number as a factor; as many nodes however deep the network is."""
        connection = architecture["connection"]
        if connection == "equilibrium":
            return self.graph(architecture)
        kinds, settings = self.kinds(architecture), self._settings(architecture)
        tied = connection in _ONE_FUNCTION

        def stack(g: GraphBuilder, x: Node, *rest: Node, **inputs: bool) -> Node:
            for j, kind in enumerate(kinds[: 1 if tied else self.pattern]):
                heads = {"heads": self.heads} if kind == "gat" else {}
                more = {**settings, **heads, "connection": _layers_of(connection)}
                x = g.add("graph_layer", x, *rest, name=f"layer{j}", kind=kind, **more, **inputs)
            x = g.add("scalar", x, name="depth", kind="multiply", value=len(kinds))
            return g.add("scalar", x, name="tied", kind="multiply", value=1) if tied else x

        return self._around(architecture, stack)

    def _settings(self, architecture: Architecture) -> dict[str, Any]:
        """Attributes that stacks, layers and equilibria have in common."""
        groups = {"groups": architecture["groups"]} if architecture["connection"] in _GROUPED else {}
        return {**groups, "norm": architecture["norm"]}

    def _name(self, architecture: Architecture) -> str:
        """Of weights: stacks that differ in more than kinds, width and depth read and write features of their own."""
        settings = self._settings(architecture)
        return f"{architecture['connection']}{settings.get('groups', '')}_{settings['norm']}"

    def _around(self, architecture: Architecture, layers: Layers) -> Graph:
        a = architecture.values
        reads = any(CONVOLUTIONS[kind].edge_features for kind in self.kinds(architecture))
        cut = int(a["groups"]) if a["connection"] in _GROUPED else 1
        return node_classifier(
            self._sizes,
            layers,
            width=int(a["width"]),
            norm=str(a["norm"]),
            dropout=float(a["dropout"]),
            input_dropout=float(a["input_dropout"]),
            prefix=f"{self._name(architecture)}.",
            edge_width=int(a["width"]) // cut if self.edge_features and reads else None,
        )


def _layers_of(connection: Option) -> str:
    """What the operators of layers call a connection; tied layers are reversible ones."""
    return "reversible" if connection in _GROUPED else str(connection)


def _unless_all(
    parent: str, some: Sequence[Option], options: Sequence[Option]
) -> tuple[str, tuple[Option, ...]] | None:
    """The condition that a choice counts under some options of its parent; None where that is all of them."""
    return None if len(some) == len(options) else (parent, tuple(some))


def _allowed(what: str, names: Sequence[str], allowed: Sequence[str]) -> None:
    for name in names:
        if name not in allowed:
            raise SpaceError(f"unknown {what} {name!r} of space 'gnn': {did_you_mean(name, allowed)}")


def _divisible(widths: Sequence[int], groups: Sequence[int], heads: int) -> None:
    for width, count in product(widths, groups):
        if width < 1 or width % (count * heads):
            raise SpaceError(
                f"space 'gnn' cannot cut a width of {width} into {count} groups with {heads} heads each; "
                "take widths that are multiples of groups times heads"
            )
