"""Operators of graph networks: what they cost, what they compute, and stacks run in less memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from search_spaces import GraphBuilder, Network
from search_spaces.errors import GraphError
from search_spaces.graph import Graph
from search_spaces.message_passing import make_convolution, softmax_messages
from search_spaces.operators.message_passing import CONVOLUTIONS

NODES, EDGES = 7, 20


def build(operator: str, features: int = 8, edge_features: int = 0, **settings: Any) -> Graph:
    shapes: list[tuple[int, ...]] = [(NODES, features), (2, EDGES)]
    g = GraphBuilder(*shapes, *([(EDGES, edge_features)] if edge_features else []))
    x, edges, *attributes = g.inputs
    mask = [g.add("dropout_mask", x, name="mask", p=0.4)] if settings.get("masked") else []
    return g.build(g.add(operator, x, edges, *attributes, *mask, name="net", **settings))


def given(features: int = 8, edge_features: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    edges = torch.randint(NODES - 1, (1, 2, EDGES), generator=generator)  # the last node has no edge
    tensors = [torch.randn(1, NODES, features, generator=generator), edges]
    return tensors + ([torch.randn(1, EDGES, edge_features, generator=generator)] if edge_features else [])


def count(network: Network) -> int:
    return sum(p.numel() for p in network.parameters())


# ---- costs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edge_features", [0, 3, 12])
@pytest.mark.parametrize("channels", [8, 12])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_parameters_that_are_counted_are_those_of_the_modules(kind: str, channels: int, edge_features: int) -> None:
    if edge_features and not CONVOLUTIONS[kind].edge_features:
        with pytest.raises(GraphError, match="does not take features of edges"):
            build("graph_conv", edge_features=edge_features, kind=kind, channels=channels)
        return
    for more in ({}, {"norm": "none"}, {"norm": "batch"}, {"heads": 2 if kind == "gat" else 1}):
        graph = build("graph_conv", edge_features=edge_features, kind=kind, channels=channels, **more)  # type: ignore[arg-type]
        network = Network(graph)
        assert graph.cost.params == count(network), more
        assert network(*given(edge_features=edge_features)).shape == (1, NODES, channels)


@pytest.mark.parametrize("norm", ["layer", "batch", "none"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_an_equilibrium_has_the_weights_of_one_block_and_the_work_of_many(kind: str, norm: str) -> None:
    graph = build("graph_equilibrium", kind=kind, norm=norm, iterations=10)
    assert graph.cost.params == count(Network(graph))
    block = build("graph_block", kind=kind, norm=norm, channels=8)
    assert graph.cost.macs == 10 * block.cost.macs
    assert graph.cost.params == block.cost.params + 1


def test_an_equilibrium_runs_in_a_network_with_features_of_edges_and_a_mask() -> None:
    settings = {"kind": "gen", "edge_features": True, "masked": True}
    g = GraphBuilder((NODES, 8), (2, EDGES), (EDGES, 3))
    mask = g.add("dropout_mask", g.inputs[0], name="mask", p=0.4)
    graph = g.build(g.add("graph_equilibrium", *g.inputs, mask, name="net", **settings))
    network = Network(graph)
    assert graph.cost.params == count(network)
    network.train()(*given(edge_features=3)).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    with pytest.raises(GraphError, match="takes features, edges"):
        build("graph_equilibrium", edge_features=3, kind="gen")


@pytest.mark.parametrize("connection", ["plain", "residual", "reversible"])
def test_stacks_cost_what_their_layers_do_and_tied_ones_have_the_weights_of_one(connection: str) -> None:
    def stack(layers: int, tied: bool = False) -> Graph:
        return build("graph_stack", kinds=("sage",) * layers, connection=connection, tied=tied)

    for graph in (stack(3), stack(3, tied=True)):
        assert graph.cost.params == count(Network(graph))
    assert stack(6).cost.params == 6 * stack(1).cost.params
    assert {stack(n, tied=True).cost.params for n in (1, 3, 9)} == {stack(1).cost.params}
    assert stack(6, tied=True).cost.macs == stack(6).cost.macs == 6 * stack(1).cost.macs


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kinds": ("gcm",)}, "did you mean 'gcn'"),
        ({"kinds": ()}, "one or more layers"),
        ({"kinds": ("gcn", "gat"), "tied": True}, "of one kind where they are tied"),
        ({"kinds": ("gcn",), "groups": 3}, "cannot be cut into 3 groups"),
        ({"kinds": ("gcn",), "connection": "reversed"}, "did you mean 'reversible'"),
    ],
)
def test_stacks_that_cannot_be_are_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(GraphError, match=told):
        build("graph_stack", **settings).cost  # noqa: B018


# ---- stacks in less memory ---------------------------------------------------------------------------------


def gradients(network: Network, tensors: Sequence[Tensor], memory: str) -> tuple[Tensor, list[Tensor]]:
    network.memory = memory
    network.zero_grad()
    torch.manual_seed(5)
    y = network(*tensors)
    y.square().sum().backward()
    return y.detach(), [p.grad.clone() for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("kind", "groups", "edge_features"), [("gen", 2, 3), ("gat", 4, 3), ("sage", 2, 0), ("gcn", 4, 0)]
)
def test_all_ways_to_keep_a_stack_s_values_are_equal(kind: str, groups: int, edge_features: int, tied: bool) -> None:
    settings = {"kinds": (kind,) * 3, "groups": groups, "masked": True, "tied": tied}
    graph = _with_mask(edge_features, settings)
    network = Network(graph).train().double()
    tensors = [t.double() if t.is_floating_point() else t for t in given(edge_features=edge_features)]
    plain, expected = gradients(network, tensors, "plain")
    for memory in ("reversible", "checkpoint"):
        y, found = gradients(network, tensors, memory)
        torch.testing.assert_close(y, plain)
        assert len(found) == len(expected) == len(list(network.parameters()))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


def _with_mask(edge_features: int, settings: dict[str, Any]) -> Graph:
    g = GraphBuilder((NODES, 8), (2, EDGES), *([(EDGES, edge_features)] if edge_features else []))
    mask = g.add("dropout_mask", g.inputs[0], name="mask", p=0.4)
    stack = g.add("graph_stack", *g.inputs, mask, name="net", edge_features=edge_features > 0, **settings)
    return g.build(stack)


@pytest.mark.parametrize("connection", ["plain", "residual"])
def test_stacks_that_cannot_be_undone_are_run_again_from_checkpoints(connection: str) -> None:
    network = Network(build("graph_stack", kinds=("sage", "gcn"), connection=connection, norm="batch")).double()
    tensors = [t.double() if t.is_floating_point() else t for t in given()]
    before = {k: v.clone() for k, v in network.state_dict().items()}
    _, expected = gradients(network, tensors, "plain")
    state = {k: v.clone() for k, v in network.state_dict().items()}
    network.load_state_dict(before)
    _, found = gradients(network, tensors, "checkpoint")
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    for name, value in network.state_dict().items():  # a batch is counted once, though it is run twice
        torch.testing.assert_close(value, state[name], msg=name)


def test_ways_to_keep_values_hold_what_they_say() -> None:
    def saved(memory: str, layers: int) -> int:
        network = Network(build("graph_stack", kinds=("sage",) * layers))
        network.memory = memory
        own = {p.untyped_storage().data_ptr() for p in network.parameters()}
        sizes, kept = {}, []

        def pack(t: Tensor) -> Tensor:
            if t.untyped_storage().data_ptr() not in own:
                sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
                kept.append(t)
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            network(*given())
        return sum(sizes.values())

    growth = {memory: saved(memory, 24) - saved(memory, 4) for memory in ("plain", "reversible")}
    assert growth["plain"] > 20 * NODES * 8 * 4
    assert growth["reversible"] <= 0.02 * growth["plain"]


def test_an_unknown_way_is_told() -> None:
    with pytest.raises(GraphError, match="did you mean 'reversible'"):
        Network(build("graph_stack", kinds=("sage",))).memory = "reversable"


# ---- messages ----------------------------------------------------------------------------------------------


def published(x: Tensor, edges: Tensor, attributes: Tensor | None) -> Tensor:
    """PyTorch Geometric's softmax aggregation of the same messages."""
    from torch_geometric.nn.aggr import SoftmaxAggregation

    m = x[edges[0]] if attributes is None else x[edges[0]] + attributes
    result: Tensor = SoftmaxAggregation()(m.relu() + 1e-7, edges[1], dim_size=len(x), dim=0)
    return result


@pytest.mark.parametrize("scale", [1.0, 400.0])  # of exponentials that can be summed as they are, and that cannot
@pytest.mark.parametrize("edged", [False, True])
@pytest.mark.parametrize("numbers", [1 << 18, 3 * EDGES])
def test_softmax_messages_are_the_published_ones(
    numbers: int, edged: bool, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search_spaces.message_passing._EDGE_NUMBERS", numbers)  # all features, or three at a time
    x, edges = (t[0] for t in given())
    x = (scale * x.double()).requires_grad_()
    attributes = torch.randn(EDGES, 8, dtype=torch.float64).requires_grad_() if edged else None
    wanted = [x] if attributes is None else [x, attributes]
    weights = torch.randn(NODES, 8, dtype=torch.float64)
    mine, theirs = softmax_messages(x, edges, attributes), published(x, edges, attributes)
    torch.testing.assert_close(mine, theirs)
    assert torch.equal(mine[-1], torch.zeros(8, dtype=torch.float64)), "a node without edges"
    for a, b in zip(
        torch.autograd.grad((mine * weights).sum(), wanted),
        torch.autograd.grad((theirs * weights).sum(), wanted),
        strict=True,
    ):
        assert a.abs().sum() > 0
        torch.testing.assert_close(a, b)


def test_messages_of_any_size_stay_finite() -> None:
    edges = torch.tensor([[0, 1, 2, 2], [1, 0, 0, 1]])
    for size in (1e-30, 1.0, 60.0, 88.0, 1e4, 1e30):
        x = torch.tensor([[size], [-size], [size / 2]], requires_grad=True)
        y = softmax_messages(x, edges)
        y.sum().backward()
        assert torch.isfinite(y).all()
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()


def test_gen_is_the_published_convolution() -> None:
    from torch_geometric.nn import GENConv

    x, edges, attributes = (t[0] for t in given(edge_features=3))
    mine = make_convolution("gen", 8, 12, 1, 3, "layer")
    theirs = GENConv(8, 12, norm="layer", edge_dim=3)
    theirs.load_state_dict(mine.state_dict())
    torch.testing.assert_close(mine(x, edges, attributes), theirs(x, edges, attributes))


def test_several_graphs_are_apart() -> None:
    network = Network(build("graph_conv", kind="gcn", channels=4))
    x, edges = given()
    both = network(torch.cat([x, 2 * x]), torch.cat([edges, edges.flip(-1).flip(1)]))
    torch.testing.assert_close(both[:1], network(x, edges))
    torch.testing.assert_close(both[1:], network(2 * x, edges.flip(-1).flip(1)))


def test_a_mask_of_dropout_is_scaled_and_nothing_in_evaluation() -> None:
    g = GraphBuilder((500, 8))
    network = Network(g.build(g.add("masked", g.input, g.add("dropout_mask", g.input, p=0.3), name="m")))
    x = torch.ones(1, 500, 8)
    y = network.train()(x)
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert math.isclose(float(y.mean()), 1, abs_tol=0.1)
    assert torch.equal(network.eval()(x), x)
