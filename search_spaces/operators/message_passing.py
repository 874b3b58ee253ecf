"""Operators of graph networks: features of nodes `(N, F)`, edges `(2, E)` and features of edges `(E, D)`.

A stack of layers is one composite: costs, encodings and supernets see its layers, and a network may run it in less
memory than its layers would take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import GraphError, did_you_mean
from .base import Cost, Operator, Shape, need_rank, register_operator

if TYPE_CHECKING:
    from ..graph import Graph, GraphBuilder, Node

NORMS = ("layer", "batch", "none")
CONNECTIONS = ("plain", "residual", "reversible")


@dataclass(frozen=True)
class Convolution:
    """What a convolution costs, from features before (i) and after (o), nodes n, edges e, and features of edges d.

    Attributes:
        params: of (i, o, d, heads, whether its own perceptron has norms).
        macs: of (n, e, i, o, d): multiplications of weights, and of messages.
        edge_features: whether it reads features of edges.
    """

    params: Callable[[int, int, int, bool], int]
    macs: Callable[[int, int, int, int, int], int]
    edge_features: bool = False


CONVOLUTIONS: dict[str, Convolution] = {
    "gcn": Convolution(lambda i, o, d, norm: i * o + o, lambda n, e, i, o, d: n * i * o + (e + n) * o),
    "sage": Convolution(lambda i, o, d, norm: 2 * i * o + o, lambda n, e, i, o, d: 2 * n * i * o),
    "gat": Convolution(
        lambda i, o, d, norm: i * o + 3 * o + (d * o + o if d else 0),
        lambda n, e, i, o, d: n * i * o + 2 * n * o + (e + n) * (o + (d * o + o if d else 0)),
        edge_features=True,
    ),
    "gen": Convolution(
        lambda i, o, d, norm: 4 * o * o + (4 * o if norm else 0) + 2 * i * o * (i != o) + d * o * (d not in (0, o)),
        lambda n, e, i, o, d: n * (4 * o * o + 2 * i * o * (i != o)) + e * (o + d * o * (d not in (0, o))),
        edge_features=True,
    ),
    "gin": Convolution(lambda i, o, d, norm: i * o + o * o + 2 * o, lambda n, e, i, o, d: n * (i * o + o * o)),
    "gin_linear": Convolution(lambda i, o, d, norm: i * o + o, lambda n, e, i, o, d: n * i * o),
    "cheb": Convolution(lambda i, o, d, norm: 2 * i * o + o, lambda n, e, i, o, d: 2 * n * i * o + e * i),
    "arma": Convolution(lambda i, o, d, norm: 2 * i * o + o, lambda n, e, i, o, d: 2 * n * i * o + e * o),
    "graph": Convolution(lambda i, o, d, norm: 2 * i * o + o, lambda n, e, i, o, d: 2 * n * i * o),
}
"""Convolutions by their short names: GCNConv, SAGEConv, GATConv, GENConv, GINConv (of two layers, or of one linear
layer), ChebConv of order 2, ARMAConv, GraphConv of PyTorch Geometric."""


@register_operator("graph_conv")
class GraphConv(Operator):
    """A graph convolution of a `kind` in `CONVOLUTIONS`: features `(N, F)` and edges `(2, E)` to `(N, channels)`.

    A third input `(E, D)` is features of edges. `heads` is of gat alone, `norm` of the perceptron in gen.
    """

    kind: str
    channels: int
    heads: int = 1
    norm: str = "layer"

    def shape(self, *inputs: Shape) -> Shape:
        x, edges, *attributes = inputs
        need_rank(self.name, x, 2)
        _allowed("graph convolution", self.kind, tuple(CONVOLUTIONS))
        _allowed("norm", self.norm, NORMS)
        if len(edges) != 2 or edges[0] != 2:
            raise GraphError(f"{self.name} takes edges of shape (2, E), got {edges}")
        if self.heads < 1 or self.channels % self.heads or (self.heads > 1 and self.kind != "gat"):
            raise GraphError(f"{self.heads} heads of {self.kind} for {self.channels} channels; gat's must divide them")
        if attributes and (not CONVOLUTIONS[self.kind].edge_features or attributes[0][0] != edges[1]):
            raise GraphError(f"{self.kind} does not take features of edges of shape {attributes[0]} with {edges}")
        return x[0], self.channels

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        (nodes, features), (_, edges), *attributes = inputs
        d = attributes[0][1] if attributes else 0
        kind = CONVOLUTIONS[self.kind]
        params = kind.params(features, self.channels, d, self.norm != "none")
        macs = kind.macs(nodes, edges, features, self.channels, d)
        return self.moving(inputs, output, params=params, macs=macs, adds=edges * self.channels)

    def constructor(self, *inputs: Shape) -> str:
        d = inputs[2][1] if len(inputs) > 2 else 0
        return f"GraphConvolution({self.kind!r}, {inputs[0][1]}, {self.channels}, {self.heads}, {d}, {self.norm!r})"


@register_operator("node_batch_norm")
class NodeBatchNorm(Operator):
    """Batch normalisation of features `(N, F)` over all nodes."""

    def shape(self, *inputs: Shape) -> Shape:
        need_rank(self.name, inputs[0], 2)
        return inputs[0]

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return self.moving(inputs, output, params=2 * output[1])

    def constructor(self, *inputs: Shape) -> str:
        return f"NodeBatchNorm({inputs[0][1]})"


@register_operator("dropout_mask")
class DropoutMask(Operator):
    """A mask of dropout for features `(N, F)`, which all layers of a stack share; nothing outside training."""

    p: float = 0.1
    view = True

    def shape(self, *inputs: Shape) -> Shape:
        if not 0 <= self.p < 1:
            raise GraphError(f"{self.name} takes a probability from 0 to below 1; got {self.p}")
        return inputs[0]

    def constructor(self, *inputs: Shape) -> str:
        return f"DropoutMask({self.p})"


@register_operator("masked")
class Masked(Operator):
    """Features `(N, F)` times a mask in training, as they are otherwise."""

    view = True

    def shape(self, *inputs: Shape) -> Shape:
        x, mask = inputs
        if x != mask:
            raise GraphError(f"{self.name} of features {x} and a mask of shape {mask}; they must be equal")
        return x

    def constructor(self, *inputs: Shape) -> str:
        return "Masked()"


@register_operator("graph_equilibrium")
class GraphEquilibrium(Operator):
    """A graph network of no end of equal layers: features `(N, F)` to the fixed point of one block around them.

    Inputs, and the attributes but for the last two, are those of `graph_block`, of as many channels as the features
    have. Multiplications are counted for all `iterations`, at most which the solver takes to come within `tolerance`.
    """

    kind: str
    heads: int = 1
    norm: str = "layer"
    edge_features: bool = False
    masked: bool = False
    iterations: int = 30
    tolerance: float = 1e-3

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs) != 2 + self.edge_features + self.masked:
            raise GraphError(f"{self!r} takes features, edges, and what it says it does; got {len(inputs)} inputs")
        if self.iterations < 1 or not 0 <= self.tolerance < 1:
            raise GraphError(f"{self!r}: iterations must be 1 or more, tolerance from 0 to below 1")
        return self._conv(inputs[0]).shape(*self._read(inputs))

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        nodes, channels = output
        one = self._conv(inputs[0]).cost(self._read(inputs), output)
        params = one.params + 1 + (2 * channels if self.norm != "none" else 0)
        adds = self.iterations * (one.adds + nodes * channels)
        return self.moving(inputs, output, params=params, macs=self.iterations * one.macs, adds=adds)

    def constructor(self, *inputs: Shape) -> str:
        d = inputs[2][1] if len(self._read(inputs)) > 2 else 0
        settings = (self.kind, inputs[0][1], self.heads, d, self.norm, self.masked, self.iterations, self.tolerance)
        return f"GraphEquilibrium{settings!r}"

    def _conv(self, x: Shape) -> GraphConv:
        need_rank(self.name, x, 2)
        return GraphConv(kind=self.kind, channels=x[1], heads=self.heads, norm=self.norm)

    def _read(self, inputs: tuple[Shape, ...]) -> tuple[Shape, ...]:
        """What the convolution reads."""
        return inputs[: 2 + self.edge_features]


# ---- layers ----------------------------------------------------------------------------------------------


@register_operator("graph_block")
class GraphBlock(Operator):
    """Norm, ReLU, dropout by a shared mask, convolution: the function inside deep graph networks (Li et al. 2020).

    The convolution is called after its kind, so that those of different kinds share no weights in a supernet.
    Inputs are features, edges, features of edges if `edge_features`, and a mask if `masked`. With `tied`, the path of
    another block as an `again` inside this one would have it, that block's weights are used.
    """

    kind: str
    channels: int
    heads: int = 1
    norm: str = "layer"
    edge_features: bool = False
    masked: bool = False
    tied: str = ""

    def body(self, *inputs: Shape) -> Graph:
        from ..graph import GraphBuilder

        g = GraphBuilder(*inputs)
        x, edges, *rest = g.inputs
        if self.norm != "none":
            x = self._learned(g, "layer_norm" if self.norm == "layer" else "node_batch_norm", "norm", x)
        x = g.add("activation", x, name="act", kind="relu")
        if self.masked:
            x = g.add("masked", x, rest[-1], name="drop")
        features = rest[:1] if self.edge_features and CONVOLUTIONS[self.kind].edge_features else []
        settings = {"kind": self.kind, "channels": self.channels, "heads": self.heads, "norm": self.norm}
        return g.build(self._learned(g, "graph_conv", self.kind, x, edges, *features, **settings))

    def _learned(self, g: GraphBuilder, operator: str, name: str, *inputs: Node, **settings: Any) -> Node:
        if not self.tied:
            return g.add(operator, *inputs, name=name, **settings)
        again = {"slot": f"{self.tied}.{name}", "kind": operator, "settings": tuple(settings.items())}
        return g.add("again", *inputs, name=name, **again)


@register_operator("graph_layer")
class GraphLayer(Operator):
    """One layer of a stack: features `(N, F)` to `(N, F)`, by one of `CONNECTIONS` around blocks.

    plain is f(x), residual x + f(x), and reversible cuts features into `groups`: `y_0 = x_2 + ... + x_C`,
    `y_i = x_i + f_i(y_{i-1})` (Li et al. 2021, section 3.2). Inputs and other attributes are those of a block.
    """

    kind: str
    connection: str = "reversible"
    groups: int = 2
    heads: int = 1
    norm: str = "layer"
    edge_features: bool = False
    masked: bool = False
    tied: str = ""

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the blocks in the body, first group first."""
        return tuple(f"f{i}" for i in range(self.groups if self.connection == "reversible" else 1))

    def body(self, *inputs: Shape) -> Graph:
        from ..graph import GraphBuilder

        _allowed("connection", self.connection, CONNECTIONS)
        g = GraphBuilder(*inputs)
        if self.connection == "reversible":
            return g.build(self._coupled(g))
        x = g.inputs[0]
        y = self._block(g, 0, x, g.inputs[-1])
        return g.build(g.add("add", x, y, name="sum") if self.connection == "residual" else y)

    def _coupled(self, g: GraphBuilder) -> Node:
        x, *_, mask = g.inputs
        groups = self._cut(g, x, "x")
        masks = self._cut(g, mask, "mask") if self.masked else [mask] * self.groups
        y = g.add("add", *groups[1:], name="y0") if self.groups > 2 else groups[1]
        given = []
        for i, part in enumerate(groups):
            y = g.add("add", part, self._block(g, i, y, masks[i]), name=f"y{i + 1}")
            given.append(y)
        return g.add("concat", *given, name="joined", axis=-1)

    def _cut(self, g: GraphBuilder, x: Node, name: str) -> list[Node]:
        if self.groups < 2 or x.shape[-1] % self.groups:
            raise GraphError(
                f"{x.shape[-1]} features cannot be cut into {self.groups} groups; 2 or more must divide them"
            )
        width = x.shape[-1] // self.groups
        cuts = range(0, x.shape[-1], width)
        return [g.add("slice", x, name=f"{name}_{i}", axis=-1, start=s, stop=s + width) for i, s in enumerate(cuts)]

    def _block(self, g: GraphBuilder, place: int, x: Node, mask: Node) -> Node:
        rest = g.inputs[1:-1] if self.masked else g.inputs[1:]
        return g.add(
            "graph_block",
            x,
            *rest,
            *([mask] if self.masked else []),
            name=f"f{place}",
            kind=self.kind,
            channels=x.shape[-1],
            heads=self.heads,
            norm=self.norm,
            edge_features=self.edge_features,
            masked=self.masked,
            tied=f"^{self.tied}.f{place}" if self.tied else "",
        )


@register_operator("graph_stack")
class GraphStack(Operator):
    """`len(kinds)` layers one after the other, of convolutions of these kinds; else as `graph_layer`.

    With `tied`, every layer has the weights of the first, so all kinds must be the same.
    """

    kinds: tuple[str, ...]
    connection: str = "reversible"
    groups: int = 2
    heads: int = 1
    norm: str = "layer"
    edge_features: bool = False
    masked: bool = False
    tied: bool = False

    def body(self, *inputs: Shape) -> Graph:
        from ..graph import GraphBuilder

        if not self.kinds or (self.tied and len(set(self.kinds)) > 1):
            raise GraphError(f"a stack takes one or more layers, and of one kind where they are tied; got {self.kinds}")
        g = GraphBuilder(*inputs)
        x, *rest = g.inputs
        for number, kind in enumerate(self.kinds):
            x = g.add(
                "graph_layer",
                x,
                *rest,
                name=f"layer{number}",
                kind=kind,
                connection=self.connection,
                groups=self.groups,
                heads=self.heads if kind == "gat" else 1,
                norm=self.norm,
                edge_features=self.edge_features,
                masked=self.masked,
                tied="^layer0" if self.tied and number else "",
            )
        return g.build(x)


def _allowed(what: str, name: str, allowed: tuple[str, ...]) -> None:
    if name not in allowed:
        raise GraphError(f"unknown {what} {name!r}: {did_you_mean(name, allowed)}")
