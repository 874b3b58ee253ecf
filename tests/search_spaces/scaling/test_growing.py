"""Growth of any network: what comes out of it trains."""

from collections.abc import Callable

import pytest

from search_spaces import Graph
from search_spaces.coupling import couple, cut
from search_spaces.families import skeleton
from search_spaces.models import models
from search_spaces.scaling import Scaling, grow

Traced = Callable[..., Graph]
Trains = Callable[[Graph], None]

BOTH = Scaling(depth=1.5, width=1.3, resolution=1.25)
LESS = Scaling(depth=0.6, width=0.7, resolution=0.75)


@pytest.mark.parametrize("scaling", [BOTH, LESS], ids=["more", "less"])
@pytest.mark.parametrize(("name", "side", "channels"), [("lenet5", 28, 1), ("resnet20", 32, 3), ("unet", 32, 3)])
def test_classics_train(name: str, side: int, channels: int, scaling: Scaling, traced: Traced, trains: Trains) -> None:
    trains(grow(traced(models[name], side, channels), scaling))


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet", "test_efficientnet", "test_byobnet"])
def test_small_networks_of_timm_train(name: str, timm_graph: Callable[..., Graph], trains: Trains) -> None:
    trains(grow(timm_graph(name), BOTH))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("resnext50_32x4d", "regnety_002", "mobilenetv3_small_050", "ghostnet_050", "densenet121", "rexnet_100"),
        *("res2net50_26w_4s", "repvgg_a0", "poolformer_s12", "resnetv2_50", "efficientvit_b0"),
        "mobilenetv4_conv_small_035",
    ],
)
def test_networks_of_timm_train(name: str, timm_graph: Callable[..., Graph], trains: Trains) -> None:
    graph = timm_graph(name)
    grown = grow(graph, BOTH)
    assert grown.cost.macs > 1.3**2 * graph.cost.macs
    trains(grown)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "googlenet", "squeezenet1_1", "mnasnet0_5"])
def test_networks_of_torchvision_train(name: str, traced: Traced, trains: Trains) -> None:
    library = pytest.importorskip("torchvision").models
    more = {"init_weights": False} if name == "googlenet" else {}
    trains(grow(traced(lambda: library.get_model(name, weights=None, num_classes=10, **more)), BOTH))


def test_pruned_networks_grow_back(traced: Traced, trains: Trains) -> None:
    """What a cut left of a network can be scaled as any other, picked shortcuts included."""
    coupling = couple(traced(models["resnet20"], 32))
    keep = coupling.all()
    for group in coupling.groups:
        keep[group.units[1::3]] = False
    pruned = cut(coupling, keep, [coupling.blocks[0].name])
    assert any(node.operator == "pick" for node in pruned.nodes)
    grown = grow(pruned, Scaling(depth=1.5, width=1.5))
    assert grown.cost.macs > 2.25 * pruned.cost.macs
    trains(grown)


@pytest.mark.parametrize(
    ("name", "scaling"),
    [
        ("efficientnet_b3", Scaling(2, 1.25, 1.15)),
        ("efficientnet_b3", Scaling(1, 0.5, 0.75)),
        ("mobilenetv2_100", Scaling(1, 1.4, 1.2)),
        ("resnet50", Scaling(2, 1.25)),
        ("resnext50_32x4d", Scaling(2, 2, 1.25)),
        ("regnety_016", Scaling(2, 2)),
    ],
)
def test_grown_graphs_are_those_of_scaled_tables(
    name: str, scaling: Scaling, sizes: Callable[[Graph], tuple[int, int]]
) -> None:
    """Growth knows nothing of families, and yet it finds what their authors multiply."""
    table = skeleton(name)
    assert sizes(grow(table.graph(), scaling)) == sizes(table.scaled(scaling).graph())


def test_nothing_multiplied_is_nothing_changed(traced: Traced) -> None:
    graph = traced(models["resnet20"], 32)
    assert grow(graph, Scaling()) == graph.simplify()


def test_stochastic_depth_does_not_stand_in_the_way() -> None:
    base = skeleton("efficientnet_b0").graph((3, 64, 64), classes=10)
    assert any(node.operator == "drop_path" for node in base.simplify().nodes)
    assert grow(base, Scaling(width=2)).cost.macs > 3.5 * base.cost.macs
