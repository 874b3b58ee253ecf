"""Drawings of architectures: well-formed SVG that shows every operator once, runs merged, residuals marked."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from nas_engine.report.drawing import details, draw_graph, families, family, has_cell, has_residual, items, repeated
from search_spaces import GraphBuilder, Signature, make_space

SVG = "{http://www.w3.org/2000/svg}"


def boxes(drawn: str) -> list[ElementTree.Element]:
    return ElementTree.fromstring(drawn).findall(f"{SVG}g")


def texts(group: ElementTree.Element) -> list[str]:
    return [t.text or "" for t in group.findall(f"{SVG}text")]


@pytest.mark.parametrize("name", ["nasbench201", "mobile"])
def test_random_members_are_drawn_well_formed(name):
    space = make_space(name, {"input_shape": (3, 32, 32)})
    rng = np.random.default_rng(0)
    for _ in range(5):
        member = space.sample(rng)
        for graph in (space.graph(member), space.sketch(member)):
            drawn = draw_graph(graph)
            assert len(boxes(drawn)) == len(items(graph))
            merged = sum(item.repeats for item in items(graph))
            assert merged == len(graph.live().nodes)


def test_equal_cells_in_a_row_are_drawn_once():
    space = make_space("nasbench201", {"cells": 5})
    graph = space.graph(space.architecture())
    cell = repeated(graph)
    assert cell == "nasbench201_cell"
    shown = items(graph, cell)
    assert [i.repeats for i in shown if i.node.operator == cell] == [5, 5, 5]
    assert all(i.detail == "the cell" and not i.residual for i in shown if i.node.operator == cell)
    assert "nasbench201 cell  × 5" in {t for g in boxes(draw_graph(graph, cell=cell)) for t in texts(g)}


def test_a_branch_is_not_merged_with_its_neighbour():
    g = GraphBuilder((4, 8, 8))
    a = g.add("conv2d", g.input, name="a", out_channels=4)
    b = g.add("conv2d", a, name="b", out_channels=4)  # equal to a, but a is read twice
    graph = g.build(g.add("add", a, b, name="sum"))
    assert [i.repeats for i in items(graph)] == [1, 1, 1, 1]
    assert len(ElementTree.fromstring(draw_graph(graph)).findall(f"{SVG}path[@class='wire']")) == 4


def test_residuals_inside_blocks_are_marked():
    shapes = ((16, 8, 8),)
    block = {"out_channels": 16, "kernel_size": 3, "stride": 1}
    assert has_residual(Signature.named("inverted_residual", block, shapes))
    assert not has_residual(Signature.named("inverted_residual", {**block, "stride": 2}, shapes))
    assert has_residual(Signature.named("nasbench201_reduction", {"out_channels": 32}, shapes))
    g = GraphBuilder((16, 8, 8))
    drawn = draw_graph(g.build(g.add("inverted_residual", g.input, name="block", **block)))
    assert drawn.count('class="arc"') == 1


def test_details_are_what_tells_operators_apart():
    shapes = ((16, 8, 8),)
    attributes = {"out_channels": 24, "kernel_size": 5, "stride": 2, "expansion": 6, "se_ratio": 0.25}
    told = details(Signature.named("inverted_residual", attributes, shapes))
    assert told == "5×5 · stride 2 · expand 6 · SE 0.25 · relu"
    depthwise = {"out_channels": 16, "kernel_size": (3, 1), "groups": 16}
    assert details(Signature.named("conv2d", depthwise, shapes)) == "3×1 · depthwise"
    assert details(Signature.named("classifier", {"classes": 10, "dropout": 0.2}, shapes)) == "dropout 0.2"


def test_a_composite_is_of_the_family_that_does_its_work():
    assert family(Signature.named("inverted_residual", {"out_channels": 8}, ((8, 4, 4),))) == "convolution"
    assert family(Signature.named("classifier", {"classes": 10}, ((8, 4, 4),))) == "linear"
    assert family(Signature.named("adder2d", {"out_channels": 8}, ((8, 4, 4),))) == "convolution"
    assert family(Signature.named("resize", {"size": 6}, ((8, 4, 4),))) == "pooling"
    pools = {"operations": ("avg_pool_3x3", "none", "none", "none", "none", "skip_connect")}
    assert family(Signature.named("nasbench201_cell", pools, ((8, 4, 4),))) in ("pooling", "arithmetic")


def test_the_legend_names_what_is_drawn():
    space = make_space("nasbench201")
    graph = space.graph(space.architecture(edge03="nor_conv_3x3"))
    assert has_cell(space, ())
    assert not has_cell(make_space("mobile"), ())
    assert list(families(graph, cell=repeated(graph))) == ["convolution", "linear", "activation", "input", "cell"]


def test_text_of_data_is_escaped():
    g = GraphBuilder((4, 8, 8))
    graph = g.build(g.add("conv2d", g.input, name='<b>&"', out_channels=4))
    drawn = draw_graph(graph)
    assert "<b>" not in drawn
    (_, group) = boxes(drawn)
    assert any('<b>&"' in t for t in texts(group))


def test_names_that_do_not_fit_are_cut():
    g = GraphBuilder((4, 8, 8))
    graph = g.build(g.add("identity", g.input, name="n" * 200))
    drawn = ElementTree.fromstring(draw_graph(graph))
    assert float(drawn.get("width") or 0) < 400


def test_a_stack_is_one_box_however_deep_it_is() -> None:
    space = make_space("gnn", {"input_shape": (50, 8), "classes": 3, "edges": 120, "depths": (2, 112)})
    choices = {"connection": "reversible", "depth": 112, "conv.0": "gen", "conv.1": "gat"}
    graph = space.graph(space.architecture(choices))
    assert not has_cell(space, [graph])
    drawn = draw_graph(graph)
    assert drawn.count("<g class=") < 12
    assert "graph stack" in drawn
    (stack,) = [item for item in items(graph) if item.node.operator == "graph_stack"]
    assert "112 layers" in stack.detail
    assert stack.family == "convolution"
