"""What lies around the layers of a classifier of nodes: its inputs, the encoders before them, the head behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .graph import Graph, GraphBuilder, Node

_NORMS = {"layer": "layer_norm", "batch": "node_batch_norm"}


@dataclass(frozen=True)
class Sizes:
    """What data says of the networks for it.

    Attributes:
        nodes, edges: N and E of its graph; networks run on others too.
        features: of a node. edge_features: of an edge, 0 for none. classes: outputs of a node.
    """

    nodes: int
    edges: int
    features: int
    edge_features: int
    classes: int


class Layers(Protocol):
    """Adds all layers to a graph, from the encoded features `x`.

    Args:
        rest: edges, then encoded features of edges where `edge_features`, then a dropout mask where `masked`.
    """

    def __call__(self, g: GraphBuilder, x: Node, *rest: Node, masked: bool, edge_features: bool) -> Node: ...


def node_classifier(
    sizes: Sizes,
    layers: Layers,
    *,
    width: int,
    norm: str,
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    edge_width: int | None = None,
    prefix: str = "",
) -> Graph:
    """A linear encoder, layers, norm, ReLU, dropout and a linear head: from `(N, F)`, `(2, E)` to `(N, classes)`.

    Args:
        sizes: of the data; features of edges `(E, D)` are a third input where it has any.
        width: features between encoder and head.
        norm: "layer", "batch" or "none".
        dropout: one mask for all layers (Li et al. 2021, section 3.2), another before the head.
        input_dropout: of the features that are put in.
        edge_width: what features of edges are encoded to, once for all layers; None where no layer reads them.
        prefix: of the names of nodes with weights.
    """
    g = GraphBuilder()
    x = g.add("input", name="x", size=(sizes.nodes, sizes.features))
    rest = [g.add("input", name="edges", size=(2, sizes.edges), dtype="int64")]
    if sizes.edge_features:
        attributes = g.add("input", name="attributes", size=(sizes.edges, sizes.edge_features))
        if edge_width is not None:
            rest.append(g.add("linear", attributes, name=f"{prefix}edge_encoder", out_features=edge_width))
    edge_features = len(rest) > 1
    if input_dropout:
        x = g.add("dropout", x, name="input_drop", p=input_dropout)
    x = g.add("linear", x, name=f"{prefix}encoder", out_features=width)
    if dropout:
        rest.append(g.add("dropout_mask", x, name="mask", p=dropout))
    x = layers(g, x, *rest, masked=bool(dropout), edge_features=edge_features)
    if norm != "none":
        x = g.add(_NORMS[norm], x, name=f"{prefix}{_NORMS[norm]}")
    x = g.add("activation", x, name="act", kind="relu")
    if dropout:
        x = g.add("dropout", x, name="drop", p=dropout)
    return g.build(g.add("linear", x, name=f"{prefix}head", out_features=sizes.classes))
