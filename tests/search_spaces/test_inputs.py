"""Random inputs of networks, and graphs as one thing."""

from __future__ import annotations

import torch

from search_spaces import GraphBuilder
from search_spaces.inputs import GraphInput, random_inputs, spread_out


def test_edges_lead_from_any_node_to_another() -> None:
    g = GraphBuilder()
    g.add("input", name="x", size=(4, 3))
    g.add("input", name="edges", size=(2, 500), dtype="int64")
    x = g.add("input", name="attributes", size=(500, 2))
    features, edges, attributes = random_inputs(g.build(x), 2, torch.Generator().manual_seed(0))
    assert (features.shape, edges.shape, attributes.shape) == ((2, 4, 3), (2, 2, 500), (2, 500, 2))
    assert edges.dtype == torch.int64
    assert set(map(tuple, edges[0].T.tolist())) == {(i, j) for i in range(4) for j in range(4) if i != j}


def test_a_single_node_has_edges_to_itself() -> None:
    g = GraphBuilder()
    x = g.add("input", name="x", size=(1, 3))
    g.add("input", name="edges", size=(2, 5), dtype="int64")
    assert not random_inputs(g.build(x), 1)[1].any()


def test_other_whole_numbers_are_0_and_1() -> None:
    g = GraphBuilder()
    tokens = g.add("input", name="tokens", size=(50,), dtype="int64")
    (made,) = random_inputs(g.build(tokens), 3, torch.Generator().manual_seed(0))
    assert set(made.unique().tolist()) == {0, 1}


def test_a_graph_is_spread_out_where_it_comes_alone() -> None:
    x, edges = torch.zeros(1, 2, 3), torch.zeros(1, 2, 4, dtype=torch.int64)
    assert spread_out((GraphInput(x, edges),)) == (x, edges)
    assert spread_out((x,)) == (x,)
