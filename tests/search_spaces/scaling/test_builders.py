"""Builders with multipliers are those of the libraries."""

from typing import Any

import pytest
import torch
from torch import nn

from search_spaces.errors import ConfigError, SpaceError
from search_spaces.scaling import Scaling, builder, builders, built

FEW = ["timm:mobilenetv3_small_050", "timm:lcnet_035", "torchvision:mnasnet0_5", "torchvision:shufflenet_v2_x0_5"]


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def original(name: str) -> nn.Module:
    library, _, bare = name.partition(":")
    if library == "timm":
        made: Any = pytest.importorskip("timm").create_model(bare, num_classes=10)
        return made
    found: nn.Module = pytest.importorskip("torchvision").models.get_model(bare, weights=None, num_classes=10)
    return found


@pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in builders()])
def test_a_builder_without_multipliers_is_the_published_network(name: str) -> None:
    with torch.device("meta"):
        assert shapes(built(name, Scaling(), classes=10)) == shapes(original(name))


@pytest.mark.parametrize(
    ("name", "scaling", "other"),
    [
        ("timm:mobilenetv2_050", Scaling(width=2), "timm:mobilenetv2_100"),
        ("efficientnet_b0", Scaling(depth=1.4, width=1.2), "torchvision:efficientnet_b3"),
        ("mnasnet1_0", Scaling(width=0.5), "torchvision:mnasnet0_5"),
        ("timm:efficientnet_lite0", Scaling(depth=1.2, width=1.1), "timm:efficientnet_lite2"),
    ],
)
def test_multiplied_members_are_other_members(name: str, scaling: Scaling, other: str) -> None:
    with torch.device("meta"):
        assert shapes(built(name, scaling, classes=10)) == shapes(original(other))


def test_networks_without_residuals_get_deeper() -> None:
    with torch.device("meta"):
        dense = built("densenet121", Scaling(depth=1.5, width=2), classes=10)
        shuffled = built("shufflenet_v2_x1_0", Scaling(depth=2, width=1.5), classes=10)
    assert len(dense.get_submodule("features.denseblock1")) == 9  # type: ignore[arg-type]
    assert dense.get_parameter("features.conv0.weight").shape[0] == 128
    assert len(shuffled.get_submodule("stage3")) == 16  # type: ignore[arg-type]
    assert shuffled.get_parameter("fc.weight").shape == (10, 1024)


def test_what_no_builder_does_is_told() -> None:
    assert builder("timm:resnet18") is None
    assert builder("mobilenet_v2") is builders()["torchvision:mobilenet_v2"]
    with pytest.raises(ConfigError, match="no builder takes multipliers for 'mobilenet_v1': did you mean"):
        built("mobilenet_v1", Scaling(width=2))
    with pytest.raises(SpaceError, match="the builder of 'mnasnet1_0' takes width, not depth"):
        built("mnasnet1_0", Scaling(depth=2))
    with pytest.raises(SpaceError, match="takes width and depth, not resolution"):
        built("efficientnet_b0", Scaling(resolution=2))
    with pytest.raises(ConfigError, match="images of 3 channels, not 1"):
        built("mobilenet_v2", Scaling(width=2), input_shape=(1, 28, 28))
    with pytest.raises(ConfigError, match="unknown library 'keras'"):
        builder("keras:mobilenet_v2")
