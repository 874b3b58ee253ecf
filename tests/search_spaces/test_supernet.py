"""Shared weights: how slots are cut, what training one member does to others, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from nas_engine.testing import SupernetContract
from nas_engine.testing.measure import shake_statistics
from search_spaces import Architecture, Choice, Graph, GraphBuilder, SearchSpace, SpaceError, Supernet
from search_spaces.kernels import chain
from search_spaces.mobile import Mobile
from search_spaces.supernet import cut


@pytest.fixture
def space() -> Mobile:
    return Mobile(
        input_shape=(3, 12, 12), classes=4, widths=(16,), strides=(1,), depths=(1, 2), resolutions=(12,), head=16
    )


@pytest.fixture
def supernet(space: Mobile) -> Supernet:
    torch.manual_seed(0)
    return Supernet(space)


def images(batch: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


# ---- slices -----------------------------------------------------------------------------------------------


def test_slices_are_first_channels_and_the_centre_of_the_kernel() -> None:
    slot = torch.arange(4 * 3 * 7 * 7).reshape(4, 3, 7, 7)
    part = cut(slot, (2, 1, 3, 5))
    assert torch.equal(part, slot[:2, :1, 2:5, 1:6])
    assert part.data_ptr() == slot[0, 0, 2, 1].data_ptr(), "a slice is a view"
    assert cut(slot, (4, 3, 7, 7)) is slot
    assert torch.equal(cut(torch.arange(5), (3,)), torch.arange(3))
    assert cut(torch.tensor(7), ()).item() == 7


def test_slots_are_as_large_as_the_largest_member(space: Mobile, supernet: Supernet) -> None:
    shapes = {name: tuple(t.shape) for name, t in supernet.state_dict().items()}
    assert shapes["stem.conv.weight"] == (16, 3, 3, 3)
    assert shapes["stage0.block0.depthwise.conv.weight"] == (96, 1, 7, 7)
    assert shapes["stage0.block1.expand.conv.weight"] == (96, 16, 1, 1)
    assert shapes["classifier.linear.weight"] == (4, 16)


def test_a_member_runs_on_views_of_the_slots(space: Mobile, supernet: Supernet) -> None:
    """Training the supernet moves what a member extracted later holds, and only in its slice."""
    small = space.architecture({"stage0.width": 0.5, "stage0.block0.kernel": 3})
    before = copy.deepcopy(supernet.state_dict())
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.5)
    supernet.train()(images(), small).square().sum().backward()
    optimizer.step()
    weight, old = (
        supernet.state_dict()["stage0.block0.depthwise.conv.weight"],
        before["stage0.block0.depthwise.conv.weight"],
    )
    moved = weight != old
    hidden = supernet.extract(small).state_dict()["stage0.block0.depthwise.conv.weight"].shape[0]
    assert moved[:hidden, :, 2:5, 2:5].all()
    assert moved.sum() == hidden * 9


def test_several_members_add_up_in_one_step(space: Mobile, supernet: Supernet) -> None:
    """The sandwich rule: gradients of several members accumulate as the sum of each alone."""
    members = [space.architecture(), *list(space.envelope())[:2]]
    supernet.double().train()
    alone: dict[str, Tensor] = {}
    for member in members:
        supernet.zero_grad()
        supernet(images().double(), member).square().sum().backward()
        for name, p in supernet.named_parameters():
            if p.grad is not None:
                alone[name] = alone.get(name, torch.zeros_like(p)) + p.grad
    supernet.zero_grad()
    sum(supernet(images().double(), member).square().sum() for member in members).backward()  # type: ignore[union-attr]
    for name, p in supernet.named_parameters():
        if name in alone:
            torch.testing.assert_close(p.grad, alone[name])


def test_subnet_is_the_member_as_a_function(space: Mobile, supernet: Supernet) -> None:
    supernet.eval()
    member = space.architecture({"stage0.depth": 2})
    with torch.no_grad():
        assert torch.equal(supernet.subnet(member)(images()), supernet(images(), member))


def test_weights_may_be_loaded_while_plans_are_kept(space: Mobile, supernet: Supernet) -> None:
    """Plans hold no weights: loading, moving and casting the supernet show at once."""
    member = space.architecture()
    other = Supernet(space)
    supernet.eval(), other.eval()
    with torch.no_grad():
        first = supernet(images(), member)
        other.load_state_dict(supernet.state_dict())
        assert torch.equal(other(images(), member), first)
        assert supernet.double()(images().double(), member).dtype == torch.float64


# ---- kernels that are maps of larger ones --------------------------------------------------------------------


class TestKernelTransform(SupernetContract):
    space = Mobile(
        input_shape=(3, 12, 12), classes=4, widths=(16,), strides=(1,), depths=(1, 2), resolutions=(12,), head=16
    )
    members = 8
    kernel_transform = True


WEIGHT = "stage0.block0.depthwise.conv.weight"
CENTRE = "stage0.block0.depthwise.conv.kernel_transform"


def test_an_untrained_transform_is_the_centre(space: Mobile, supernet: Supernet) -> None:
    other = Supernet(space, kernel_transform=True)
    missing = other.load_state_dict(supernet.state_dict(), strict=False).missing_keys
    assert {f"{CENTRE}.5x5", f"{CENTRE}.3x3"} <= set(missing)
    assert all(".kernel_transform." in name for name in missing)
    for member in space.envelope():
        assert torch.equal(supernet.eval()(images(), member), other.eval()(images(), member))


def test_one_chain_leads_from_the_largest_kernel_to_the_smallest(space: Mobile) -> None:
    """As written in once-for-all's code: the centre of what came before, times the matrix, for each step."""
    supernet = Supernet(space, kernel_transform=True)
    shake_statistics(supernet, torch.Generator().manual_seed(1))
    state = supernet.state_dict()
    five, three = (torch.eye(n * n) + state[f"{CENTRE}.{n}x{n}"] for n in (5, 3))
    w = state[WEIGHT]
    w5 = torch.nn.functional.linear(w[:, :, 1:6, 1:6].reshape(-1, 25), five).reshape(-1, 1, 5, 5)
    w3 = torch.nn.functional.linear(w5[:, :, 1:4, 1:4].reshape(-1, 9), three).reshape(-1, 1, 3, 3)
    for kernel, wanted in ((7, w), (5, w5), (3, w3)):
        member = space.architecture({"stage0.block0.kernel": kernel, "stage0.block0.expansion": 6})
        torch.testing.assert_close(supernet.extract(member).state_dict()[WEIGHT], wanted)


def test_members_use_the_matrices_of_their_chain(space: Mobile) -> None:
    supernet = Supernet(space, kernel_transform=True)
    used = [
        {n for n in supernet.parameters_of(space.architecture({"stage0.block0.kernel": k})) if n.startswith(CENTRE)}
        for k in (7, 5, 3)
    ]
    assert used == [set(), {f"{CENTRE}.5x5"}, {f"{CENTRE}.5x5", f"{CENTRE}.3x3"}]


def test_a_state_tells_whether_it_has_transforms(space: Mobile, supernet: Supernet) -> None:
    with_transforms = Supernet(space, kernel_transform=True).state_dict()
    for state in (supernet.state_dict(), with_transforms):
        again = Supernet.of_state(space, state).state_dict()
        assert list(again) == list(state)
        assert all(torch.equal(again[name], state[name]) for name in state)


def test_kernels_that_do_not_lie_in_one_another_have_no_transform() -> None:
    assert chain([(1, 7), (7, 1), (3, 3)]) is None
    assert chain([(3, 3)]) is None
    assert chain([(3,), (5,), (5,)]) == ((5,), (3,))


# ---- dropping out ------------------------------------------------------------------------------------------


def test_members_can_run_without_dropping_out() -> None:
    space = Mobile(input_shape=(3, 12, 12), classes=4, widths=(16,), strides=(1,), depths=(1,), dropout=0.5)
    supernet, member = Supernet(space).train(), space.architecture(resolution=12)
    plain = [supernet(images(), member, regularised=False) for _ in range(2)]
    assert torch.equal(*plain)
    assert not torch.equal(supernet(images(), member), plain[0])


# ---- tensors that are nodes of their own ------------------------------------------------------------------


class Positions(SearchSpace):
    """A learned offset of each channel and pixel, as position embeddings are, of searched width and side."""

    name = "positions"

    def __init__(self) -> None:
        super().__init__([Choice("width", (2, 4)), Choice("side", (3, 5))], input_shape=(3, 6, 6), classes=2)

    def graph(self, architecture: Architecture) -> Graph:
        g = GraphBuilder(self.input_shape)
        width, side = architecture.values.values()
        x = g.add("conv2d", g.input, name="stem", out_channels=width)
        x = g.add("resize", x, name="resize", size=side)
        x = g.add("add", x, g.add("parameter", name="positions", size=(1, width, side, side)), name="sum")
        return g.build(g.add("classifier", x, name="head", classes=2))


class TestBareTensors(SupernetContract):
    space = Positions()
    members = 8


def test_bare_tensors_are_cut_at_the_corner() -> None:
    """A position embedding has no kernel whose centre could be meant: it gives its first entries."""
    supernet = Supernet(Positions()).eval()
    small = supernet.space.architecture(width=2, side=3)
    extracted = supernet.extract(small)
    assert torch.equal(extracted.state_dict()["positions"], supernet.state_dict()["positions"][:, :2, :3, :3])
    assert "positions" in supernet.parameters_of(small)


class Folded(SearchSpace):
    """One convolution called one, two or three times in a member, of searched width."""

    name = "folded"

    def __init__(self) -> None:
        super().__init__([Choice("times", (1, 2, 3)), Choice("width", (4, 6))], input_shape=(3, 6, 6), classes=2)

    def graph(self, architecture: Architecture) -> Graph:
        g = GraphBuilder(self.input_shape)
        times, width = architecture.values.values()
        x = g.add("conv2d", g.input, name="stem", out_channels=width)
        same = {"out_channels": width, "kernel_size": 3, "padding": 1}
        x = g.add("conv2d", x, name="step", **same)
        for i in range(1, times):
            x = g.add("activation", x, name=f"act{i}")
            x = g.add("again", x, name=f"step{i}", slot="step", kind="conv2d", settings=tuple(same.items()))
        return g.build(g.add("classifier", x, name="head", classes=2))


class TestRepeatedCalls(SupernetContract):
    space = Folded()
    members = 8


# ---- batch-norm statistics --------------------------------------------------------------------------------


def test_recalibration_gives_the_mean_over_batches(space: Mobile, supernet: Supernet) -> None:
    """The stem's statistics are those of its convolution's outputs, batches weighted equally, whatever came before."""
    shake_statistics(supernet, torch.Generator().manual_seed(0))
    supernet.double().eval()
    member = space.architecture()
    batches = [images(5, seed).double() for seed in range(3)]
    supernet.recalibrate(member, batches)
    state = supernet.state_dict()
    with torch.no_grad():
        stem = [torch.conv2d(b, state["stem.conv.weight"], padding=1) for b in batches]
    mean = torch.stack([s.mean((0, 2, 3)) for s in stem]).mean(0)
    variance = torch.stack([s.var((0, 2, 3)) for s in stem]).mean(0)
    torch.testing.assert_close(state["stem.bn.running_mean"], mean)
    torch.testing.assert_close(state["stem.bn.running_var"], variance)
    assert not supernet.training


def test_recalibration_leaves_weights_and_momentum(space: Mobile, supernet: Supernet) -> None:
    weights = {name: p.clone() for name, p in supernet.named_parameters()}
    member = space.architecture()
    supernet.train()
    supernet.recalibrate(member, [images()])
    assert supernet.training
    assert all(torch.equal(p, weights[name]) for name, p in supernet.named_parameters())
    assert all(p.grad is None for p in supernet.parameters())
    supernet(images(), member)
    momenta = {m.momentum for m in _norms(supernet, member)}
    assert momenta == {0.1}


def test_recalibration_that_fails_half_way_mends_the_mode(space: Mobile, supernet: Supernet) -> None:
    member = space.architecture()
    supernet.eval()
    with pytest.raises(RuntimeError):
        supernet.recalibrate(member, [torch.zeros(2, 5, 12, 12)])
    assert not supernet.training
    assert {m.momentum for m in _norms(supernet, member)} == {0.1}


def _norms(supernet: Supernet, member: Architecture) -> list[Any]:
    shells = supernet._planned(member)[1]
    return [s.module for s in shells if isinstance(s.module, torch.nn.modules.batchnorm._BatchNorm)]


def test_plans_are_kept_within_bounds(supernet: Supernet, space: Mobile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search_spaces.supernet._PLANS", 3)
    members = list(space.neighbours(space.architecture()))[:6]
    supernet.eval()
    with torch.no_grad():
        first = [supernet(images(), m) for m in members]
        assert list(supernet._plans) == members[-3:]
        assert all(torch.equal(supernet(images(), m), r) for m, r in zip(members, first, strict=True))


# ---- spaces that cannot share -----------------------------------------------------------------------------


class Unfit(SearchSpace):
    """Two widths that never meet in one member of the envelope, or one name for two operators."""

    name = "unfit"

    def __init__(self, fault: str) -> None:
        self.fault = fault
        super().__init__([Choice("a", (4, 8)), Choice("b", (4, 8))], input_shape=(3, 6, 6), classes=2)

    def graph(self, architecture: Architecture) -> Graph:
        g = GraphBuilder(self.input_shape)
        a, b = architecture.values.values()
        x = g.add("conv2d", g.input, name="first", out_channels=a)
        if self.fault == "operators":
            x = g.add("conv2d" if b == 4 else "batch_norm", x, name="second", **({"out_channels": 4} if b == 4 else {}))
        else:
            wide = 12 - b if self.fault == "crossed" and a == 8 else b
            x = g.add("conv2d", x, name="second" if self.fault == "crossed" else f"second{b}", out_channels=wide)
        return g.build(g.add("classifier", x, name="head", classes=2))

    def envelope(self):  # type: ignore[no-untyped-def]
        if self.fault == "absent":
            yield self.from_indices([1, 1])
        else:
            yield from self.enumerate() if self.fault == "operators" else map(self.from_indices, ([1, 1], [0, 1]))


def test_slots_no_member_fills_are_refused() -> None:
    with pytest.raises(SpaceError, match=r"no member of envelope\(\) of space 'unfit' has node 'second'"):
        Supernet(Unfit("crossed"))


def test_one_name_for_two_operators_is_refused() -> None:
    with pytest.raises(SpaceError, match="'second' means different operators"):
        Supernet(Unfit("operators"))


def test_nodes_outside_the_envelope_are_told_when_a_member_runs() -> None:
    space = Unfit("absent")
    supernet = Supernet(space)
    with pytest.raises(SpaceError, match=r"no member of envelope\(\) has node 'second4'"):
        supernet(torch.zeros(2, 3, 6, 6), space.from_indices([1, 0]))
