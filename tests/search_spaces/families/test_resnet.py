"""ResNet and ResNeXt: timm's members to the unit, their weights, and the space."""

from __future__ import annotations

import pytest
import torch

from nas_engine.testing import Example, OperatorContract, SpaceContract, example
from search_spaces import GraphBuilder, GraphError, Network, SpaceError, make_space
from search_spaces.families import families, published_state, skeleton
from search_spaces.operators.residual import inner_width
from search_spaces.scaling import Scaling
from tests.search_spaces.families.libraries import largest_difference, params_and_macs

IMAGE = (12, 9, 7)
MEMBERS = tuple(families["resnet"].members)

EXAMPLES: tuple[Example, ...] = (
    example("basic_block", IMAGE, out_channels=12),
    example("basic_block", IMAGE, out_channels=16, kernel_size=5, stride=2, ratio=0.5, drop_path=0.2),
    example("bottleneck", IMAGE, out_channels=12),
    example("bottleneck", IMAGE, out_channels=12, ratio=1.0, group_width=4, drop_path=0.2, activation="silu"),
    example("bottleneck", IMAGE, out_channels=16, stride=2, ratio=0.5, group_width=4, se_ratio=0.25),
)


class TestOperators(OperatorContract):
    examples = EXAMPLES


class TestSpace(SpaceContract):
    space = make_space(
        "resnet",
        {
            "input_shape": (3, 16, 16),
            "classes": 4,
            "member": "resnet26",
            "multipliers": (0.125, 0.25),
            "vary": {"ratio": (0.25, 0.5), "group_width": (0, 4, 8)},
            "resolutions": (12, 16),
            "drop_path": 0.1,
        },
    )
    members = 10
    networks = 2
    slices = 2


class TestSpaceOfBasicBlocks(SpaceContract):
    """At a multiplier of 1 the first stage has no convolution on its shortcut, at others it does."""

    space = make_space(
        "resnet",
        {
            "input_shape": (3, 16, 16),
            "classes": 4,
            "member": "resnet18",
            "depths": (-1, 0),
            "multipliers": (0.25, 1.0),
            "vary": {"ratio": (0.25,), "kernel_size": (1, 3)},
        },
    )
    members = 8
    networks = 1
    slices = 1


QUICK = ("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MEMBERS])
def test_members_have_the_params_and_macs_of_timm(name: str) -> None:
    cost = skeleton(name).graph().cost
    assert (cost.params, cost.macs) == params_and_macs(name)


@pytest.mark.parametrize("name", ["resnet18", "resnet26", "resnext50_32x4d"])
def test_logits_are_those_of_timm_on_its_weights(name: str) -> None:
    assert largest_difference(name, 64) < 1e-5


def test_every_tensor_has_a_name_in_timm() -> None:
    """Without memory: shapes and names of whole state dicts."""
    timm = pytest.importorskip("timm")
    for name in ("resnet34", "resnext101_64x4d", "wide_resnet101_2"):
        with torch.device("meta"):
            state = timm.create_model(name).state_dict()
        assert len(published_state(name, state)) == len(state)


@pytest.mark.parametrize(
    ("asked", "channels"), [((256, 0.5, 4), 128), ((24, 1.0, 16), 32), ((8, 1.0, 16), 8), ((10, 0.25, 0), 2)]
)
def test_inner_widths_are_whole_groups(asked: tuple[int, float, int], channels: int) -> None:
    assert inner_width(*asked) == channels


def test_mistakes_are_told() -> None:
    g = GraphBuilder(IMAGE)
    with pytest.raises(GraphError, match="ratio is above 0"):
        g.add("bottleneck", g.input, out_channels=8, ratio=0.0)
    with pytest.raises(SpaceError, match="no attribute 'group_width'"):
        make_space("resnet", {"member": "resnet18", "vary": {"group_width": (0, 4)}})


def test_members_vary_what_their_blocks_have() -> None:
    names = {c.name for c in make_space("resnet", {"member": "resnet18"}).choices}
    assert "layer1.ratio" in names
    assert "layer1.group_width" not in names


def test_stochastic_depth_stands_before_the_sum() -> None:
    g = GraphBuilder(IMAGE)
    block = g.add("bottleneck", g.input, name="block", out_channels=12, drop_path=0.5)
    graph = g.build(block)
    assert graph.inline()["block.residual"].inputs == ("input", "block.drop")
    assert "drop" not in {n.name for n in block.signature.evaluated.body or ()}


def test_groups_of_each_width_have_weights_of_their_own() -> None:
    space = make_space("resnet", {"member": "resnet50", "multipliers": (1.0,), "depths": (0,)})
    names = set()
    for width in (0, 16):
        member = space.architecture({c.name: width for c in space.choices if c.name.endswith("group_width")})
        names |= {n.name for n in space.graph(member).inline() if n.name.startswith("layer2.1.spatial")}
    assert {n.split(".")[2] for n in names} == {"spatial", "spatial_by_16"}


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_scaled_members_keep_their_groups(name: str) -> None:
    """Doubled in width, a ResNeXt has twice the groups, of the width they had."""
    table = skeleton(name).scaled(Scaling(depth=1.5, width=2.0))
    graph = table.graph((3, 64, 64)).inline()
    assert [row.repeats for row in table.rows if row.repeats] == ([3] * 4 if name == "resnet18" else [5, 6, 9, 5])
    if name != "resnet18":
        assert graph["layer1.0.spatial_by_4.conv"].attributes["groups"] == 64
    with torch.device("meta"):
        assert Network(graph)(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)


def test_the_reference_is_the_published_network() -> None:
    space = make_space("resnet", {"input_shape": (3, 224, 224), "classes": 1000})
    assert space.graph(space.reference) == skeleton("resnet50").graph()
