"""Depth: stages are found, and become those of deeper networks of the same family."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from search_spaces import Graph, GraphBuilder, Node
from search_spaces.coupling import couple, cut
from search_spaces.models import models
from search_spaces.scaling import Rounding, Scaling, Stage, grow, stages

Traced = Callable[..., Graph]
Sizes = Callable[[Graph], tuple[int, int]]


def told(graph: Graph) -> list[tuple[str, int, bool]]:
    return [(stage.name, stage.depth, stage.changing) for stage in stages(graph)]


def names(graph: Graph) -> set[str]:
    return {node.name for node in graph.nodes}


def test_cifar_networks_become_each_other(traced: Traced, sizes: Sizes) -> None:
    shallow, middle, deep = (traced(models[f"resnet{n}"], 32) for n in (20, 32, 56))
    assert told(shallow) == [("layer1.0", 3, False), ("layer2.1", 3, True), ("layer3.1", 3, True)]
    assert sizes(grow(shallow, Scaling(depth=5 / 3))) == sizes(middle)
    assert sizes(grow(shallow, Scaling(depth=3))) == sizes(deep)
    assert sizes(grow(deep, Scaling(depth=1 / 3))) == sizes(shallow)
    assert sizes(grow(middle, Scaling(depth=0.6))) == sizes(shallow)


def test_bottlenecks_and_tokens(timm_graph: Callable[..., Graph], traced: Traced, sizes: Sizes) -> None:
    resnet = pytest.importorskip("timm").models.resnet

    def bottlenecks(*layers: int) -> Graph:
        return traced(lambda: resnet.ResNet(resnet.Bottleneck, layers, num_classes=10))

    assert [stage.depth for stage in stages(bottlenecks(2, 3, 2, 2))] == [2, 3, 2, 2]
    assert sizes(grow(bottlenecks(2, 3, 2, 2), Scaling(depth=2))) == sizes(bottlenecks(4, 6, 4, 4))
    vit = {"name": "vit_tiny_patch16_224", "img_size": 64}
    grown = grow(timm_graph(**vit, depth=3), Scaling(depth=2))
    assert sizes(grown) == sizes(timm_graph(**vit, depth=6))
    assert told(grown) == [("blocks.0", 6, False)]  # attention and perceptron together are a layer


def test_a_deep_stem_is_no_block(timm_graph: Callable[..., Graph]) -> None:
    assert told(timm_graph("resnet18d"))[:2] == [("layer1.0", 2, False), ("layer2.1", 2, True)]


def test_names_are_slots(traced: Traced) -> None:
    graph = traced(models["resnet20"], 32)
    grown = [grow(graph, Scaling(depth=d)) for d in (1, 4 / 3, 2, 3)]
    for less, more in pairwise(grown):
        assert names(less) < names(more)
        for node in less.nodes:
            assert more[node.name].signature == node.signature
    assert "layer3.0.activation_1_more1.conv1" in names(grown[1])
    assert grow(grown[1], Scaling(depth=1.5)) == grown[2]


def test_names_do_not_tell_which_layers_were_there(traced: Traced) -> None:
    """A network that blocks were cut from has its added ones in the slots of the whole one's."""
    coupling = couple(traced(models["resnet20"], 32))
    more = {"layer1.0.conv1", "layer1.2.conv1", "layer2.2.conv1"}
    less = cut(coupling, coupling.all(), more)
    grown, whole = (grow(graph, Scaling(depth=2)) for graph in (less, coupling.graph))
    added = {node.name for node in grown.nodes if "_more" in node.name and node.signature.cost.params}
    assert len(added) == (1 + 2 + 3) * 4
    assert added < names(whole)


def test_names_that_are_taken_are_left() -> None:
    g = GraphBuilder((3, 8, 8))
    x = g.add("conv2d", g.input, name="stem", out_channels=8)
    for block, total in (("stem_more1.a", "sum"), ("other.a", "last")):
        x = g.add("add", x, g.add("conv2d", x, name=block, out_channels=8), name=total)
    grown = grow(g.build(x), Scaling(depth=2))
    added = {"stem_more2.a", "stem_more2.last", "stem_more3.a", "stem_more3.last"}
    assert names(grown) - {"input", "stem", "stem_more1.a", "sum", "other.a", "last"} == added


def kinds(graph: Graph) -> list[str]:
    return [node.attributes["kind"] for node in graph.nodes if node.operator == "activation"]


def stack(pattern: str, blocks: int, behind: str | None = None) -> Graph:
    """Residual blocks with the letters of a pattern as activations in the branch, r or s, in turn."""
    letters = {"r": "relu", "s": "sigmoid"}
    g = GraphBuilder((3, 8, 8))

    def block(x: Node, i: int) -> Node:
        y = g.add("conv2d", x, name=f"blocks.{i}.conv", out_channels=8)
        for j in range(1 + (pattern[i % len(pattern)] == "s")):
            y = g.add("activation", y, name=f"blocks.{i}.act{j}", kind=letters[pattern[i % len(pattern)]])
        x = g.add("add", x, y, name=f"blocks.{i}.sum")
        return x if behind is None else g.add("activation", x, name=f"blocks.{i}.{behind}", kind=behind)

    x = g.add("conv2d", g.input, name="stem", out_channels=8)
    for i in range(blocks):
        x = block(x, i)
    return g.build(g.add("conv2d", x, name="head", out_channels=2))


def test_patterns_go_on() -> None:
    assert kinds(grow(stack("rs", 4), Scaling(depth=1.5))) == ["relu", "sigmoid", "sigmoid"] * 3
    assert kinds(grow(stack("rrs", 3), Scaling(depth=4 / 3))) == ["relu", "relu", *["sigmoid"] * 4]
    assert [stage.period for stage in stages(stack("rs", 4))] == [2]


@pytest.mark.parametrize("blocks", [1, 2])
def test_what_follows_a_sum_belongs_to_its_block(blocks: int) -> None:
    grown = grow(stack("r", blocks, "tanh"), Scaling(depth=3))
    assert kinds(grown) == ["relu", "tanh"] * (3 * blocks)
    (reader,) = (node for node in grown.nodes if node.name == "head")
    assert grown[reader.inputs[0]].attributes == {"kind": "tanh", "slope": None}
    assert kinds(grow(grown, Scaling(depth=1 / (3 * blocks)))) == ["relu", "tanh"]


def test_one_layer_is_left_where_no_other_block_is(traced: Traced) -> None:
    assert [stage.depth for stage in stages(grow(stack("r", 4), Scaling(depth=0.01)))] == [1]
    least = grow(traced(models["resnet20"], 32), Scaling(depth=0.01))
    assert [n.name for n in least.nodes if n.name.endswith("conv2")] == [f"layer{i}.0.conv2" for i in (1, 2, 3)]


def test_rounding_of_repeats() -> None:
    graph = stack("r", 3)
    for repeats, depth in (("ceil", 4), ("round", 3)):
        (stage,) = stages(grow(graph, Scaling(depth=1.1), Rounding(repeats=repeats)))
        assert stage.depth == depth


def test_networks_without_residual_blocks_keep_their_depth(traced: Traced) -> None:
    graph = traced(models["vgg16_bn"], 32)
    assert stages(graph) == ()
    assert grow(graph, Scaling(depth=3)) == graph.simplify()


def test_a_norm_of_responses_is_no_block_of_its_own() -> None:
    g = GraphBuilder((3, 8, 8))
    x = g.add("conv2d", g.input, name="stem", out_channels=8)
    for i in range(2):
        y = g.add("conv2d", x, name=f"b.{i}.one", out_channels=8)
        y = g.add("add", y, g.add("batch_norm", y, name=f"b.{i}.norm"), name=f"b.{i}.inner")
        x = g.add("add", x, g.add("conv2d", y, name=f"b.{i}.two", out_channels=8), name=f"b.{i}.sum")
    (stage,) = stages(g.build(x))
    assert isinstance(stage, Stage)
    assert [layer.name for layer in stage.layers] == ["b.0", "b.1"]
