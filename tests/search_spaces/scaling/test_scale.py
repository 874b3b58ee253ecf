"""One function for whatever a network is given as."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from search_spaces import Graph, Network, trace
from search_spaces.errors import ConfigError, SpaceError
from search_spaces.families import skeleton
from search_spaces.mobile import Mobile
from search_spaces.models import load_model
from search_spaces.scaling import Compound, Rounding, Scaling, grow, scale

IMAGES = (3, 64, 64)


def sizes(graph: Graph) -> tuple[int, int]:
    return graph.cost.params, graph.cost.macs


def test_published_names_and_tables_are_scaled_as_tables() -> None:
    one = Compound().scaling(1)
    table = skeleton("efficientnet_b0")
    for base in ("efficientnet_b0", table):
        grown = scale(base, one.depth, one.width, one.resolution)
        assert grown == table.scaled(one).graph()
        assert grown.inputs[0].shape == (3, 258, 258)
    small = scale(table, resolution=1.5, input_shape=(1, 32, 32), classes=7)
    assert (small.inputs[0].shape, small[small.outputs[0]].shape) == ((1, 48, 48), (7,))
    fine = scale(table, width=1.1, rounding=Rounding(divisor=1))
    assert fine == table.scaled(Scaling(width=1.1), Rounding(divisor=1)).graph()
    with pytest.raises(SpaceError, match="square images; got 32x48"):
        scale(table, input_shape=(3, 32, 48))


def test_models_of_libraries_are_scaled_by_their_builders() -> None:
    pytest.importorskip("timm")
    grown = scale("timm:efficientnet_b0", 1.2, 1.1, 1.25, input_shape=IMAGES, classes=10)
    assert sizes(grown) == sizes(skeleton("efficientnet_b2").graph((3, 80, 80), classes=10))


def test_what_a_builder_does_not_take_is_grown() -> None:
    pytest.importorskip("torchvision")
    base = scale("torchvision:mobilenet_v2", width=0.5, input_shape=IMAGES, classes=10)
    deep = scale("torchvision:mobilenet_v2", width=0.5, depth=2, input_shape=IMAGES, classes=10)
    assert deep == grow(base, Scaling(depth=2))
    assert deep[deep.outputs[0]].shape == (10,)
    assert base.cost.params == 700_490  # of the builder, which keeps the last 1280 channels


def test_other_models_are_grown_at_the_other_size() -> None:
    base = trace(load_model("resnet20"), torch.zeros(1, 3, 32, 32))
    assert scale("resnet20", 2, 1.5, 1.25) == grow(base, Scaling(2, 1.5, 1.25))
    grey = scale("lenet5", width=2, resolution=2, input_shape=(1, 14, 14), classes=3)
    assert (grey.inputs[0].shape, grey["conv1"].shape[0], grey["fc2"].shape) == ((1, 28, 28), 40, (3,))


def test_a_position_embedding_is_built_for_the_other_size() -> None:
    pytest.importorskip("timm")
    grown = scale("timm:vit_tiny_patch16_224", resolution=1.5, depth=1 / 12, input_shape=IMAGES, classes=10)
    assert grown["pos_embed"].shape == (37, 192)
    assert grown.inputs[0].shape == (3, 96, 96)


def test_drawing_weights_for_a_trace_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    scale("resnet20", width=2)
    assert torch.equal(before, torch.get_rng_state())


def test_bundles_are_grown(tmp_path: Path) -> None:
    network = Network(trace(load_model("resnet20"), torch.zeros(1, 3, 32, 32)))
    described = {"graph": json.loads(network.graph.to_json())}
    (tmp_path / "architecture.json").write_text(json.dumps(described))
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    assert scale(str(tmp_path), width=1.5, resolution=0.5) == grow(network.graph, Scaling(width=1.5, resolution=0.5))
    with pytest.raises(SpaceError, match=r"for images of \(3, 32, 32\), not \(3, 64, 64\)"):
        scale(str(tmp_path), input_shape=(3, 64, 64))


def test_graphs_and_members() -> None:
    space = Mobile(input_shape=(3, 16, 16), classes=5)
    member = space.from_indices([len(choice.options) - 1 for choice in space.choices])
    assert scale((space, member), width=2) == space.scaled(member, Scaling(width=2))
    graph = space.graph(member)
    assert scale(graph, width=2) == grow(graph, Scaling(width=2))
    assert scale(graph, input_shape=(3, 16, 16), classes=5) == graph.simplify()
    for wrong, words in (({"input_shape": (3, 8, 8)}, "is for images of"), ({"classes": 2}, "tells 5 classes, not 2")):
        with pytest.raises(SpaceError, match=words):
            scale(graph, **wrong)
        with pytest.raises(SpaceError, match="has the images and classes of its space"):
            scale((space, member), **wrong)
    with pytest.raises(SpaceError, match="space 'mobile' rounds by its own rule"):
        scale((space, member), rounding=Rounding())


def test_what_is_no_network_is_told() -> None:
    with pytest.raises(ConfigError, match="unknown model 'resnet21'"):
        scale("resnet21", width=2)
    with pytest.raises(SpaceError, match="depth is a multiplier above 0"):
        scale("resnet20", depth=0)


def test_a_scaled_network_runs() -> None:
    graph = scale("resnet20", 0.5, 0.5, 0.5)
    assert Network(graph)(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
