"""Memory of a training step: against the allocator, by hand, and what it does not depend on."""

from __future__ import annotations

import numpy as np
import pytest

from nas_engine.testing.measure import measured_step_bytes
from predictors.cost import TrainMemoryBytes, make_cost_model, retention
from search_spaces import Graph, GraphBuilder, SearchSpace, make_space, message_passing
from search_spaces.gnn import CONNECTIONS, Gnn

N, E = 1200, 5000


def of(graph: Graph, batch: int = 1) -> float:
    return TrainMemoryBytes(batch).cost(graph)


def drawn(space: SearchSpace, count: int) -> list[Graph]:
    rng = np.random.default_rng(0)
    return [space.graph(space.sample(rng)) for _ in range(count)]


def deep(connection: str, depth: int, kind: str = "gen", width: int = 32) -> Graph:
    space = Gnn(input_shape=(N, 16), edges=E, depths=(depth,), widths=(width,), norms=("layer",), dropouts=(0.0,))
    convolutions = {choice.name: kind for choice in space.choices if choice.name.startswith("conv.")}
    return space.graph(space.architecture({"connection": connection, **convolutions}))


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_graph_networks_take_what_is_counted(connection: str) -> None:
    """Within 20 % of what torch allocates, whatever the convolutions, norms and dropouts."""
    space = Gnn(input_shape=(N, 50), edges=E, connections=(connection,), depths=(2, 3, 6), widths=(32, 64))
    for graph in drawn(space, 3):
        assert of(graph) == pytest.approx(measured_step_bytes(graph), rel=0.2)


def test_features_of_edges_are_counted() -> None:
    space = Gnn(input_shape=(N, 50), edges=E, edge_features=8, kinds=("gat", "gen"), depths=(2, 3), widths=(32,))
    for graph in drawn(space, 3):
        assert of(graph) == pytest.approx(measured_step_bytes(graph), rel=0.2)


@pytest.mark.parametrize("kind", ["gin", "cheb", "arma", "graph"])
def test_other_convolutions(kind: str) -> None:
    space = Gnn(input_shape=(N, 50), edges=E, kinds=(kind,), depths=(3,), widths=(32,), connections=("residual",))
    graph = space.graph(space.architecture())
    assert of(graph) == pytest.approx(measured_step_bytes(graph), rel=0.2)


@pytest.mark.parametrize(("name", "settings"), [("mobile", {}), ("nasbench201", {"channels": 8, "cells": 1})])
def test_networks_of_images_take_what_is_counted(name: str, settings: dict[str, int]) -> None:
    space = make_space(name, {**settings, "input_shape": (3, 24, 24)})
    for graph in drawn(space, 2):
        assert of(graph, 8) == pytest.approx(measured_step_bytes(graph, 8), rel=0.05)


def test_a_line_of_layers_by_hand() -> None:
    """x (data) -> linear -> ReLU -> linear. While the gradient goes through the ReLU there are: weights and moments,
    the ReLU's output, the gradients of its output and of its input, the logits, the gradient of the last weights.
    """
    g = GraphBuilder((1000,))
    hidden = g.add("linear", g.input, name="first", out_features=500, bias=False)
    graph = g.build(g.add("linear", g.add("activation", hidden), name="last", out_features=10, bias=False))
    batch, weights = 4000, 1000 * 500 + 500 * 10
    assert of(graph, batch) == 4 * (3 * weights + batch * (3 * 500 + 10) + 500 * 10)
    assert of(graph, batch) == pytest.approx(measured_step_bytes(graph, batch), rel=0.01)


def test_weights_are_counted_four_times_where_they_are_most() -> None:
    """Weight, gradient and two moments, and what Adam works with on the largest of them."""
    g = GraphBuilder((1000,))
    graph = g.build(g.add("linear", g.input, out_features=1000, bias=False))
    assert of(graph) == 4 * 1_000_000 * (4 + 2)
    assert of(graph) == pytest.approx(measured_step_bytes(graph), rel=0.05)


def test_reversible_stacks_do_not_grow_with_depth_but_by_their_weights() -> None:
    for kind in ("gcn", "gat", "gen"):
        weights = [deep("reversible", depth, kind).cost.params for depth in (4, 40)]
        shallow, deeper = (of(deep("reversible", depth, kind)) for depth in (4, 40))
        assert deeper - shallow <= 16 * (weights[1] - weights[0])
        assert of(deep("tied", 40, kind)) == of(deep("tied", 4, kind))
        assert of(deep("residual", 40, kind)) > 5 * of(deep("residual", 4, kind))
        assert of(deep("residual", 40, kind)) > 4 * deeper


def test_a_thousand_layers_are_counted_at_once() -> None:
    """Layers repeat: RevGNN-Deep's size costs seconds at most."""
    graph = deep("reversible", 1001, "gen", 80)
    assert of(graph) < 4e9
    assert of(graph) == of(graph)


def test_what_is_not_read_for_a_gradient_is_not_kept() -> None:
    """A branch that ends in zeros, and a mask."""
    g = GraphBuilder((64,))
    x = g.add("linear", g.input, name="a", out_features=4000)
    y = g.add("linear", g.input, name="b", out_features=4000)
    dead = g.build(g.add("add", x, g.add("zero", g.add("activation", y))))
    alive = g.build(g.add("add", x, g.add("activation", y, name="act"), name="sum"))
    assert of(dead, 256) < of(alive, 256)


def test_it_is_a_cost_like_others() -> None:
    model = make_cost_model("train_memory_bytes")
    assert (model.unit, model.source) == ("bytes", "analytic")
    graph = deep("plain", 2)
    assert model.cost(graph) == of(graph) > make_cost_model("activation_bytes").cost(graph)


def test_operators_without_a_rule_are_named() -> None:
    space = make_space("recurrent", {"input_shape": (4,), "classes": 7, "hidden": 3, "nodes": 2})
    with pytest.warns(UserWarning, match="operator 'recurrence'"):
        assert of(space.graph(space.architecture())) > 0


def test_messages_are_made_as_many_at_a_time_as_is_counted() -> None:
    assert retention._PART == message_passing._EDGE_NUMBERS
