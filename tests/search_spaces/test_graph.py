"""Graphs as properties of random wirings: forms that say the same network cost, shape and compute the same."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas_engine.testing import measure
from nas_engine.testing.strategies import graphs
from search_spaces import Cost, Graph, GraphBuilder, GraphError, Node, Operator, Shape, Signature, register_operator
from search_spaces.operators import make_operator, operators


def ends(graph: Graph) -> tuple[list[Shape], list[Shape]]:
    """Shapes of inputs and of outputs."""
    return [n.shape for n in graph.inputs], [graph[name].shape for name in graph.outputs]


# ---- properties -------------------------------------------------------------------------------------------


@given(graphs())
def test_json_comes_back(graph: Graph) -> None:
    again = Graph.from_json(graph.to_json())
    assert again == graph
    assert again.to_json() == graph.to_json()
    assert again.id == graph.id
    assert again.cost == graph.cost
    assert pickle.loads(pickle.dumps(graph)) == graph


@given(graphs())
def test_inlining_keeps_cost_and_ends(graph: Graph) -> None:
    inlined = graph.inline()
    assert all(node.signature.body is None for node in inlined)
    assert inlined.cost == graph.cost
    assert ends(inlined) == ends(graph)
    assert inlined.inline() == inlined


@given(graphs())
def test_live_graphs_hold_what_outputs_need(graph: Graph) -> None:
    """A node is live exactly if some output changes shape or goes missing without it: here, is reachable."""
    needed = set(graph.outputs)
    while more := {i for n in graph if n.name in needed for i in n.inputs} - needed:
        needed |= more
    live = graph.live()
    assert {n.name for n in live} == needed | {n.name for n in graph.inputs}
    assert live.live() == live
    assert ends(live) == ends(graph)


@given(graphs())
def test_simplified_graphs_are_minimal(graph: Graph) -> None:
    simple = graph.simplify()
    assert simple.simplify() == simple
    assert ends(simple) == ends(graph)
    assert not [n for n in simple if n.operator == "identity"]
    pure = [(n.signature, n.inputs) for n in simple if n.signature.pure]
    assert len(pure) == len(set(pure)), "a function of the same inputs is kept twice"
    assert simple.cost.params == graph.inline().live().cost.params
    assert simple.cost.macs == graph.inline().live().cost.macs


@given(graphs())
def test_cost_is_what_torch_counts(graph: Graph) -> None:
    simple = graph.simplify()
    assert simple.cost.macs == measure.counted_macs(graph)
    assert simple.cost.params == measure.counted_params(graph)


@given(graphs(), st.data())
def test_broken_json_is_refused_and_never_a_crash(graph: Graph, data: st.DataObject) -> None:
    """Any part of the text replaced by a value of another kind: a graph comes back or a `GraphError`."""
    content = json.loads(graph.to_json())
    paths = list(leaves(content))
    where = data.draw(st.sampled_from(paths))
    replace(content, where, data.draw(st.sampled_from((None, "x", -1, 2.5, [], {}, [[1]], True))))
    try:
        again = Graph.from_json(json.dumps(content))
    except GraphError:
        return
    assert Graph.from_json(again.to_json()) == again


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Any:
    """Paths of all parts of a JSON value but the whole."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield (*path, key)
        yield from leaves(part, (*path, key))


def replace(value: Any, path: tuple[Any, ...], part: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = part


# ---- signatures -------------------------------------------------------------------------------------------


def test_signatures_are_made_once() -> None:
    one = Signature.named("conv2d", {"out_channels": 4, "kernel_size": [3, 3]}, ((3, 8, 8),))
    other = Signature.named("conv2d", {"kernel_size": (3, 3), "out_channels": 4}, ((3, 8, 8),))
    assert one is other
    assert pickle.loads(pickle.dumps(one)) is one
    assert Signature.named("conv2d", {"out_channels": 4, "kernel_size": 3}, ((3, 9, 9),)) is not one


def test_building_repeated_blocks_makes_no_new_signature() -> None:
    def build() -> Graph:
        g = GraphBuilder((8, 10, 10))
        x = g.input
        for i in range(20):
            x = g.add("inverted_residual", x, name=f"block{i}", out_channels=8)
        return g.build(x)

    first = build()
    known = len(Signature._known)
    second = build()
    assert len(Signature._known) == known
    assert len({id(n.signature) for n in second}) == 2  # the input and one block
    assert second == first
    assert second.cost.params == 20 * second["block0"].signature.cost.params


@pytest.mark.parametrize(("one", "other"), [(3, 3.0), (3.0, 3)])
def test_equal_graphs_have_equal_text_whichever_number_came_first(one: float, other: float) -> None:
    """Signatures are shared, so the text of 3.0 may be that of an earlier 3; ids must not depend on that."""
    nodes = []
    for expansion in (one, other):
        operator = make_operator("inverted_residual", {"out_channels": 8, "expansion": expansion})
        signature = Signature(operator, ((8, 6, 6),))  # not shared
        nodes.append(Node("block", signature, ("input",)))
    first, second = (Graph((GraphBuilder((8, 6, 6)).input, node), ("block",)) for node in nodes)
    assert first.to_json() == second.to_json()
    assert Graph.from_json(first.to_json()).cost == second.cost


# ---- the builder ------------------------------------------------------------------------------------------


def test_nodes_are_named_after_their_operator() -> None:
    g = GraphBuilder((8, 4, 4))
    names = [g.add("identity", g.input).name, g.add("identity", g.input, name="identity2").name]
    names += [g.add("identity", g.input).name, g.add("identity", g.input).name]
    assert names == ["identity0", "identity2", "identity1", "identity3"]


def test_names_that_are_taken_are_refused() -> None:
    g = GraphBuilder((8, 4, 4), (3,))
    assert [n.name for n in g.inputs] == ["input0", "input1"]
    g.add("identity", g.input, name="a")
    with pytest.raises(GraphError, match="two nodes are named 'a'"):
        g.add("zero", g.input, name="a")


def test_graphs_must_be_in_order_and_whole() -> None:
    g = GraphBuilder((8, 4, 4))
    node = g.add("identity", g.input, name="a")
    with pytest.raises(GraphError, match="'a' reads 'input', which no earlier node makes"):
        Graph((node, g.input), ("a",))
    with pytest.raises(GraphError, match="output 'b' is not a node"):
        Graph((g.input, node), ("b",))
    with pytest.raises(GraphError, match="two nodes are named 'input'"):
        Graph((g.input, g.input), ("input",))
    with pytest.raises(GraphError, match="no node 'b'"):
        Graph((g.input, node), ("a",))["b"]


def test_stored_shapes_are_compared() -> None:
    g = GraphBuilder((8, 4, 4))
    text = g.build(g.add("conv2d", g.input, name="conv", out_channels=5)).to_json()
    with pytest.raises(GraphError, match=r"'conv' is stored with shape \[6, 4, 4\] but has \[5, 4, 4\]"):
        Graph.from_json(text.replace("[5,4,4]", "[6,4,4]"))


# ---- inlining and simplifying, by hand --------------------------------------------------------------------


def test_names_of_inlined_nodes_are_paths() -> None:
    g = GraphBuilder((8, 4, 4))
    graph = g.build(g.add("inverted_residual", g.input, name="block", out_channels=8, expansion=2))
    assert [n.name for n in graph.inline()] == [
        "input",
        *(f"block.expand.{n}" for n in ("conv", "bn", "act")),
        *(f"block.depthwise.{n}" for n in ("conv", "bn", "act")),
        *(f"block.project.{n}" for n in ("conv", "bn")),
        "block.residual",
    ]
    assert graph.inline().outputs == ("block.residual",)


def test_repeated_functions_run_once_and_weights_do_not_merge() -> None:
    g = GraphBuilder((8, 4, 4))
    once = g.add("activation", g.input, name="relu", kind="relu")
    again = g.add("activation", g.add("identity", g.input), name="same", kind="relu")
    other = g.add("activation", g.input, name="silu", kind="silu")
    convs = [g.add("conv2d", x, name=f"conv{i}", out_channels=8) for i, x in enumerate((once, again))]
    chances = [g.add("dropout", x, name=f"dropout{i}") for i, x in enumerate((once, again))]
    simple = g.build(g.add("add", *convs, *chances, other, name="sum")).simplify()
    assert [n.name for n in simple] == ["input", "relu", "silu", "conv0", "conv1", "dropout0", "dropout1", "sum"]
    assert simple["conv1"].inputs == ("relu",)


def test_an_output_may_be_an_input_or_come_twice() -> None:
    g = GraphBuilder((8, 4, 4))
    x = g.add("identity", g.add("identity", g.input))
    simple = g.build(x, g.input, x).simplify()
    assert simple.outputs == ("input",) * 3
    image = torch.ones(1, 8, 4, 4)
    from search_spaces import Network

    assert all(result is image for result in Network(simple)(image))


def test_what_is_not_counted_is_named() -> None:
    @register_operator("test_uncounted")
    class Uncounted(Operator):
        def shape(self, *inputs: Shape) -> Shape:
            return inputs[0]

        def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
            return Cost(counted=False)

        def expression(self, *names: str) -> str:
            return f"{names[0]}.sort(-1).values"

    @register_operator("test_wrapped")
    class Wrapped(Operator):
        def body(self, *inputs: Shape) -> Graph:
            g = GraphBuilder(*inputs)
            return g.build(g.add("test_uncounted", g.add("activation", g.input), name="inner"))

    try:
        g = GraphBuilder((8, 4, 4))
        graph = g.build(g.add("test_wrapped", g.input, name="outer"))
        assert not graph.cost.counted
        assert [n.name for n in graph.uncounted] == ["outer.inner"]
        assert graph[graph.outputs[0]].shape == (8, 4, 4)
    finally:
        for name in ("test_uncounted", "test_wrapped"):
            operators._entries.pop(name)


def test_an_operator_without_shape_or_body_is_refused() -> None:
    @register_operator("test_empty")
    class Empty(Operator):
        pass

    try:
        with pytest.raises(GraphError, match="neither shape nor body"):
            Signature.of(make_operator("test_empty", {}), ((1,),))
    finally:
        operators._entries.pop("test_empty")


def test_nodes_tell_their_operator() -> None:
    node = Node("a", Signature.named("mean", {"axes": [-1]}, ((3, 4),)), ("b",))
    assert (node.operator, node.shape, node.attributes) == ("mean", (3,), {"axes": (-1,), "keepdim": False})
