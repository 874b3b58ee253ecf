"""Networks of the RevGNN family from a few settings: encoder, a deep stack of graph convolutions, head.

The stack is one node of the graph, so that a network may run it reversibly, by checkpoints, or as it stands.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from search_spaces import Graph, GraphBuilder
from search_spaces.errors import did_you_mean
from search_spaces.graph import Node
from search_spaces.node_classifier import Sizes, node_classifier
from search_spaces.operators.message_passing import CONVOLUTIONS

from ..config.base import Section

_PAPER = {"conv": "gen", "connection": "reversible", "groups": 2, "norm": "layer"}
PUBLISHED: dict[str, dict[str, Any]] = {
    "revgnn-deep": {**_PAPER, "depth": 1001, "width": 80, "edge_width": 80, "dropout": 0.1},
    "revgnn-wide": {**_PAPER, "depth": 448, "width": 224, "edge_width": 224, "dropout": 0.2},
}
"""Settings by the names of Li et al. 2021, table 1."""


class Model(Section):
    """A deep graph network.

    name: `revgnn-deep` or `revgnn-wide`, settings of the paper's that others given here replace. conv: a convolution,
    or one a layer. connection: around each layer; `equilibrium` is the fixed point of one layer. tied: all layers have
    one layer's weights. depth: layers, or calls of the layer at most on the way to its fixed point. groups: that
    reversible layers cut features into.
    heads: of gat. norm: before each convolution. dropout: one mask for all layers, another before the head.
    input_dropout: of features of nodes. edge_features: whether convolutions read features of edges, where the data has
    any. edge_width: that these are encoded to, linearly and for all layers; by default the channels of a convolution,
    while with others each convolution maps them once more.
    """

    name: str | None = None
    conv: str | tuple[str, ...] = "gcn"
    connection: Literal["plain", "residual", "reversible", "equilibrium"] = "reversible"
    tied: bool = False
    depth: int = Field(7, ge=1)
    width: int = Field(64, ge=1)
    groups: int = Field(2, ge=2)
    heads: int = Field(1, ge=1)
    norm: Literal["layer", "batch", "none"] = "layer"
    dropout: float = Field(0.1, ge=0, lt=1)
    input_dropout: float = Field(0.0, ge=0, lt=1)
    edge_features: bool = True
    edge_width: int | None = Field(None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _published(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("name") is None:
            return data
        if data["name"] not in PUBLISHED:
            raise ValueError(f"unknown model {data['name']!r}: {did_you_mean(str(data['name']), PUBLISHED)}")
        return {**PUBLISHED[data["name"]], **data}

    @model_validator(mode="after")
    def _consistent(self) -> Model:
        for kind in self.kinds:
            if kind not in CONVOLUTIONS:
                raise ValueError(f"unknown convolution {kind!r}: {did_you_mean(kind, CONVOLUTIONS)}")
        if len(self.kinds) != self.depth:
            raise ValueError(f"conv lists {len(self.kinds)} layers, but depth is {self.depth}; give one for each")
        if self.tied and self.connection == "equilibrium":
            raise ValueError("an equilibrium is of one layer's weights anyway; leave tied out")
        one_layer = self.tied or self.connection == "equilibrium"
        if one_layer and len(set(self.kinds)) > 1:
            raise ValueError(f"layers of one layer's weights are of one kind, but conv lists {sorted(set(self.kinds))}")
        if self.connection == "reversible" and self.width % self.groups:
            raise ValueError(
                f"width {self.width} cannot be cut into {self.groups} groups; take a multiple of {self.groups}"
            )
        if "gat" in self.kinds and self.channels % self.heads:
            raise ValueError(f"{self.heads} heads do not divide the {self.channels} channels of a convolution")
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """The convolution of each layer."""
        return (self.conv,) * self.depth if isinstance(self.conv, str) else self.conv

    @property
    def channels(self) -> int:
        """Channels that a convolution sees."""
        return self.width // self.groups if self.connection == "reversible" else self.width


def model_graph(model: Model, sizes: Sizes) -> Graph:
    """The graph of a model: features `(N, F)`, edges `(2, E)`, any features of edges `(E, D)`, to `(N, classes)`."""
    reads = model.edge_features and any(CONVOLUTIONS[kind].edge_features for kind in model.kinds)

    def layers(g: GraphBuilder, x: Node, *rest: Node, **inputs: bool) -> Node:
        return _layers(model, g, x, *rest, **inputs)

    return node_classifier(
        sizes,
        layers,
        width=model.width,
        norm=model.norm,
        dropout=model.dropout,
        input_dropout=model.input_dropout,
        edge_width=(model.edge_width or model.channels) if sizes.edge_features and reads else None,
    )


def _layers(model: Model, g: GraphBuilder, x: Node, *rest: Node, **inputs: bool) -> Node:
    """All layers, or the fixed point of one."""
    common = {"heads": model.heads, "norm": model.norm, **inputs}
    if model.connection == "equilibrium":
        kind = model.kinds[0]
        common["heads"] = model.heads if kind == "gat" else 1
        return g.add("graph_equilibrium", x, *rest, name="equilibrium", kind=kind, iterations=model.depth, **common)
    settings = {"kinds": model.kinds, "connection": model.connection, "groups": model.groups, "tied": model.tied}
    return g.add("graph_stack", x, *rest, name="stack", **settings, **common)
