"""The executor against a naive interpreter of the inlined graph, and networks as torch modules."""

from __future__ import annotations

import copy
import gc
import io
import weakref

import pytest
import torch
from hypothesis import given
from torch import Tensor

from nas_engine.testing.measure import example_inputs, outputs, shake_statistics
from nas_engine.testing.strategies import graphs
from search_spaces import Graph, GraphBuilder, GraphError, Network, Node, make_space
from search_spaces.network import function, plan


def interpret(graph: Graph, network: Network, tensors: list[Tensor]) -> list[Tensor]:
    """Every node that an output needs, one by one in order, nothing shared and nothing freed."""
    values = dict(zip((n.name for n in graph.inputs), tensors, strict=True))
    for node in graph.inline().live():
        operator = node.signature.operator
        names = [f"x{i}" for i in range(len(node.inputs))]
        if node.operator == "input":
            continue
        text = operator.expression(*names)
        call = network.get_submodule(node.name) if text is None else function(text, len(names))
        values[node.name] = call(*[values[i] for i in node.inputs])
    return [values[name] for name in graph.inline().outputs]


@given(graphs())
def test_plans_give_what_a_naive_interpreter_gives(graph: Graph) -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = Network(graph).eval()
    shake_statistics(network, generator)
    tensors = example_inputs(graph, 2, generator)
    with torch.no_grad():
        results, expected = outputs(network, tensors), interpret(graph, network, tensors)
    assert len(results) == len(expected) == len(graph.outputs)
    for result, other in zip(results, expected, strict=True):
        assert torch.equal(result, other)


@given(graphs())
def test_values_are_freed_after_their_last_use(graph: Graph) -> None:
    """Each register is freed once at most, at the last step that reads it; outputs never."""
    steps = plan(graph, lambda node: lambda *x: None)
    freed = [register for step in steps.steps for register in step.free]
    assert len(freed) == len(set(freed))
    assert not set(freed) & set(steps.outputs)
    for i, step in enumerate(steps.steps):
        later = {register for s in steps.steps[i + 1 :] for register in s.inputs}
        assert not set(step.free) & later
        assert set(step.inputs) - later - set(steps.outputs) <= set(step.free)


@given(graphs())
def test_modules_bear_the_names_of_nodes(graph: Graph) -> None:
    """Every tensor of the network lies under the name of a live node, and every such node has its module."""
    network = Network(graph)
    live = graph.inline().live()
    names = {n.name for n in live}
    assert {key.rpartition(".")[0] for key in network.state_dict()} <= names
    for node in live:
        if node.operator in ("conv2d", "batch_norm"):
            assert network.get_submodule(node.name) is not None


@pytest.fixture
def graph() -> Graph:
    space = make_space("mobile", {"input_shape": (3, 16, 16), "depths": (1,)})
    return space.graph(space.architecture())


def test_activations_are_dropped_while_running() -> None:
    """A long chain holds two values at a time, not all of them."""
    g = GraphBuilder((1, 8, 8))
    x = g.input
    for kind in ("relu", "silu", "tanh", "sigmoid", "gelu"):
        x = g.add("activation", x, kind=kind)
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def call(node: Node):  # type: ignore[no-untyped-def]
        def run(value: Tensor) -> Tensor:
            nonlocal most
            result = value + 1
            alive.append(weakref.ref(result))
            gc.collect()
            most = max(most, sum(r() is not None for r in alive))
            return result

        return run

    from search_spaces.network import execute

    with torch.no_grad():
        execute(plan(g.build(x), call), torch.zeros(1, 1, 8, 8))
    assert len(alive) == 5
    assert most == 2


def test_networks_are_saved_copied_and_pickled(graph: Graph) -> None:
    network = Network(graph).eval()
    (image,) = example_inputs(graph, 2, torch.Generator().manual_seed(0))
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    other = Network(graph).eval()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        expected = network(image)
        for again in (copy.deepcopy(network), torch.load(file, weights_only=False), other):
            assert torch.equal(again(image), expected)


def test_networks_are_exported_by_torch(graph: Graph) -> None:
    """torch.export takes a network whole, with a batch of any size."""
    network = Network(graph).eval()
    (image,) = example_inputs(graph, 3, torch.Generator().manual_seed(0))
    program = torch.export.export(network, (image,), dynamic_shapes=(({0: torch.export.Dim("batch")},),))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(image[:2]), network(image[:2]))


def test_the_number_of_inputs_is_checked(graph: Graph) -> None:
    with pytest.raises(GraphError, match="1 inputs, 2 tensors came"):
        Network(graph)(torch.zeros(1, 3, 16, 16), torch.zeros(1))


def test_dead_nodes_are_not_built() -> None:
    g = GraphBuilder((3, 4, 4))
    g.add("conv2d", g.input, name="dead", out_channels=8)
    network = Network(g.build(g.add("conv2d", g.input, name="live.conv", out_channels=2)))
    assert list(network.state_dict()) == ["live.conv.weight"]


def test_second_names_and_unread_tensors_are_in_the_state_dict() -> None:
    """Tied weights and leftovers of a traced module: the state dict has them, the plan does not."""
    g = GraphBuilder((6,))
    x = g.add("linear", g.input, name="first", out_features=6)
    g.add("alias", name="tied", of="first")
    g.add("unused", name="left", size=(3, 2))
    g.add("unused", name="count", size=(1,), dtype="int64", learned=False)
    network = Network(g.build(x))
    assert set(network.state_dict()) == {"first.weight", "first.bias", "tied.weight", "tied.bias", "left", "count"}
    assert network.get_submodule("tied") is network.get_submodule("first")
    assert sum(p.numel() for p in network.parameters()) == 42 + 6
    assert len(network._plan.steps) == 1
