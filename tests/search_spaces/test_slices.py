"""Members that use channels of a shared tensor which are not its first ones."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from search_spaces import Architecture, Choice, Graph, GraphBuilder, SearchSpace, Supernet
from search_spaces.coupling import couple, cut
from search_spaces.coupling.cutting import kept_along

IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Joined(SearchSpace):
    """Two convolutions side by side, of which the first 1 to 4 channels stay; what reads them joined has gaps."""

    name = "joined"

    def __init__(self) -> None:
        super().__init__([Choice("a", (1, 2, 3, 4)), Choice("b", (1, 2, 3, 4))], input_shape=(3, 8, 8), classes=5)
        g = GraphBuilder((3, 8, 8))
        a, b = (g.add("conv2d", g.input, name=n, out_channels=4, kernel_size=3) for n in ("a", "b"))
        x = g.add("batch_norm", g.add("concat", a, b, name="joined"), name="norm")
        x = g.add("mean", g.add("conv2d", x, name="c", out_channels=6), name="pooled")
        self.coupling = couple(g.build(g.add("linear", x, name="head", out_features=5)))

    def _keep(self, architecture: Architecture) -> np.ndarray:
        keep = self.coupling.all()
        for group in self.coupling.groups:
            if group.name in ("a", "b"):
                keep[group.units[int(architecture[group.name]) :]] = False
        return keep

    def graph(self, architecture: Architecture) -> Graph:
        return cut(self.coupling, self._keep(architecture))

    def slices(self, architecture: Architecture) -> Mapping[str, tuple[np.ndarray | None, ...]]:
        keep = self._keep(architecture)
        return {name: kept_along(axes, keep) for name, axes in self.coupling.tensors.items()}


@pytest.fixture
def supernet() -> Supernet:
    torch.manual_seed(0)
    net = Supernet(Joined())
    norm = net.get_submodule("norm")
    norm.running_mean.copy_(torch.arange(8.0))
    norm.weight.data.copy_(torch.arange(8.0) + 1)
    return net.eval()


def test_a_member_uses_its_own_channels(supernet: Supernet) -> None:
    member = supernet.space.architecture(a=2, b=3)
    network = supernet.extract(member)
    assert network.get_submodule("norm").running_mean.tolist() == [0, 1, 4, 5, 6]
    assert torch.allclose(supernet(IMAGES, member), network(IMAGES), atol=1e-6)


def test_members_of_one_shape_are_told_apart(supernet: Supernet) -> None:
    """(1, 4) and (4, 1) have tensors of equal shapes with other channels in them."""
    for sizes in ({"a": 1, "b": 4}, {"a": 4, "b": 1}):
        member = supernet.space.architecture(sizes)
        assert torch.allclose(supernet(IMAGES, member), supernet.extract(member)(IMAGES), atol=1e-6)


def test_recalibration_reaches_picked_channels(supernet: Supernet) -> None:
    member, space = supernet.space.architecture(a=2, b=2), supernet.space
    before = supernet.get_submodule("norm").running_mean.clone()
    network = supernet.extract(member)
    supernet.recalibrate(member, [IMAGES[:8], IMAGES[8:]])
    after = supernet.get_submodule("norm").running_mean
    used = [0, 1, 4, 5]
    rest = [2, 3, 6, 7]
    assert torch.equal(after[rest], before[rest])
    with torch.no_grad():
        joined = torch.cat([network.get_submodule(n)(IMAGES) for n in ("a", "b")], 1)
    assert torch.allclose(after[used], joined.mean((0, 2, 3)), atol=1e-5)
    other = space.architecture(a=2, b=2)
    assert torch.allclose(supernet(IMAGES, other), supernet.extract(other)(IMAGES), atol=1e-6)


def test_gradients_reach_the_channels_that_were_used(supernet: Supernet) -> None:
    supernet.train()
    supernet(IMAGES, supernet.space.architecture(a=1, b=2)).sum().backward()
    gradient = supernet.get_submodule("c").weight.grad
    assert gradient is not None
    assert gradient[:, [0, 4, 5]].abs().sum() > 0
    assert gradient[:, [1, 2, 3, 6, 7]].abs().sum() == 0
