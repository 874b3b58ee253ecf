"""Units: together they are what the executor runs, no more and no less."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from predictors.cost.features import kind, primitives, sizes, stratum, terms
from predictors.cost.units import itself, measurable, runs, unit_graph, units, units_of
from search_spaces import Graph, GraphBuilder, Network, Signature, make_space
from tests.predictors.cost.synthetic import READY


def executed(graph: Graph) -> Counter[Signature]:
    return Counter(itself(n.signature) for n in graph.simplify().nodes if runs(n.signature))


@pytest.mark.parametrize("name", READY)
def test_units_are_what_is_executed(name: str) -> None:
    space = make_space(name)
    rng = np.random.default_rng(1)
    for _ in range(100):
        graph = space.graph(space.sample(rng))
        total: Counter[Signature] = Counter()
        for unit, times in units_of(graph).items():
            for primitive in primitives(unit):
                total[primitive] += times
        assert {s: n for s, n in total.items() if n and runs(s)} == executed(graph)


def test_a_fused_composite_is_one_unit_and_a_cell_is_its_body() -> None:
    block = Signature.named("inverted_residual", {"out_channels": 8}, ((8, 4, 4),))
    assert units(block) == ((block, 1),)
    operations = ("nor_conv_3x3", "nor_conv_3x3", "none", "nor_conv_1x1", "none", "skip_connect")
    cell = Signature.named("nasbench201_cell", {"operations": operations}, ((8, 4, 4),))
    counted = sorted((unit.operator.name, times) for unit, times in units(cell))
    # node 1 is dead; the 3x3 convolution of node 2 and the 1x1 of node 3 share the ReLU of the input, which runs once
    assert counted == [("activation", -1), ("add", 1), ("relu_conv_bn", 1), ("relu_conv_bn", 1)]


def test_what_does_not_run_is_no_unit() -> None:
    g = GraphBuilder((4, 2, 2))
    x = g.add("identity", g.input)
    g.add("activation", x)  # nobody reads it
    assert not units_of(g.build(x))
    assert not runs(Signature.named("input", {"size": (1,)}, ()))
    assert not runs(Signature.named("parameter", {"size": (1, 4)}, ()))


def test_foreign_parts_are_not_measurable() -> None:
    other = Signature.named("other", {"kind": "module", "target": "m", "size": (2,)}, ((2,),))
    assert runs(other)
    assert not measurable(other)
    assert measurable(Signature.named("add", {}, ((2,), (2,))))


def test_a_unit_is_measured_on_inputs_of_its_own() -> None:
    graph = unit_graph(Signature.named("add", {}, ((2, 3, 3), (2, 1, 1))))
    assert [node.shape for node in graph.inputs] == [(2, 3, 3), (2, 1, 1)]
    assert graph[graph.outputs[0]].shape == (2, 3, 3)


def test_kinds_of_operators() -> None:
    def of(name: str, **attributes: object) -> str:
        return kind(Signature.named(name, attributes, ((8, 4, 4),)))

    assert of("conv2d", out_channels=8) == "conv2d/pointwise"
    assert of("conv2d", out_channels=8, kernel_size=3, padding=1) == "conv2d/dense"
    assert of("conv2d", out_channels=8, kernel_size=3, padding=1, groups=8) == "conv2d/depthwise"
    assert of("conv2d", out_channels=8, groups=2) == "conv2d/grouped"
    assert of("activation", kind="hardswish") == "activation/hardswish"
    assert of("batch_norm") == "batch_norm"


def test_features_count_every_primitive_once() -> None:
    block = Signature.named("inverted_residual", {"out_channels": 16, "kernel_size": 5, "stride": 2}, ((8, 8, 8),))
    features = terms(block)
    assert features["* calls"] == len(primitives(block)) == 8
    assert features["* megamacs"] == pytest.approx(block.cost.macs / 1e6)
    assert features["* megabytes"] == pytest.approx(block.cost.bytes_moved / 1e6)
    assert sum(v for k, v in features.items() if k.endswith(" calls")) == 16
    assert sizes(block)["kernel"] == 5
    assert sizes(block)["stride"] == 2
    assert "conv2d/depthwise:5:2" in stratum(block)


def test_what_is_called_again_is_the_unit_that_is_called_first() -> None:
    """Layers of a tied stack."""
    space = make_space("gnn", {"input_shape": (9, 4), "edges": 20, "depths": (5,), "widths": (8,), "groups": (2,)})
    counts = units_of(space.graph(space.architecture({"connection": "tied"})))
    assert {unit.operator.name: times for unit, times in counts.items()}["graph_conv"] == 10
    assert not any(unit.operator.name == "again" for unit in counts)


def test_units_that_take_whole_numbers_are_run_on_such() -> None:
    """An embedding looked up, a network of tokens unit by unit."""
    torch.manual_seed(0)
    space = make_space("recurrent", {"input_shape": (4,), "classes": 7, "hidden": 3, "nodes": 2, "word_dropout": 0.1})
    for unit in units_of(space.graph(space.architecture())):
        graph = unit_graph(unit)
        inputs = [torch.zeros(2, *n.shape, dtype=getattr(torch, n.attributes["dtype"])) for n in graph.inputs]
        assert tuple(Network(graph).eval()(*inputs).shape) in ((2, *unit.shape), (1, *unit.shape))
