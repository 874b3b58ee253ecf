"""Width: what grows is what the builders of the networks build."""

from collections.abc import Callable

import numpy as np
import pytest

from search_spaces import Graph, GraphBuilder, Network
from search_spaces.coupling import couple, cut, operate
from search_spaces.errors import SpaceError
from search_spaces.models import models
from search_spaces.scaling import Rounding, Scaling, grow, unwidened

TimmGraph = Callable[..., Graph]
Sizes = Callable[[Graph], tuple[int, int]]


@pytest.mark.parametrize("width", [0.75, 1.4])
def test_mobilenet_v2_is_that_of_its_multiplier(width: float, traced: Callable[..., Graph], sizes: Sizes) -> None:
    library = pytest.importorskip("torchvision").models
    base = traced(lambda: library.mobilenet_v2(num_classes=10))
    other = traced(lambda: library.mobilenet_v2(num_classes=10, width_mult=width))
    grown = grow(base, Scaling(width=width))
    if width >= 1:
        assert sizes(grown) == sizes(other)
    else:  # the authors keep the last convolution
        assert grown["features.17.conv.2"].shape == other["features.17.conv.2"].shape
        assert (grown["features.18.0"].shape[0], other["features.18.0"].shape[0]) == (960, 1280)


def test_efficientnet_is_that_of_its_multiplier(traced: Callable[..., Graph], sizes: Sizes) -> None:
    """Squeezes and expansions follow their blocks, as the builder has them."""
    builder = pytest.importorskip("timm").models.efficientnet._gen_efficientnet
    base, other = (
        traced(lambda w=w: builder("efficientnet_b0", channel_multiplier=w, num_classes=10)) for w in (1.0, 1.4)
    )
    assert sizes(grow(base, Scaling(width=1.4))) == sizes(other)


def test_networks_of_doubled_widths(timm_graph: TimmGraph, traced: Callable[..., Graph], sizes: Sizes) -> None:
    resnet = pytest.importorskip("timm").models.resnet

    def bottlenecks(times: int) -> Graph:
        widths = tuple(n * times for n in (64, 128, 256, 512))
        return traced(
            lambda: resnet.ResNet(
                resnet.Bottleneck,
                (2, 1, 1, 1),
                stem_type="deep",
                stem_width=32 * times,
                channels=widths,
                num_classes=10,
            )
        )

    assert sizes(grow(bottlenecks(1), Scaling(width=2))) == sizes(bottlenecks(2))
    atto = timm_graph("convnext_atto")
    assert sizes(grow(atto, Scaling(width=2))) == sizes(timm_graph("convnext_atto", dims=(80, 160, 320, 640)))


def test_transformers_get_more_heads(timm_graph: TimmGraph, sizes: Sizes) -> None:
    tiny, small = (timm_graph(f"vit_{size}_patch16_224", img_size=64, depth=2) for size in ("tiny", "small"))
    assert sizes(grow(tiny, Scaling(width=2))) == sizes(small)
    assert grow(tiny, Scaling(width=1.3))["blocks.0.attn.scaled_dot_product_attention"].shape == (4, 17, 64)


def test_groups_of_channels_keep_their_size() -> None:
    g = GraphBuilder((3, 8, 8))
    x = g.add("conv2d", g.input, name="first", out_channels=32)
    x = g.add("conv2d", x, name="depthwise", out_channels=32, groups=32, kernel_size=3, padding=1)
    x = g.add("conv2d", x, name="many", out_channels=32, groups=8)
    x = g.add("conv2d", g.add("conv2d", x, name="a", out_channels=24), name="few", out_channels=24, groups=2)
    x = g.add("conv2d", x, name="b", out_channels=32)
    x = g.add("conv2d", x, name="wide", out_channels=32, groups=2, kernel_size=3, padding=1)
    grown = grow(g.build(g.add("conv2d", x, name="last", out_channels=5)), Scaling(width=1.5))
    names = ("depthwise", "many", "few", "wide")
    shapes = {name: (grown[name].attributes["groups"], grown[name].shape[0]) for name in names}
    assert shapes == {"depthwise": (48, 48), "many": (12, 48), "few": (2, 40), "wide": (3, 48)}
    assert grown["last"].shape == (5, 8, 8)


@pytest.mark.parametrize(("width", "borders"), [(0.5, [4, 8]), (1.25, [8, 20]), (2, [16, 32])])
def test_shortcuts_pad_to_the_new_widths(width: float, borders: list[int], traced: Callable[..., Graph]) -> None:
    grown = grow(traced(models["resnet20"], 32), Scaling(width=width))
    pads = [node.attributes["padding"][-2:] for node in grown.nodes if node.operator == "pad"]
    assert pads == [(n, n) for n in borders]
    assert not any(node.operator == "pick" for node in grown.nodes)


def test_widths_that_are_no_multiples_stay_free(traced: Callable[..., Graph]) -> None:
    grown = grow(traced(models["lenet5"], 28, 1), Scaling(width=1.3))
    widths = [grown[name].shape[0] for name in ("conv1", "conv2", "fc1", "fc2")]
    assert widths == [26, 65, 650, 10]
    assert grow(grown, Scaling(width=1 / 1.3))["conv2"].shape[0] == 50


def test_rounding_is_kept(traced: Callable[..., Graph]) -> None:
    grown = grow(traced(models["vgg16_bn"], 32), Scaling(width=1.2), Rounding(divisor=32))
    assert {node.shape[0] % 32 for node in grown.nodes if node.operator == "conv2d"} == {0}


def test_what_cannot_be_wider_says_so(timm_graph: TimmGraph, traced: Callable[..., Graph]) -> None:
    with pytest.raises(SpaceError, match=r"100% of this network's arithmetic is in layers .* \(layers\.0"):
        grow(traced(models["msd"], 32), Scaling(width=2))
    graph = timm_graph("test_nfnet")  # its weights are standardised before use
    assert len(unwidened(graph)) > 10
    with pytest.raises(SpaceError, match="cannot change in number"):
        grow(graph, Scaling(width=2))
    assert unwidened(traced(models["resnet20"], 32)) == ()


def test_counts_are_cuts_and_copies(traced: Callable[..., Graph]) -> None:
    graph = traced(models["resnet20"], 32)
    coupling = couple(graph)
    ones = coupling.all().astype(np.int64)
    assert cut(coupling, ones).to_json() == cut(coupling, coupling.all()).to_json()
    twice = ones.copy()
    inner = next(group for group in coupling.groups if group.name == "layer1.0.conv1")
    twice[inner.units[:5]] = 2
    wide = cut(coupling, twice)
    assert (wide["layer1.0.conv1"].shape[0], wide["layer1.0.conv2"].shape[0]) == (21, 16)
    assert wide.cost.params - graph.cost.params == 5 * (2 * 16 * 9 + 2)
    for wrong in (-ones, ones[:3], ones.astype(float)):
        with pytest.raises(SpaceError, match="keep is a bool mask of"):
            cut(coupling, wrong)
    with pytest.raises(SpaceError, match="weights can be cut, not repeated"):
        operate(Network(graph), coupling, twice)
    gone = ones.copy()
    gone[inner.units] = 0
    with pytest.raises(SpaceError, match=r"nothing would be left of layer1\.0\.conv1"):
        cut(coupling, gone)


def test_norms_over_channels_hold_cuts_but_not_growth(timm_graph: TimmGraph) -> None:
    graph = timm_graph("test_convnext")
    strict, loose = couple(graph), couple(graph, exact=False)
    assert "stem.0" in {frozen.node for frozen in strict.frozen}
    assert "stem.0" in {group.name for group in loose.groups}


def test_picked_channels_are_picked_copy_by_copy() -> None:
    g = GraphBuilder((3, 4, 4))
    x = g.add("conv2d", g.input, name="a", out_channels=8)
    y = g.add("slice", x, name="half", axis=0, start=4, stop=8)
    z = g.add("pick", x, name="mixed", axis=0, entries=(7, 0, 3, 2, 1))
    out = g.add("conv2d", g.add("concat", y, z, name="both", axis=0), name="b", out_channels=2)
    coupling = couple(g.build(out), exact=False)
    counts = 2 * coupling.all().astype(np.int64)
    wide = cut(coupling, counts)
    assert (wide["half"].attributes["start"], wide["half"].attributes["stop"]) == (8, 16)
    assert wide["mixed"].attributes["entries"] == (14, 15, 0, 1, 6, 7, 4, 5, 2, 3)


def test_shortcuts_that_pick_have_zeros_for_copies_that_are_not_there() -> None:
    g = GraphBuilder((3, 4, 4))
    x = g.add("conv2d", g.input, name="a", out_channels=4)
    y = g.add("conv2d", x, name="b", out_channels=4)
    z = g.add("add", y, g.add("pick", x, name="shortcut", axis=0, entries=(3, -1, 0, 1)), name="sum")
    coupling = couple(g.build(g.add("conv2d", z, name="c", out_channels=2)), exact=False)
    counts = coupling.all().astype(np.int64)
    counts[next(group for group in coupling.groups if "b" in group.makers).units] = 2
    assert cut(coupling, counts)["shortcut"].attributes["entries"] == (3, -1, -1, -1, 0, -1, 1, -1)
