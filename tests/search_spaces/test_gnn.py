"""The space of graph networks: contracts, patterns, what is the same network, shared weights, sketches."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from nas_engine.testing import SpaceContract
from nas_engine.testing.measure import counted_macs
from predictors.encoding import Encoder
from search_spaces import Architecture, Graph, Network, Node, SpaceError, Supernet
from search_spaces.gnn import CONNECTIONS, Gnn
from search_spaces.inputs import GraphInput, random_inputs

N, F, E = 12, 5, 30
SMALL: dict[str, Any] = {
    "input_shape": (N, F),
    "classes": 3,
    "edges": E,
    "depths": (1, 3),
    "widths": (8, 16),
    "groups": (2,),
    "dropouts": (0.0, 0.4),
}


def messages(node: Node) -> int:
    """Multiplications of a convolution, element by element: of messages by edge weights, or by attention."""
    settings = dict(node.attributes.get("settings", ())) if node.operator == "again" else node.attributes
    kind, o = settings.get("kind"), node.shape[-1]
    if node.operator not in ("graph_conv", "again") or kind not in ("gcn", "gat", "gen", "arma", "cheb"):
        return 0
    (n, i), (_, e) = node.signature.inputs[:2]
    parts = 2 if len(node.signature.inputs) > 2 else 1  # attention to features of edges beside those of nodes
    attended = 2 * n * o + parts * (e + n) * o
    return {"gcn": (e + n) * o, "gat": attended, "gen": e * o, "cheb": e * i, "arma": e * o}[kind]


class GraphContract(SpaceContract):
    output_shape = (N, 3)
    members = 16

    def test_macs_are_those_torch_counts(self, graphs: list[Graph]) -> None:
        """torch counts products of matrices, not those of messages; of equilibria, only as many calls as it took."""
        for graph in graphs:
            nodes = graph.simplify().nodes
            if not any(node.operator == "graph_equilibrium" for node in nodes):
                assert sum(node.signature.cost.macs - messages(node) for node in nodes) == counted_macs(graph, "cpu")


class TestContract(GraphContract):
    space = Gnn(**SMALL, kinds=("gcn", "gen"))
    slices: ClassVar[int] = 8


class TestContractOfEdgeFeatures(GraphContract):
    """Features of edges, several heads, no norm, and a kind that does not read features of edges."""

    space = Gnn(
        **SMALL,
        edge_features=4,
        heads=2,
        kinds=("gen", "gat", "sage"),
        connections=("residual", "reversible", "equilibrium"),
        norms=("none", "layer"),
        pattern=2,
    )


class TestContractOfPlainStacks(GraphContract):
    space = Gnn(**SMALL, connections=("plain",), norms=("batch",), kinds=("cheb", "graph", "arma", "gin"), pattern=1)


@pytest.fixture(scope="module")
def space() -> Gnn:
    return Gnn(**{**SMALL, "depths": (1, 2, 4), "groups": (2, 4)}, kinds=("gcn", "gen"))


def given(graph: Graph) -> GraphInput:
    return GraphInput(*random_inputs(graph, 1, torch.Generator().manual_seed(0)))


# ---- members ---------------------------------------------------------------------------------------------


def test_layers_repeat_the_pattern(space: Gnn) -> None:
    member = space.architecture({"depth": 4, "conv.0": "gen", "conv.1": "gcn", "conv.2": "gcn"})
    assert space.kinds(member) == ("gen", "gcn", "gcn", "gen")
    (stack,) = [node for node in space.graph(member) if node.operator == "graph_stack"]
    assert stack.attributes["kinds"] == ("gen", "gcn", "gcn", "gen")
    assert len(space.graph(member).inline()) > 12


def test_choices_without_effect_rest_or_are_folded(space: Gnn) -> None:
    """Layers that there are not, groups of what is not cut, other kinds of a tied stack, depth of an equilibrium."""
    shallow = space.architecture({"depth": 2, "conv.2": "gen", "groups": 4, "connection": "plain"})
    assert shallow["conv.2"] == "gcn"
    assert shallow["groups"] == 2
    tied = space.architecture({"connection": "tied", "depth": 4, "conv.0": "gen", "conv.1": "gen"})
    assert space.canonical(tied)["conv.1"] == "gcn"
    assert space.canonical(tied)["conv.0"] == "gen"
    endless = space.architecture({"connection": "equilibrium", "depth": 4, "conv.1": "gen"})
    assert space.canonical(endless) == space.architecture({"connection": "equilibrium"})


def test_canonical_members_are_the_same_network(space: Gnn) -> None:
    """And different ones are different networks."""
    graphs: dict[Architecture, str] = {}
    for member in space.enumerate():
        canonical = space.canonical(member)
        assert graphs.setdefault(canonical, space.graph(member).id) == space.graph(canonical).id
    assert len(set(graphs.values())) == len(graphs) < space.size


def test_sketches_tell_networks_apart_and_do_not_grow_with_depth() -> None:
    space = Gnn(**{**SMALL, "depths": (2, 16, 1001), "groups": (2, 4)}, kinds=("gcn", "gen"))
    members = {space.canonical(m) for m in space.enumerate() if m["width"] == 8}
    sketches = {space.sketch(member) for member in members}
    assert len(sketches) == len(members)
    assert max(map(len, sketches)) < 16
    assert sum(n.operator == "graph_layer" for n in space.sketch(space.architecture({"depth": 1001}))) == 3


def test_encodings_of_deep_members_are_small() -> None:
    space = Gnn(**{**SMALL, "depths": (2, 112)})
    encoder = Encoder(space)
    deep = space.architecture({"connection": "reversible", "depth": 112, "conv.1": "gat"})
    shallow = space.architecture({"connection": "reversible", "depth": 2, "conv.1": "gat"})
    batch = encoder.encode([space.sketch(deep), space.sketch(shallow)])
    assert batch.rows.shape[1] < 16
    assert not np.array_equal(batch.rows[0], batch.rows[1])


def test_what_a_space_cannot_be_made_of_is_told() -> None:
    for wrong, told in (
        ({"kinds": ("gcm",)}, "'gcn'"),
        ({"connections": ("residul",)}, "'residual'"),
        ({"norms": ("batchnorm",)}, "batch"),
        ({"widths": (10,), "groups": (4,)}, "multiples of groups"),
        ({"heads": 3}, "multiples of groups"),
        ({"depths": (0, 2)}, "depths"),
        ({"dropouts": (1.0,)}, "dropouts"),
        ({"input_dropouts": (-0.1,)}, "dropouts"),
        ({"edges": 0}, "edges"),
    ):
        with pytest.raises(SpaceError, match=told):
            Gnn(**{**SMALL, **wrong})


# ---- shared weights --------------------------------------------------------------------------------------


def test_widths_and_depths_share_slots_and_kinds_do_not(space: Gnn) -> None:
    names = set(Supernet(space).state_dict())
    assert "plain_layer.layer3.f0.gcn.conv.lin.weight" in names
    assert "plain_layer.layer3.f0.gen.conv.mlp.0.weight" in names
    assert "reversible4_batch.layer3.f3.gcn.conv.lin.weight" in names
    assert not any(name.startswith(("tied2_layer.layer1", "tied4_batch.layer1")) for name in names)
    assert len({name for name in names if name.startswith("plain_layer.encoder.")}) == 2
    assert "reversible4_batch.encoder.weight" in names  # others read other features


def test_tensors_inside_convolutions_are_cut_to_their_first_entries() -> None:
    """Attention `(1, heads, F)` has no kernel of which the centre would be taken."""
    space = Gnn(**SMALL, kinds=("gat",), connections=("residual",), norms=("layer",))
    supernet = Supernet(space)
    name = "residual_layer.layer0.f0.gat.conv.att_src"
    small = supernet.extract(space.architecture({"width": 8})).state_dict()[name]
    assert torch.equal(small, supernet.state_dict()[name][:, :, :8])


def test_statistics_inside_a_convolution_are_recalibrated() -> None:
    """GENConv has a batch norm in its perceptron."""
    space = Gnn(**SMALL, kinds=("gen",), connections=("residual",), norms=("batch",))
    torch.manual_seed(0)
    supernet, member = Supernet(space), space.architecture({"depth": 3, "width": 8})
    graph = given(space.graph(member))
    supernet.recalibrate(member, [graph])
    state = supernet.state_dict()
    means = {name: state[name] for name in state if name.endswith("running_mean")}
    assert any(".gen.conv.mlp." in name for name in means)
    assert all(mean[: len(mean) // 2].any() for mean in means.values())
    network = supernet.extract(member).train()
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.reset_running_stats()
            norm.momentum = None
    network(graph)
    found = supernet.extract(member).state_dict()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(found[name], tensor)


def test_features_are_dropped_before_the_encoder(space: Gnn) -> None:
    member = space.architecture(**{"input_dropout": 0.5, "dropout": 0.0, "norm": "layer", "conv.0": "gen"})
    network = Network(space.graph(member))
    (mask,) = [node for node in space.graph(member).nodes if node.operator == "dropout"]
    assert (mask.name, mask.shape) == ("input_drop", (N, F))
    graph = given(space.graph(member))
    assert not torch.equal(*(network.train()(graph) for _ in range(2)))
    assert torch.equal(*(network.eval()(graph) for _ in range(2)))


def test_masks_are_regularisers(space: Gnn) -> None:
    """Without regularisation a training runs as without dropout."""
    supernet = Supernet(space).train()
    dropping = space.architecture({"connection": "reversible", "dropout": 0.4, "norm": "layer"})
    plain = space.architecture({"connection": "reversible", "dropout": 0.0, "norm": "layer"})
    graph = given(space.graph(dropping))
    with torch.no_grad():
        torch.testing.assert_close(supernet(graph, dropping, regularised=False), supernet(graph, plain))
        assert not torch.allclose(supernet(graph, dropping), supernet(graph, plain))


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_losses_of_several_members_add_up(space: Gnn, connection: str) -> None:
    """Also where the gradient calls modules again, to which another member's weights were bound meanwhile."""
    torch.manual_seed(0)
    supernet = Supernet(space).double().train()
    members = [space.architecture({"connection": connection, "norm": "layer", "width": w}) for w in (8, 16)]
    x, edges = given(space.graph(members[0])).tensors
    graph = GraphInput(x.double(), edges)
    alone: dict[str, torch.Tensor] = {}
    for member in members:
        supernet.zero_grad()
        supernet(graph, member).square().sum().backward()
        for name, p in supernet.named_parameters():
            if p.grad is not None:
                alone[name] = alone.get(name, torch.zeros_like(p)) + p.grad
    supernet.zero_grad()
    torch.stack([supernet(graph, member).square().sum() for member in members]).sum().backward()
    for name, gradient in alone.items():
        torch.testing.assert_close(dict(supernet.named_parameters())[name].grad, gradient, rtol=1e-6, atol=1e-9)
