"""RegNet: the quantised linear rule, timm's members to the unit, their weights, and the space of the rule's numbers."""

from __future__ import annotations

import pickle
from collections.abc import Iterable

import numpy as np
import pytest
import torch

from nas_engine.testing import SpaceContract
from search_spaces import Architecture, Network, SearchSpace, SpaceError, Supernet, make_space
from search_spaces.families import families, published_state, skeleton
from search_spaces.families.regnet import Parameters, block_widths, published_parameters, regnet, stages
from search_spaces.scaling import Scaling
from tests.search_spaces.families.libraries import largest_difference, params_and_macs

MEMBERS = tuple(families["regnet"].members)


class TestSpace(SpaceContract):
    space = make_space(
        "regnet",
        {
            "input_shape": (3, 16, 16),
            "classes": 4,
            "depths": (3, 5, 6),
            "w0": (8, 16),
            "wa": (6.0, 12.0),
            "wm": (1.75, 2.25),
            "group_widths": (4, 16),
            "stem": 16,
        },
    )
    members = 10
    networks = 2
    slices = 3


# ---- the rule --------------------------------------------------------------------------------------------


def test_rule_by_hand() -> None:
    """w0 = 24, wa = 24, wm = 2: 24, 48, 72, 96, 120 are 24 times 2 to the 0, 1, 1.58, 2, 2.32."""
    assert block_widths(5, 24, 24, 2) == (24, 48, 96, 96, 96)
    assert stages(Parameters(5, 24, 24, 2, 16)) == [(32, 1, 16), (48, 1, 16), (96, 3, 16)]
    assert stages(Parameters(5, 24, 24, 2, 64, ratio=0.5)) == [(24, 1, 12), (48, 1, 24), (96, 3, 48)]


def test_widths_and_depths_are_those_that_timm_generates() -> None:
    generated = pytest.importorskip("timm.models.regnet")
    for name, p in published_parameters().items():
        cfg = generated.model_cfgs[name]
        assert (p.depth, p.w0, p.wa, p.wm, p.group_width) == (cfg.depth, cfg.w0, cfg.wa, cfg.wm, cfg.group_size)
        theirs, *_ = generated.generate_regnet(cfg.wa, cfg.w0, cfg.wm, cfg.depth, cfg.group_size)
        assert list(block_widths(p.depth, p.w0, p.wa, p.wm)) == theirs


def test_widths_grow_and_stages_hold_all_blocks() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        depth, w0 = int(rng.integers(1, 40)), 8 * int(rng.integers(1, 20))
        p = Parameters(depth, w0, float(rng.uniform(0, 100)), float(rng.uniform(1.5, 3)), int(rng.integers(1, 64)), 0.5)
        widths = block_widths(p.depth, p.w0, p.wa, p.wm)
        assert list(widths) == sorted(widths)
        assert widths[0] == w0
        assert not any(w % 8 for w in widths)
        found = stages(p)
        assert sum(n for _, n, _ in found) == depth
        assert all(round(width * p.ratio) % group == 0 for width, _, group in found)


# ---- published members -----------------------------------------------------------------------------------


QUICK = ("regnetx_002", "regnetx_004_tv", "regnetx_320", "regnety_008", "regnety_032", "regnety_080_tv")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MEMBERS])
def test_members_have_the_params_and_macs_of_timm(name: str) -> None:
    cost = skeleton(name).graph().cost
    assert (cost.params, cost.macs) == params_and_macs(name)


@pytest.mark.parametrize("name", ["regnetx_002", "regnety_002", "regnety_008_tv"])
def test_logits_are_those_of_timm_on_its_weights(name: str) -> None:
    assert largest_difference(name, 64) < 1e-5


def test_every_tensor_has_a_name_in_timm() -> None:
    timm = pytest.importorskip("timm")
    for name in ("regnetx_320", "regnety_080_tv", "regnety_1280"):
        with torch.device("meta"):
            state = timm.create_model(name).state_dict()
        assert len(published_state(name, state)) == len(state)


@pytest.mark.parametrize("name", ["regnetx_002", "regnety_032"])
@pytest.mark.parametrize("width", [0.5, 1.5])
def test_scaled_members_are_networks(name: str, width: float) -> None:
    graph = skeleton(name).scaled(Scaling(depth=1.3, width=width)).graph((3, 64, 64))
    with torch.device("meta"):
        assert Network(graph)(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)


# ---- the space -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    rule = {"depths": (3, 5), "w0": (8, 16), "wa": (8.0, 16.0), "wm": (2.0, 2.5)}
    return make_space("regnet", {**rule, "group_widths": (4, 8), "se_ratios": (0.0,)})


def test_references_are_published_members() -> None:
    space = make_space("regnet", {"input_shape": (3, 224, 224), "classes": 1000, "stride": 32})
    assert space.graph(space.reference) == skeleton("regnetx_002").graph()


def largest_of(space: SearchSpace, members: Iterable[Architecture]) -> dict[str, tuple[int, ...]]:
    largest: dict[str, tuple[int, ...]] = {}
    for member in members:
        with torch.device("meta"):
            state = Network(space.graph(member)).state_dict()
        for name, tensor in state.items():
            largest[name] = tuple(map(max, largest.get(name, tuple(tensor.shape)), tensor.shape))
    return largest


def test_the_supernet_is_what_all_members_need(space: SearchSpace) -> None:
    """All of them, not a sample: the rule couples depth and width, so that wide stages are seldom deep ones."""
    slots = {name: tuple(tensor.shape) for name, tensor in Supernet(space).state_dict().items()}
    assert largest_of(space, space.enumerate()) == slots
    assert largest_of(space, SearchSpace.envelope(space)) != slots


def test_rules_that_give_the_same_widths_are_one_network() -> None:
    rule = {"depths": (2, 3), "w0": (16,), "wa": (15.0, 16.0, 40.0), "wm": (2.0, 2.1)}
    space = make_space("regnet", {**rule, "group_widths": (8,), "ratios": (1.0,)})
    graphs: dict[str, set[str]] = {}
    for member in space.enumerate():
        graphs.setdefault(space.graph(member).id, set()).add(space.canonical(member).id)
    assert all(len(representatives) == 1 for representatives in graphs.values())
    assert len(graphs) < space.size


def test_spaces_are_sent_to_other_processes(space: SearchSpace) -> None:
    again = pickle.loads(pickle.dumps(space))
    member = space.sample(np.random.default_rng(0))
    assert again.graph(member) == space.graph(member)


def test_scaling_a_member_resizes_its_images(space: SearchSpace) -> None:
    member = space.reference
    graph = space.scaled(member, Scaling(depth=2, width=2, resolution=1.5))
    assert graph["resize"].shape == (3, 48, 48)
    assert graph.cost.macs > 8 * space.graph(member).cost.macs


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"member": "regnetx_003"}, "did you mean"),
        ({"w0": (12,)}, "multiple of 8"),
        ({"wm": (1.0,)}, "wm above 1"),
        ({"group_widths": (0,)}, "group_width of a RegNet is a whole number"),
        ({"depths": (7.5,)}, "depth of a RegNet is a whole number"),
    ],
)
def test_mistakes_are_told(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        make_space("regnet", parameters)


def test_a_rule_with_one_stage_is_a_network() -> None:
    graph = regnet("flat", Parameters(3, 16, 0.0, 2.0, 8)).graph((3, 32, 32), 5)
    assert Network(graph)(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
