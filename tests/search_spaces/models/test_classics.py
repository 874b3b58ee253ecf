"""The classics: sizes that papers state, and trained weights that do what their source says."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces import trace
from search_spaces.errors import ConfigError
from search_spaces.models import load_model, models

SIZES = {  # parameters and MACs of convolutions and linear layers
    "lenet5": ((1, 28, 28), 431_080, 2_293_000),
    "resnet20": ((3, 32, 32), 269_722, 40_551_040),
    "resnet32": ((3, 32, 32), 464_154, 68_862_592),
    "resnet44": ((3, 32, 32), 658_586, 97_174_144),
    "resnet56": ((3, 32, 32), 853_018, 125_485_696),
    "resnet110": ((3, 32, 32), 1_727_962, 252_887_680),
    "vgg16_bn": ((3, 32, 32), 14_728_266, 313_201_664),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str) -> None:
    shape, params, macs = SIZES[name]
    cost = trace(load_model(name, input_shape=shape), torch.zeros(2, *shape)).cost
    assert (cost.params, cost.macs) == (params, macs)


def test_figures_of_papers_that_count_more() -> None:
    """ResNet-56 with its pooling (64 additions), VGG-16 with the biases of its convolutions."""
    assert round(SIZES["resnet56"][2] / 1e6, 2) == 125.49
    assert round(SIZES["resnet110"][2] / 1e6, 2) == 252.89
    vgg, sides = models["vgg16_bn"](), {64: 32, 128: 16, 256: 8}
    convolutions = [m for m in vgg.modules() if isinstance(m, nn.Conv2d)]
    outputs = [sides.get(m.out_channels, 4 if i < 10 else 2) ** 2 * m.out_channels for i, m in enumerate(convolutions)]
    assert SIZES["vgg16_bn"][2] + sum(outputs) == 313_478_144


def test_the_padded_shortcut_has_no_weights_and_the_other_has() -> None:
    plain, projected = models["resnet20"](), models["resnet20"](option="B")
    assert not [name for name, _ in plain.named_parameters() if "shortcut" in name]
    assert len([name for name, _ in projected.named_parameters() if "shortcut" in name]) == 6
    with pytest.raises(ConfigError, match="A .padding. or B"):
        models["resnet20"](option="C")


@pytest.mark.parametrize("name", ["unet", "msd"])
def test_pixels_are_labelled(name: str) -> None:
    module = load_model(name, input_shape=(1, 32, 48), classes=5)
    assert module(torch.zeros(2, 1, 32, 48)).shape == (2, 5, 32, 48)


def test_all_take_the_shape_and_the_classes_of_the_data() -> None:
    for name, make in models.items():
        module = make(input_shape=(1, 32, 32), classes=7).eval()
        assert module(torch.zeros(2, 1, 32, 32)).shape[:2] == (2, 7), name


@pytest.mark.parametrize(("depth", "right"), [(20, 180), (32, 188), (44, 177), (56, 182)])
def test_trained_weights_know_the_test_images(depth: int, right: int, shared_file: Callable[[str], Path]) -> None:
    weights = shared_file(f"resnet_cifar10_weights/resnet{depth}.safetensors")
    with np.load(shared_file("cifar10_lossless_subset/cifar10_lossless_4000_249.npz")) as data:
        labelled = data["test_in_mlperf_labels"]
        images, labels = (torch.from_numpy(data[key][labelled]) for key in ("test_x", "test_y"))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    module = load_model(f"resnet{depth}", weights=weights)
    with torch.inference_mode():
        logits = module(((images / 255 - mean) / std).permute(0, 3, 1, 2))
    assert int((logits.argmax(1) == labels).sum()) == right  # of 200
