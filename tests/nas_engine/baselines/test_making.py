"""Baselines as graphs: the networks of libraries unchanged, for images and classes that are a run's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from nas_engine.baselines import Made, make_baseline
from nas_engine.config import Baseline
from search_spaces import Network
from search_spaces.errors import ConfigError, EngineError
from search_spaces.families import skeleton
from search_spaces.models import load_model
from search_spaces.scaling import Scaling

GREY = (1, 28, 28)
CLASSES = 7


def made(model: str, shape: tuple[int, ...] = GREY, more: Scaling | None = None, **settings: object) -> Made:
    return make_baseline(Baseline(model=model, **settings), shape, CLASSES, more=more, seed=5)


def begun(found: Made) -> Network:
    """The network with the weights it begins with."""
    network = Network(found.graph)
    assert found.initial is not None
    network.load_state_dict(found.initial)
    return network.eval()


def logits_of(name: str, channels: int, images: torch.Tensor) -> torch.Tensor:
    """What the library's own module gives, begun with the same seed."""
    torch.manual_seed(5)
    module = load_model(name, input_shape=(channels, *images.shape[2:]), classes=CLASSES)
    with torch.inference_mode():
        return module(images)


def test_a_timm_network_is_timms() -> None:
    images = torch.randn(2, *GREY)
    found = made("timm:resnet10t")
    with torch.inference_mode():
        assert torch.allclose(begun(found)(images), logits_of("timm:resnet10t", 1, images), atol=1e-5)
    assert found.graph.inputs[0].shape == GREY
    assert found.graph[found.graph.outputs[0]].shape == (CLASSES,)


def test_torchvisions_stems_see_grey_images_in_three_colours() -> None:
    images = torch.randn(2, *GREY)
    found = made("torchvision:shufflenet_v2_x0_5")
    with torch.inference_mode():
        wanted = logits_of("torchvision:shufflenet_v2_x0_5", 3, images.expand(-1, 3, -1, -1))
        assert torch.allclose(begun(found)(images), wanted, atol=1e-5)
    assert found.graph["colours"].shape == (3, 28, 28)


def test_images_are_resized_by_the_network_itself() -> None:
    images = torch.randn(2, *GREY)
    found = made("timm:resnet10t", resolution=40)
    larger = F.interpolate(images, size=(40, 40), mode="bilinear")
    with torch.inference_mode():
        assert torch.allclose(begun(found)(images), logits_of("timm:resnet10t", 1, larger), atol=1e-5)
    assert found.graph["resize"].shape == (1, 40, 40)
    assert found.graph.cost.macs > made("timm:resnet10t").graph.cost.macs


def test_members_of_families_take_a_stride_and_multipliers() -> None:
    found = made("mobilenetv2_100", stride=4, width=0.5)
    table = skeleton("mobilenetv2_100").at_stride(4).scaled(Scaling(width=0.5))
    assert found.graph == table.graph(GREY, CLASSES)
    assert found.initial is None
    with torch.inference_mode():
        assert Network(found.graph).eval()(torch.randn(2, *GREY)).shape == (2, CLASSES)


def test_scaling_goes_on_top_of_what_is_asked() -> None:
    more = made("mobilenetv2_100", more=Scaling(width=0.5), width=0.5)
    assert more.graph == made("mobilenetv2_100", width=0.25).graph
    finer = made("mobilenetv2_100", more=Scaling(resolution=1.5))
    assert finer.graph["resize"].shape == (1, 42, 42)


def test_other_models_are_scaled_too_and_begin_afresh() -> None:
    whole, thin = made("resnet20"), made("resnet20", width=0.5)
    assert whole.initial is not None
    assert thin.initial is None
    assert 0.2 < thin.graph.cost.params / whole.graph.cost.params < 0.35


def test_weights_of_files_are_left_behind(tmp_path: Path) -> None:
    file = tmp_path / "nets.py"
    file.write_text(
        "from torch import nn\n"
        "def small(input_shape, classes):\n"
        "    return nn.Sequential(nn.Conv2d(input_shape[0], 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),"
        " nn.Linear(4, classes))\n"
        "def other():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, 3))\n"
    )
    assert made(f"{file}:small").initial is None
    with pytest.raises(EngineError, match=r"other' cannot be made .* outputs of shape \[\(3,\)\], but the data has 7"):
        made(f"{file}:other")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"model": "timm:resnet10"}, "unknown timm model 'resnet10': did you mean 'resnet10"),
        ({"model": "mobilnetv2_100"}, "unknown model 'mobilnetv2_100'"),
        ({"model": "timm:resnet10t", "stride": 4}, "stride can be lowered in members of families only"),
        ({"model": "torchvision:alexnet"}, "'torchvision:alexnet' cannot be made for images of (1, 28, 28)"),
    ],
)
def test_what_cannot_be_made_is_told_in_one_line(asked: dict, words: str) -> None:
    with pytest.raises(ConfigError) as told:
        make_baseline(Baseline(**asked), GREY, CLASSES)
    assert words in str(told.value)
    assert "\n" not in str(told.value)
