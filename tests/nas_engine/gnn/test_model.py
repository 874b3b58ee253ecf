"""Networks from settings: what they are made of, what is refused, and that the published ones are as published."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from nas_engine.gnn import PUBLISHED, Model, Sizes, model_graph
from search_spaces import Graph, Network

SIZES = Sizes(nodes=20, edges=60, features=5, edge_features=0, classes=4)
WITH_EDGES = Sizes(nodes=20, edges=60, features=5, edge_features=3, classes=4)


def given(sizes: Sizes) -> list[torch.Tensor]:
    torch.manual_seed(0)
    tensors = [torch.randn(1, sizes.nodes, sizes.features), torch.randint(sizes.nodes, (1, 2, sizes.edges))]
    return [*tensors, torch.rand(1, sizes.edges, sizes.edge_features)] if sizes.edge_features else tensors


def made(sizes: Sizes = SIZES, **settings: Any) -> Network:
    torch.manual_seed(0)
    return Network(model_graph(Model(width=8, **settings), sizes))


@pytest.mark.parametrize("connection", ["plain", "residual", "reversible", "equilibrium"])
@pytest.mark.parametrize("conv", ["gcn", "sage", "gat", "gen"])
def test_every_kind_learns_with_all_its_weights(conv: str, connection: str) -> None:
    network = made(WITH_EDGES, conv=conv, connection=connection, depth=2)
    logits = network(*given(WITH_EDGES))
    assert logits.shape == (1, 20, 4)
    logits.square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    encoded = [name for name, _ in network.named_parameters() if name.startswith("edge_encoder")]
    assert bool(encoded) == (conv in ("gat", "gen"))


def test_tied_layers_have_the_weights_of_one() -> None:
    count = [sum(p.numel() for p in made(depth=d, tied=True).parameters()) for d in (1, 2, 9)]
    assert count[0] == count[1] == count[2]
    assert sum(p.numel() for p in made(depth=2).parameters()) > count[0]


def test_a_convolution_a_layer() -> None:
    network = made(depth=3, conv=("gcn", "sage", "gcn"))
    assert network(*given(SIZES)).shape == (1, 20, 4)
    kinds = {n.split(".")[-1] for n, m in network.named_modules() if type(m).__name__ == "GraphConvolution"}
    assert kinds == {"gcn", "sage"}


def test_a_graph_comes_back_from_json() -> None:
    graph = model_graph(Model(width=8, depth=5, conv="gen"), WITH_EDGES)
    network, again = Network(graph).eval(), Network(Graph.from_json(graph.to_json())).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(network(*given(WITH_EDGES)), again(*given(WITH_EDGES)))


def test_dropout_is_one_mask_for_all_layers_and_one_before_the_head() -> None:
    operators = [node.operator for node in model_graph(Model(width=8, dropout=0.3), SIZES)]
    assert operators.count("dropout_mask") == 1
    assert operators.count("dropout") == 1
    assert "dropout" not in {node.operator for node in model_graph(Model(width=8, dropout=0), SIZES)}
    deep = [node.operator for node in model_graph(Model(width=8, input_dropout=0.5), SIZES)]
    assert deep.count("dropout") == 2


def test_published_networks_have_their_published_sizes() -> None:
    """Parameters of Li et al. 2021, table 1, on ogbn-proteins: 20.03 and 68.47 million."""
    proteins = Sizes(nodes=100, edges=300, features=8, edge_features=8, classes=112)
    for name, params in (("revgnn-deep", 20.03e6), ("revgnn-wide", 68.47e6)):
        graph = model_graph(Model(name=name), proteins)
        assert graph.cost.params == pytest.approx(params, rel=0.02), name
    assert set(PUBLISHED) == {"revgnn-deep", "revgnn-wide"}


def test_settings_of_a_published_network_can_be_replaced() -> None:
    model = Model(name="revgnn-deep", depth=10)
    assert (model.depth, model.width, model.conv, model.dropout) == (10, 80, "gen", 0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "revgnn-depe"}, "did you mean 'revgnn-deep'"),
        ({"conv": "gcnn"}, "did you mean 'gcn'"),
        ({"conv": ("gcn", "gen"), "depth": 3}, "lists 2 layers, but depth is 3"),
        ({"conv": ("gcn", "gen"), "depth": 2, "tied": True}, "of one kind"),
        ({"connection": "equilibrium", "tied": True}, "leave tied out"),
        ({"width": 63}, "multiple of 2"),
        ({"conv": "gat", "width": 64, "heads": 3}, "3 heads do not divide the 32 channels"),
        ({"depth": 0}, "greater than or equal to 1"),
        ({"connection": "reversable"}, "reversible"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Model(**settings)
