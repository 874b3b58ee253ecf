"""Counted costs against inlined graphs, against cases by hand, and against torch's own allocator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from predictors.cost import make_cost_model
from predictors.cost.analytic import ActivationBytes
from search_spaces import Graph, GraphBuilder, Network, Node, Operator, Shape, Signature, make_space
from tests.predictors.cost.synthetic import READY

ANALYTIC = ("params", "macs", "adds", "shifts", "bytes_moved", "activation_bytes")


def by_hand(graph: Graph) -> int:
    """Peak of live bytes, step by step over the primitive nodes, with the set of live storages written out."""
    graph = graph.inline()
    storage: dict[str, str] = {}
    for node in graph.nodes:
        view = node.signature.operator.view and node.inputs
        storage[node.name] = storage[node.inputs[0]] if view else node.name
    last = {storage[node.name]: i for i, node in enumerate(graph.nodes)}
    for i, node in enumerate(graph.nodes):
        last.update({storage[name]: max(i, last[storage[name]]) for name in node.inputs})
    for name in (*graph.outputs, *(node.name for node in graph.inputs)):
        last[storage[name]] = len(graph.nodes)
    peak = 0
    for i in range(len(graph.nodes)):
        live = [
            node
            for j, node in enumerate(graph.nodes)
            if storage[node.name] == node.name and last[node.name] >= i and (j <= i or node.operator == "input")
        ]
        values = [n for n in live if n.operator != "alias" and n.signature.operator.parameter() is None]
        peak = max(peak, sum(4 * math.prod(n.shape) for n in values))
    return peak


@pytest.mark.parametrize("name", READY)
def test_costs_equal_those_of_the_inlined_graph(name: str) -> None:
    space = make_space(name)
    rng = np.random.default_rng(0)
    graphs = [space.graph(space.sample(rng)) for _ in range(200)]
    costs = {model: make_cost_model(model).costs(graphs) for model in ANALYTIC}
    for i, graph in enumerate(graphs):
        flat = [node.signature.cost for node in graph.inline().nodes]
        assert costs["params"][i] == sum(c.params for c in flat)
        assert costs["macs"][i] == sum(c.macs for c in flat)
        assert costs["adds"][i] == sum(c.adds for c in flat)
        assert costs["shifts"][i] == sum(c.shifts for c in flat)
        assert costs["bytes_moved"][i] == sum(c.bytes_read + c.bytes_written for c in flat)
        assert costs["activation_bytes"][i] == by_hand(graph)
        assert make_cost_model("macs").cost(graph) == costs["macs"][i]


def test_a_chain_by_hand() -> None:
    g = GraphBuilder((3, 8, 8))
    x = g.add("conv2d", g.input, out_channels=16, kernel_size=3, padding=1)
    x = g.add("activation", x)  # input, convolution and its activation live at once
    x = g.add("flatten", x)
    graph = g.build(g.add("linear", x, out_features=10))
    assert make_cost_model("activation_bytes").cost(graph) == 4 * (3 * 64 + 2 * 16 * 64)


def test_memory_access_of_a_pointwise_convolution() -> None:
    """ShuffleNet V2, section 2: `h w (c1 + c2) + c1 c2`, smallest at c1 = c2 for fixed multiply-accumulates."""

    def cost(c1: int, c2: int) -> tuple[float, float]:
        g = GraphBuilder((c1, 14, 14))
        graph = g.build(g.add("conv2d", g.input, out_channels=c2))
        assert make_cost_model("bytes_moved").cost(graph) == 4 * (14 * 14 * (c1 + c2) + c1 * c2)
        return make_cost_model("macs").cost(graph), make_cost_model("bytes_moved").cost(graph)

    pairs = [cost(64, 64), cost(32, 128), cost(16, 256), cost(8, 512)]
    assert len({macs for macs, _ in pairs}) == 1
    assert [moved for _, moved in pairs] == sorted(moved for _, moved in pairs)


def test_grouping_moves_more_at_equal_macs() -> None:
    """ShuffleNet V2, guideline 2: with fixed input and MACs, memory access grows with the number of groups."""
    moved = []
    for groups in (1, 2, 4, 8):
        g = GraphBuilder((64, 14, 14))
        moved.append(
            make_cost_model("bytes_moved").cost(
                g.build(g.add("conv2d", g.input, out_channels=32 * groups, groups=groups))
            )
        )
    assert moved == sorted(moved)


# ---- composites that a chain does not show ---------------------------------------------------------------


@dataclass(frozen=True)
class Reuse(Operator):
    """Reads its first input late, ignores the last one."""

    def body(self, *inputs: Shape) -> Graph:
        g = GraphBuilder(*inputs)
        x = g.add("activation", g.inputs[1], kind="tanh")
        y = g.add("concat", x, x)
        z = g.add("concat", y, y)
        return g.build(g.add("add", g.inputs[0], g.add("mean", z, axes=(0,), keepdim=True)))


@dataclass(frozen=True)
class Through(Operator):
    """Gives a view of its second input, and computes something nobody reads."""

    def body(self, *inputs: Shape) -> Graph:
        g = GraphBuilder(*inputs)
        g.add("concat", g.inputs[0], g.inputs[0], g.inputs[0])
        return g.build(g.add("identity", g.inputs[1]))


@dataclass(frozen=True)
class Early(Operator):
    """Makes its output first, then something large that nobody reads; with a nested composite."""

    def body(self, *inputs: Shape) -> Graph:
        g = GraphBuilder(*inputs)
        out = g.add("activation", g.input, kind="relu")
        wide = g.add("concat", g.input, out, g.input)
        g.add("inverted_residual", wide, out_channels=8)
        return g.build(out)


@dataclass(frozen=True)
class Silent(Operator):
    """Reads no input at all."""

    def body(self, *inputs: Shape) -> Graph:
        g = GraphBuilder(*inputs)
        return g.build(g.add("parameter", size=(1, *inputs[0])))


OPERATORS = (Reuse(), Through(), Early(), Silent())
ARITY = {Reuse: 3, Through: 2, Early: 1, Silent: 1}


def random_graph(rng: np.random.Generator) -> Graph:
    """Nodes on random earlier ones, all of one shape, of primitive, viewing and composite operators; odd outputs."""
    shape = (4, 6, 6)
    inputs = [Node(f"in{i}", Signature.named("input", {"size": shape}, ())) for i in range(int(rng.integers(1, 3)))]
    nodes = list(inputs)
    plain = [
        ("activation", {}, 1),
        ("identity", {}, 1),
        ("add", {}, 2),
        ("inverted_residual", {"out_channels": 4, "se_ratio": 0.25}, 1),
        ("nasbench201_cell", {"operations": ("skip_connect", "none", "none", "none", "none", "skip_connect")}, 1),
    ]
    for i in range(int(rng.integers(3, 12))):
        pick = int(rng.integers(len(plain) + len(OPERATORS)))
        if pick < len(plain):
            name, attributes, arity = plain[pick]
            shapes = (shape,) * arity
            signature = Signature.named(name, attributes, shapes)
        else:
            operator = OPERATORS[pick - len(plain)]
            arity = ARITY[type(operator)]
            signature = Signature.of(operator, (shape,) * arity)
        read = tuple(nodes[int(j)].name for j in rng.integers(len(nodes), size=arity))
        nodes.append(Node(f"n{i}", signature, read))
    outputs = tuple(nodes[int(j)].name for j in rng.integers(len(nodes), size=int(rng.integers(1, 3))))
    return Graph(tuple(nodes), outputs)


def test_peak_of_random_graphs_equals_that_of_the_inlined_graph() -> None:
    rng = np.random.default_rng(0)
    model = ActivationBytes()
    for _ in range(500):
        graph = random_graph(rng)
        assert model.cost(graph) == by_hand(graph), graph


def test_operators_of_unknown_cost_are_named() -> None:
    g = GraphBuilder((1, 2, 2))
    graph = g.build(g.add("other", g.input, kind="module", target="m", size=(1, 2, 2), params=3))
    with pytest.warns(UserWarning, match="params of operator 'other' is not known and counts as 3"):
        assert make_cost_model("params").cost(graph) == 3


def test_peak_is_what_torch_allocates() -> None:
    """Allocator events of torch's profiler, read whenever an operator has just returned: equal to the byte.

    Inside an operator some kernels hold more (unfolded images, reordered weights), which is the runtime's affair.
    The input exists before the network runs and is not among the events.
    """
    space = make_space("mobile", {"input_shape": (3, 32, 32)})
    graph = space.graph(space.architecture({"resolution": 32, "stage0.se": True}))
    network, images = Network(graph).eval(), torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        network(images)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            network(images)
    events = sorted(recorded.profiler.kineto_results.events(), key=lambda e: e.start_ns())
    memory = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    peak, end = 0, 0
    for e in events:
        if e.name().startswith("aten::") and e.start_ns() >= end:  # not called by another operator
            end = e.start_ns() + e.duration_ns()
            peak = max(peak, sum(n for t, n in memory if t <= end))
    assert peak == make_cost_model("activation_bytes").cost(graph) - 4 * 3 * 32 * 32


def test_additions_and_shifts_of_operators_that_do_not_multiply() -> None:
    """Two additions a weight and pixel in an adder layer, a shift and an addition in the other."""
    g = GraphBuilder((8, 4, 4))
    x = g.add("adder2d", g.input, out_channels=6, kernel_size=3, padding="same")
    graph = g.build(g.add("shift_conv2d", x, out_channels=5, kernel_size=1))
    adds, shifts, macs = (make_cost_model(name).cost(graph) for name in ("adds", "shifts", "macs"))
    assert adds == 2 * 6 * 72 * 16 + 5 * 6 * 16
    assert shifts == 5 * 6 * 16
    assert macs == 0
