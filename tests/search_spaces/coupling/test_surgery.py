"""Pruned equals masked, on networks as they are in the field."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from search_spaces import Network, trace
from search_spaces.coupling import Coupling, Gated, couple, cut, loosen, operate
from search_spaces.errors import SpaceError
from search_spaces.models import models

Made = Callable[..., tuple[Network, Coupling]]
Dropped = Callable[..., np.ndarray]


def timm_model(name: str, **settings: object) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, **settings)


def torchvision_model(name: str) -> nn.Module:
    return pytest.importorskip("torchvision").models.get_model(name, weights=None)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "lenet5": (lambda: models["lenet5"](), (1, 28, 28)),
    "vgg16_bn": (lambda: models["vgg16_bn"](), (3, 32, 32)),
    "resnet20-A": (lambda: models["resnet20"](), (3, 32, 32)),
    "resnet20-B": (lambda: models["resnet20"](option="B"), (3, 32, 32)),
    "resnet56-A": (lambda: models["resnet56"](), (3, 32, 32)),
    "resnet56-B": (lambda: models["resnet56"](option="B"), (3, 32, 32)),
    "unet": (lambda: models["unet"](), (3, 32, 32)),
    "resnet50": (lambda: torchvision_model("resnet50"), (3, 64, 64)),
    "resnext50": (lambda: torchvision_model("resnext50_32x4d"), (3, 64, 64)),
    "mobilenet_v2": (lambda: torchvision_model("mobilenet_v2"), (3, 64, 64)),
    "mobilenet_v3": (lambda: torchvision_model("mobilenet_v3_small"), (3, 64, 64)),
    "efficientnet_b0": (lambda: torchvision_model("efficientnet_b0"), (3, 64, 64)),
    "densenet121": (lambda: torchvision_model("densenet121"), (3, 64, 64)),
    "shufflenet_v2": (lambda: torchvision_model("shufflenet_v2_x1_0"), (3, 64, 64)),
    "vit_tiny": (lambda: timm_model("vit_tiny_patch16_224", img_size=64), (3, 64, 64)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_is_masked(name: str, made: Made, dropped: Dropped) -> None:
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    images = torch.randn(2, *shape)
    network, coupling = made(build(), images)
    keep = dropped(coupling)
    without = [block.name for block in coupling.blocks[::3]]
    kept = torch.tensor([block.name not in without for block in coupling.blocks], dtype=torch.float32)
    surgery = operate(network, coupling, keep, without)
    with torch.inference_mode():
        masked = Gated(network, coupling)(images, torch.from_numpy(keep).float(), kept)
        whole, pruned = network(images), surgery.network(images)
    assert (pruned - masked).norm() <= 1e-6 * masked.norm()
    assert (whole - masked).norm() > 1e-3 * masked.norm()  # the cut is seen
    assert surgery.network.graph.cost.macs < 0.8 * network.graph.cost.macs
    traced = trace(surgery.network, images)  # an ordinary module: what it is can be read off it again
    assert (traced.cost.macs, traced.cost.params) == (
        surgery.network.graph.cost.macs,
        surgery.network.graph.cost.params,
    )


def test_every_layer_of_a_narrow_net_is_needed(made: Made) -> None:
    _, coupling = made(models["msd"](), torch.zeros(2, 3, 32, 32))
    assert coupling.count == 0
    assert any("nothing of" in frozen.reason for frozen in coupling.frozen)


def test_masked_is_pruned_in_training_too(shortcuts: tuple[Network, Coupling], dropped: Dropped) -> None:
    network, coupling = shortcuts
    keep = dropped(coupling)
    small = operate(network, coupling, keep).network.train()
    images = torch.randn(4, 3, 8, 8)
    network.train()
    try:
        masked = Gated(network, coupling)(images, torch.from_numpy(keep).float())
    finally:
        network.eval()
    assert torch.allclose(small(images), masked, atol=1e-5)


def test_a_block_that_is_gone_is_the_identity(shortcuts: tuple[Network, Coupling]) -> None:
    network, coupling = shortcuts
    (block,) = coupling.blocks
    assert (block.name, block.nodes) == ("a1", ("a1", "na1", "activation_1", "a2", "na2"))
    small = operate(network, coupling, coupling.all(), [block.name]).network
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(small(images), Gated(network, coupling)(images, blocks=torch.zeros(1)))
    assert "add" not in {n.name for n in small.graph.nodes}
    assert sum(n.operator == "activation" for n in small.graph.nodes) == 3  # the second ReLU in a row is gone too


def test_the_given_network_is_not_touched(shortcuts: tuple[Network, Coupling], dropped: Dropped) -> None:
    network, coupling = shortcuts
    before = {k: v.clone() for k, v in network.state_dict().items()}
    small = operate(network, coupling, coupling.all()).network
    for parameter in small.parameters():
        parameter.data.zero_()
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), torch.optim.Adam])
def test_an_optimiser_goes_on(
    make: Callable[..., torch.optim.Optimizer], shortcuts: tuple[Network, Coupling], dropped: Dropped
) -> None:
    """Three steps of the masked network and three of the pruned one that took over its optimiser are the same."""
    network, coupling = shortcuts
    network = operate(network, coupling, coupling.all()).network.train()  # a copy
    keep = dropped(coupling)
    gates = torch.from_numpy(keep).float()
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 5
    gated, optimizer = Gated(network, coupling), make(network.parameters())

    def step(run: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(run(images), labels).backward()
        optimizer.step()

    for _ in range(2):
        step(lambda x: gated(x, gates), optimizer)
    surgery = operate(network, coupling, keep)
    other = make(surgery.network.parameters())
    surgery.carry_over(optimizer, other, network)
    for _ in range(3):
        step(lambda x: gated(x, gates), optimizer)
        step(surgery.network, other)
    expected = operate(network, coupling, keep).network.state_dict()
    for name, tensor in surgery.network.state_dict().items():
        assert torch.allclose(tensor, expected[name], atol=1e-5), name


def test_a_loosened_sum_has_channels_of_its_own(made: Made) -> None:
    torch.manual_seed(0)
    network, tight = made(models["resnet20"](), torch.zeros(2, 3, 32, 32))
    coupling = couple(loosen(network.graph, ["layer1.0.add"]))
    groups = {group.name: group for group in coupling.groups}
    assert {"conv1", "layer1.0.conv2"} <= set(groups)
    assert "layer1.0.conv2" not in {g.name for g in tight.groups}
    keep = coupling.all()
    keep[groups["layer1.0.conv2"].units[[1, 5, 7]]] = False
    loose = Network(coupling.graph).eval()
    loose.load_state_dict(network.state_dict())
    images = torch.randn(2, 3, 32, 32)
    small = operate(loose, coupling, keep).network
    assert small.graph["layer1.0.add.pick"].shape == (13, 32, 32)
    masked = Gated(loose, coupling)(images, torch.from_numpy(keep).float())
    assert torch.allclose(small(images), masked, atol=1e-5)
    assert torch.equal(loose(images), network(images))
    with pytest.raises(SpaceError, match="no sum of a residual branch"):
        loosen(network.graph, ["layer1.0.conv1"])


def test_wrong_masks_are_told(shortcuts: tuple[Network, Coupling]) -> None:
    _, coupling = shortcuts
    with pytest.raises(SpaceError, match="keep is a bool mask of 48 units"):
        cut(coupling, np.ones(3, dtype=bool))
    keep = coupling.all()
    keep[coupling.groups[1].units] = False
    with pytest.raises(SpaceError, match=f"nothing would be left of {coupling.groups[1].name}"):
        cut(coupling, keep)
    with pytest.raises(SpaceError, match="no removable block 'a2': did you mean 'a1'"):
        cut(coupling, coupling.all(), ["a2"])
