"""Channels put in order of weight when widths open."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nas_engine.config.elastic import Phase
from nas_engine.testing.measure import shake_statistics
from nas_engine.train.phases import Phases
from nas_engine.train.sorting import ChannelSorter
from search_spaces import Architecture, Choice, Graph, GraphBuilder, SearchSpace, Supernet, make_space
from search_spaces.errors import ConfigError

ORDER = [Phase(), Phase(open=("kernel", "depth")), Phase(open=("expansion",)), Phase(open=("width",))]
EXPANDED = "stage1.block0.expand.conv"


@pytest.fixture
def supernet() -> Supernet:
    torch.manual_seed(0)
    space = make_space("mobile", {"input_shape": (1, 8, 8), "widths": (8, 16), "strides": (1, 2), "depths": (1, 2)})
    net = Supernet(space, kernel_transform=True)
    shake_statistics(net, torch.Generator().manual_seed(0))
    return net.eval()


def sorter(net: Supernet) -> ChannelSorter:
    return ChannelSorter(net, Phases(net.space, ORDER, 4))


def names(sorter: ChannelSorter, phase: int) -> set[str]:
    return {sorter.coupling.groups[g].name for g in sorter.groups(phase)}


def test_a_phase_sorts_what_it_is_the_first_to_narrow(supernet: Supernet) -> None:
    """What narrow members have been trained on already must stay where it is."""
    found = sorter(supernet)
    assert names(found, 0) == names(found, 1) == set()
    assert EXPANDED in names(found, 2)
    assert "stage1.block0.project.conv" in names(found, 3)
    assert not names(found, 2) & names(found, 3)


def test_the_largest_member_computes_what_it_did(supernet: Supernet) -> None:
    images, largest = torch.randn(4, 1, 8, 8), next(supernet.space.envelope())
    before = supernet(images, largest)
    found = sorter(supernet)
    order = found.order(2)
    assert order is not None
    weights = supernet.get_parameter("stage1.block0.project.conv.weight").clone()
    found.sort(order)
    moved = supernet.get_parameter("stage1.block0.project.conv.weight")
    assert not torch.equal(moved, weights)
    norms = moved.abs().sum((0, 2, 3)) + supernet.get_parameter("stage1.block0.se.reduce.weight").abs().sum((0, 2, 3))
    assert (norms.diff() <= 1e-5).all()
    torch.testing.assert_close(supernet(images, largest), before, rtol=1e-4, atol=1e-5)


def test_small_members_keep_the_channels_that_weigh_most(supernet: Supernet) -> None:
    """With expansion 3 of 6, the half of the channels that was largest."""
    found = sorter(supernet)
    readers = ("stage1.block0.project.conv.weight", "stage1.block0.se.reduce.weight")
    small = supernet.space.architecture(
        {**next(supernet.space.envelope()).values, "stage1.block0.expansion": 3, "stage1.se": True}
    )
    before = supernet.extract(small).get_parameter(readers[0]).detach().abs().sum()
    order = found.order(2)
    assert order is not None
    found.sort(order)
    assert supernet.extract(small).get_parameter(readers[0]).detach().abs().sum() > before


def test_momenta_move_with_their_channels(supernet: Supernet) -> None:
    """The optimiser after a sort takes the step that it would have taken before it, in the new order."""
    images, largest = torch.randn(4, 1, 8, 8), next(supernet.space.envelope())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        supernet(images, largest).square().sum().backward()

    optimizer = torch.optim.SGD(supernet.parameters(), lr=1e-3, momentum=0.9)
    step()
    optimizer.step()
    found = sorter(supernet)
    order = found.order(2)
    assert order is not None
    plain = {n: p.clone() for n, p in supernet.named_parameters()}
    kept = {n: optimizer.state[p].get("momentum_buffer") for n, p in supernet.named_parameters()}
    buffers = {n: t.clone() for n, t in kept.items() if t is not None}  # no transform is used by the largest member
    found.sort(order)
    found.sort_momenta(order, optimizer)
    name = f"{EXPANDED}.weight"
    units = found.coupling.tensors[name][0]
    assert units is not None
    place = {int(u): i for i, u in enumerate(units)}
    to = torch.tensor([place[int(order[u])] for u in units])
    parameter = supernet.get_parameter(name)
    assert torch.equal(parameter, plain[name][to])
    assert torch.equal(optimizer.state[parameter]["momentum_buffer"], buffers[name][to])
    assert not torch.equal(to, torch.arange(len(to)))


def test_nothing_to_narrow_leaves_all_in_place(supernet: Supernet) -> None:
    assert sorter(supernet).order(1) is None


class Either(SearchSpace):
    """Two operators under names of their own, of which the largest member has one, on channels of searched number."""

    name = "either"

    def __init__(self) -> None:
        super().__init__([Choice("kernel", (1, 3)), Choice("width", (2, 4))], input_shape=(1, 6, 6), classes=2)

    def graph(self, architecture: Architecture) -> Graph:
        g = GraphBuilder(self.input_shape)
        kernel, width = architecture.values.values()
        x = g.add("conv2d", g.input, name="stem", out_channels=width)
        x = g.add("conv2d", x, name=f"conv{kernel}", out_channels=width, kernel_size=kernel, padding="same")
        return g.build(g.add("classifier", x, name="head", classes=2))


def test_weights_that_the_largest_member_lacks_forbid_sorting() -> None:
    net = Supernet(Either())
    with pytest.raises(
        ConfigError, match=r"does not have 'conv1\.weight' in full; give supernet\.sort_channels: false"
    ):
        ChannelSorter(net, Phases(net.space, [Phase(), Phase(open=("width",))], 4))
    assert ChannelSorter(net, Phases(net.space, [Phase(), Phase(open=("kernel",))], 4)).order(1) is None


def test_scores_are_sums_over_readers(supernet: Supernet) -> None:
    found = sorter(supernet)
    group = next(g for g in found.coupling.groups if g.name == "head.conv")
    weight = supernet.get_parameter("classifier.linear.weight")
    assert np.allclose(found._scores()[group.units], weight.abs().sum(0).detach().numpy(), rtol=1e-5)
