"""Resolution: other images, the same network."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import Graph, GraphBuilder
from search_spaces.errors import SpaceError
from search_spaces.models import models
from search_spaces.scaling import Scaling, grow

Traced = Callable[..., Graph]
Sizes = Callable[[Graph], tuple[int, int]]


class Views(nn.Module):
    """Everything that tells a size: crops, views, windows, resizing, pooling of the whole map, an expanded vector."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(32, 8, 1)
        self.gate, self.last = nn.Conv2d(8, 8, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.a(x), 2)
        n, c, h, w = x.shape
        y = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)
        y = F.interpolate(self.b(y), size=(h, w))
        y = torch.cat([y[:, :, 1:], y[:, :, :1]], 2)
        y = y.flatten(2).transpose(1, 2).softmax(1).transpose(1, 2).reshape(n, c, h, w)
        gate = self.gate(F.avg_pool2d(y, h)).expand(-1, -1, h, w)
        x = torch.cat([x * gate, y], 1)[:, :, ::2, ::2]
        return self.last(F.avg_pool2d(x, x.shape[2]).flatten(1))


@pytest.mark.parametrize("resolution", [0.5, 1.5])
def test_a_resized_graph_is_the_one_of_other_images(resolution: float, traced: Traced) -> None:
    grown = grow(traced(Views, 32), Scaling(resolution=resolution))
    other = traced(Views, round(32 * resolution)).simplify()
    assert [(n.name, n.shape, n.attributes) for n in grown.nodes] == [
        (n.name, n.shape, n.attributes) for n in other.nodes
    ]


@pytest.mark.parametrize("name", ["resnet20", "vgg16_bn", "unet"])
def test_classics_at_another_size(name: str, traced: Traced, sizes: Sizes) -> None:
    assert sizes(grow(traced(models[name], 32), Scaling(resolution=1.5))) == sizes(traced(models[name], 48))


def test_flattened_maps_change_the_layer_that_reads_them(traced: Traced) -> None:
    grown = grow(traced(models["lenet5"], 28, 1), Scaling(resolution=2))
    assert grown.inputs[0].shape == (1, 56, 56)
    assert grown["flatten"].shape == (50 * 11 * 11,)
    assert grown.cost.params == 430_500 + 580 + 50 * 500 * (11 * 11 - 4 * 4)


def test_images_that_the_network_resizes_stay_as_they_are() -> None:
    g = GraphBuilder((3, 28, 28))
    x = g.add("conv2d", g.add("resize", g.input, name="size", size=20), name="conv", out_channels=4, kernel_size=3)
    grown = grow(g.build(g.add("mean", x, name="mean")), Scaling(resolution=1.2))
    assert grown.inputs[0].shape == (3, 28, 28)
    assert (grown["size"].shape, grown["conv"].shape) == ((3, 24, 24), (4, 22, 22))


def test_maps_that_are_resized_follow_the_maps_they_meet() -> None:
    g = GraphBuilder((3, 15, 15))
    x = g.add("conv2d", g.input, name="full", out_channels=4)
    y = g.add("max_pool2d", x, name="half", kernel_size=2)
    pooled = g.add("resize", g.add("mean", y, name="pooled", keepdim=True), name="spread", size=(7, 7))
    up = g.add("resize", g.add("add", y, pooled, name="context"), name="up", size=(15, 15))
    grown = grow(g.build(g.add("add", x, up, name="sum")), Scaling(resolution=1.4))
    assert (grown["spread"].shape, grown["up"].shape, grown["sum"].shape) == ((4, 10, 10), (4, 21, 21), (4, 21, 21))


def test_what_cannot_follow_is_named(timm_graph: Callable[..., Graph], traced: Traced) -> None:
    vit = timm_graph("vit_tiny_patch16_224", img_size=64, depth=1)
    with pytest.raises(SpaceError, match=r"node 'add' \(add\) cannot follow images of another size: .* \(26, 192\)"):
        grow(vit, Scaling(resolution=1.25))
    with pytest.raises(SpaceError, match="cannot follow images of another size: .*do not broadcast|concat"):
        grow(traced(models["unet"], 32), Scaling(resolution=1.1))  # 35 pixels cannot be halved thrice
    g = GraphBuilder((16,))
    with pytest.raises(SpaceError, match=r"inputs of \(16,\) has no resolution"):
        grow(g.build(g.add("linear", g.input, name="linear", out_features=2)), Scaling(resolution=2))
    g = GraphBuilder((3, 8, 8))
    with pytest.raises(SpaceError, match="picks entries by their numbers"):
        grow(g.build(g.add("pick", g.input, name="rows", axis=1, entries=(1, 0))), Scaling(resolution=2))
    g = GraphBuilder((3, 8, 8))
    with pytest.raises(SpaceError, match="it takes entries 0 to 4 of 8, up to the middle"):
        grow(g.build(g.add("slice", g.input, name="rows", axis=1, start=0, stop=4)), Scaling(resolution=2))
    g = GraphBuilder((3, 8, 8))
    wide = g.build(g.add("conv2d", g.input, name="stem", out_channels=2, kernel_size=7))
    with pytest.raises(SpaceError, match="node 'stem' .* does not fit"):
        grow(wide, Scaling(resolution=0.5))
