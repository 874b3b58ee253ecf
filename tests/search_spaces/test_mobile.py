"""The mobile space: contract on several settings, its size by hand, and what its choices do to the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nas_engine.testing import SpaceContract
from nas_engine.testing.measure import counted_macs
from search_spaces import Network, SpaceError, make_space
from search_spaces.mobile import Mobile


@pytest.fixture(scope="module")
def space() -> Mobile:
    return Mobile()


class TestContract(SpaceContract):
    space = Mobile()


class TestContractOfASmallSpace(SpaceContract):
    """Small enough to enumerate; one grey channel, sides that are not equal, all options off the defaults."""

    space = Mobile(
        input_shape=(1, 20, 28),
        classes=3,
        widths=(8, 12),
        strides=(2, 1),
        depths=(1, 2),
        kernels=(3, 5),
        expansions=(1, 3),
        multipliers=(1.0, 2.0),
        resolutions=(16, 20),
        squeeze_excite=(True,),
        activations=("silu",),
        stem=4,
        stem_stride=2,
        head=20,
        dropout=0.2,
    )
    members = 24


class TestContractOfOneMember(SpaceContract):
    space = Mobile(
        widths=(8,),
        strides=(1,),
        depths=(1,),
        kernels=(3,),
        expansions=(2,),
        multipliers=(1,),
        resolutions=(32,),
        squeeze_excite=(False,),
        activations=("relu",),
    )
    members = 2


def test_size_by_hand(space: Mobile) -> None:
    """3 resolutions, 2 activations; a stage: 3 widths, 2 with or without gates, 9 + 81 + 729 chains of blocks."""
    assert space.size == 3 * 2 * (3 * 2 * (9 + 81 + 729)) ** 4
    assert space.size > 1e12


def test_blocks_beyond_the_depth_rest(space: Mobile) -> None:
    shallow = space.architecture({"stage0.depth": 1, "stage0.block1.kernel": 7, "stage0.block2.expansion": 6})
    assert shallow == space.architecture()
    deep = space.architecture({"stage0.depth": 2, "stage0.block1.kernel": 7, "stage0.block2.expansion": 6})
    assert deep["stage0.block1.kernel"] == 7
    assert deep["stage0.block2.expansion"] == 3
    names = [n.name for n in space.graph(deep)]
    assert "stage0.block1" in names
    assert "stage0.block2" not in names


@pytest.mark.parametrize(
    ("choice", "option"),
    [
        ("resolution", 32),
        ("stage1.depth", 3),
        ("stage1.width", 1.0),
        ("stage1.se", True),
        ("stage0.block0.kernel", 7),
        ("stage0.block0.expansion", 6),
    ],
)
def test_each_choice_makes_the_network_larger(space: Mobile, choice: str, option: Any) -> None:
    small, large = space.architecture(), space.architecture({choice: option})
    assert space.graph(large).cost.macs > space.graph(small).cost.macs
    assert space.graph(large).cost.params >= space.graph(small).cost.params


def test_the_resolution_is_taken_by_the_network_itself(space: Mobile) -> None:
    """The input keeps its size; the member at full size has no resizing."""
    full, less = space.graph(space.architecture(resolution=32)), space.graph(space.architecture(resolution=24))
    assert full.inputs[0].shape == less.inputs[0].shape == (3, 32, 32)
    assert "resize" not in [n.name for n in full]
    assert less["resize"].shape == (3, 24, 24)
    assert less["stem"].shape == (16, 24, 24)
    assert [less[f"stage{i}.block0"].shape for i in range(4)] == [(8, 24, 24), (16, 12, 12), (24, 6, 6), (40, 6, 6)]


def test_images_that_are_not_square_are_made_square() -> None:
    space = Mobile(input_shape=(3, 20, 28), resolutions=(20,))
    assert space.graph(space.architecture())["resize"].shape == (3, 20, 20)


@pytest.mark.parametrize(
    ("side", "resolutions"), [(32, (24, 28, 32)), (28, (20, 24, 28)), (8, (8,)), (224, (168, 196, 224)), (6, (4, 6))]
)
def test_default_resolutions(side: int, resolutions: tuple[int, ...]) -> None:
    assert Mobile(input_shape=(3, side, side)).choices[0].options == resolutions


def test_activation_reaches_every_block(space: Mobile) -> None:
    graph = space.graph(space.architecture(activation="hardswish")).inline()
    kinds = {n.attributes["kind"] for n in graph if n.operator == "activation"}
    assert kinds == {"hardswish"}


def test_stages_need_strides_and_kernels_need_centres() -> None:
    with pytest.raises(SpaceError, match="4 widths, 2 strides"):
        Mobile(strides=(1, 2))
    with pytest.raises(SpaceError, match=r"odd kernels.*\[3, 4\]"):
        Mobile(kernels=(3, 4))


def test_torch_runs_a_member_of_a_known_size() -> None:
    """One block worked by hand: expand 4 to 8, depthwise 3x3, project to 8; head 16; 3 classes."""
    space = Mobile(
        input_shape=(3, 8, 8), classes=3, widths=(8,), strides=(2,), depths=(1,), expansions=(2,), multipliers=(1,),
        resolutions=(8,), stem=4, head=16,
    )  # fmt: skip
    cost = space.graph(space.architecture()).cost
    stem, expand, depthwise, project, head = 3 * 4 * 9, 4 * 8, 8 * 9, 8 * 8, 8 * 16
    norms = 2 * (4 + 8 + 8 + 8 + 16)
    assert cost.params == stem + expand + depthwise + project + head + norms + 16 * 3 + 3
    assert cost.macs == 64 * (stem + expand) + 16 * (depthwise + project + head) + 48
    assert Network(space.graph(space.architecture())).eval()(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.slow
def test_macs_of_many_members_are_those_torch_counts(space: Mobile) -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        graph = space.graph(space.sample(rng))
        assert graph.simplify().cost.macs == counted_macs(graph)


def test_made_by_name() -> None:
    assert make_space("mobile", {"depths": (1,), "classes": 2}).classes == 2
