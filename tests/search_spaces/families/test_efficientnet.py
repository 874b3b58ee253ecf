"""EfficientNet: timm's members to the unit, the paper's formula against the sheet's figures, and its space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from nas_engine.testing import SpaceContract
from search_spaces import GraphBuilder, Network, SpaceError, make_space
from search_spaces.families import families, published_state, skeleton
from search_spaces.families.efficientnet import RELEASED, b0, formula
from search_spaces.scaling import Compound, Scaling
from tests.search_spaces.families.libraries import counted, largest_difference, library_module, params_and_macs

SMALL = {"multipliers": (0.25, 0.5), "depths": (-3, -2), "drop_path": 0.1}


class TestContract(SpaceContract):
    space = make_space("efficientnet", {"input_shape": (3, 20, 20), "classes": 4, **SMALL})
    members = 6
    networks = 2
    slices = 2


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n == "efficientnet_l2" else []) for n in RELEASED]
)
def test_every_member_has_the_params_and_macs_of_timm(name: str) -> None:
    cost = skeleton(name).graph().cost
    assert (cost.params, cost.macs) == params_and_macs(name)


@pytest.mark.parametrize(("width", "depth"), [(0.35, 0.6), (1.37, 1.25)])
def test_any_multipliers_give_what_timm_makes_of_them(width: float, depth: float) -> None:
    timm = pytest.importorskip("timm.models.efficientnet")
    cost = b0().scaled(Scaling(depth, width)).graph((3, 64, 64)).cost
    assert (cost.params, cost.macs) == counted(lambda: timm._gen_efficientnet("efficientnet_b0", width, depth), 64)


def test_b0_is_that_of_the_paper() -> None:
    """5.3 M parameters and 0.39 B multiply-accumulates; to the unit as released."""
    cost = skeleton("efficientnet_b0").graph().cost
    assert (cost.params, cost.macs) == (5_288_548, 385_814_752)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b1"])
def test_logits_are_those_of_timm_on_its_weights(name: str) -> None:
    assert largest_difference(name, 64) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_b2", "efficientnet_b3", "efficientnet_b4"])
def test_logits_of_larger_members(name: str) -> None:
    assert largest_difference(name, 96) < 1e-5


def test_the_state_of_another_member_is_refused() -> None:
    state = library_module("efficientnet_b0").state_dict()
    with pytest.raises(SpaceError, match="missing"):
        published_state("efficientnet_b1", state)
    with pytest.raises(SpaceError, match="did you mean 'efficientnet_b1'"):
        published_state("efficientnet_b11", state)


@pytest.mark.parametrize(
    ("phi", "millions", "billions", "resolution"),
    [
        (1, 9.11, 0.993, 258),
        (2, 12.26, 1.81, 296),
        (3, 16.35, 3.25, 341),
        (4, 25.92, 6.32, 392),
        (5, 33.73, 11.37, 451),
        (6, 45.46, 20.09, 518),
    ],
)
def test_the_formula_gives_other_members_than_were_released(
    phi: int, millions: float, billions: float, resolution: int
) -> None:
    table = formula(phi)
    cost = table.graph().cost
    assert table.resolution == resolution
    assert cost.params / 1e6 == pytest.approx(millions, abs=0.006)
    assert cost.macs / 1e9 == pytest.approx(billions, abs=0.006)
    assert (cost.params, cost.macs) not in {(c.params, c.macs) for c in released_costs()}


def released_costs() -> list[Any]:
    return [skeleton(f"efficientnet_b{i}").graph().cost for i in range(8)]


def test_the_formula_at_nothing_is_b0_and_takes_other_rules() -> None:
    assert formula(0).graph() == skeleton("efficientnet_b0").graph()
    wide = formula(1, Compound(1.0, 2.0**0.5, 1.0))
    assert wide.resolution == 224
    assert wide.row("stage3").repeats == 3
    assert wide.row("stage3").width == 112
    assert [formula(phi).row("classifier").attributes for phi in (0, 3.5, 20)] == [
        (("dropout", dropout),) for dropout in (0.2, 0.35, 0.5)
    ]


def test_macs_grow_by_the_product_of_the_exponents() -> None:
    """`alpha * beta^2 * gamma^2` is 1.92, near the paper's 2; blocks are rounded up, so there are never fewer."""
    base, product = formula(0).graph().cost.macs, Compound().product
    assert product == pytest.approx(1.92, abs=0.001)
    for phi in range(1, 7):
        assert 1 <= formula(phi).graph().cost.macs / base / product**phi <= 1.35


def test_stochastic_depth_rises_over_the_blocks_and_is_gone_in_evaluation() -> None:
    graph = skeleton("efficientnet_b0").graph()
    rates = [n.attributes["drop_path"] for n in graph if n.operator == "mbconv"]
    assert rates == [round(0.2 * i / 16, 6) for i in range(16)]
    assert library_rates("efficientnet_b0", 0.2) == pytest.approx(rates, abs=1e-6)
    assert all(n.signature.evaluated.operator.attributes["drop_path"] == 0 for n in graph if n.operator == "mbconv")
    assert [n.name for n in graph.inline() if n.operator == "drop_path"] == [
        f"{stage}.{block}.drop"
        for stage, blocks in (("stage1", 2), ("stage2", 2), ("stage3", 3), ("stage4", 3), ("stage5", 4))
        for block in range(1, blocks)
    ]


def library_rates(name: str, drop_path: float) -> list[float]:
    """Rates that timm gives its blocks; those without a residual have one as well."""
    module = pytest.importorskip("timm").create_model(name, drop_path_rate=drop_path)
    return [float(getattr(block.drop_path, "drop_prob", 0.0)) for stage in module.blocks for block in stage]


def gate_of(expansion: float, channels: int, ratio: float = 0.25) -> dict[str, Any]:
    g = GraphBuilder((channels, 8, 8))
    graph = g.build(g.add("mbconv", g.input, name="b", out_channels=16, expansion=expansion, se_ratio=ratio))
    return {n.name: n.attributes for n in graph.inline()}


def test_the_gate_is_of_the_channels_that_enter_the_block() -> None:
    for expansion in (1, 3, 6):
        nodes = gate_of(expansion, 40)
        assert nodes["b.se.reduce"]["out_channels"] == 10
        assert nodes["b.se.gate"]["kind"] == "sigmoid"
        assert nodes["b.se.act"]["kind"] == "silu"
    assert gate_of(6, 2)["b.se.reduce"]["out_channels"] == 1
    assert not any(".se." in name for name in gate_of(6, 40, 0.0))


def test_the_reference_of_the_space_is_b0_but_for_strides() -> None:
    space = make_space("efficientnet", {"input_shape": (3, 224, 224), "classes": 1000, "stride": 32})
    assert space.reference is not None
    assert space.graph(space.reference) == skeleton("efficientnet_b0").graph()


def test_the_space_varies_what_was_searched_for_b0() -> None:
    space = make_space("efficientnet")
    names = {c.name: c.options for c in space.choices}
    assert "stage0.expansion" not in names
    assert names["stage0.kernel_size"] == (3, 5)
    assert names["stage5.expansion"] == (3, 4, 6)
    assert names["stage5.se_ratio"] == (0.0, 0.25)
    assert names["stage5.depth"] == (3, 4)
    assert names["stage6.depth"] == (1,)
    assert space.size == 2 * 2 * 3 * (2 * 3 * 2 * 3) ** 6 * 2**5  # stages 1 to 5 have two depths


@pytest.mark.parametrize("bound", [Scaling(depth=1.2, width=1.1, resolution=1.15)])
def test_members_are_scaled_as_their_table_is(bound: Scaling) -> None:
    space = make_space("efficientnet", {"input_shape": (3, 224, 224), "classes": 1000, "stride": 32})
    assert space.reference is not None
    scaled = space.scaled(space.reference, bound)
    expected = formula(1).graph((3, 258, 258))
    assert scaled["resize"].shape == (3, 258, 258)
    assert scaled.cost.params == expected.cost.params
    assert scaled.cost.macs == expected.cost.macs


def test_members_can_be_made_from_any_published_one() -> None:
    space = make_space("efficientnet", {"member": "efficientnet_b2", "vary": {}, "depths": (0,), "multipliers": (1.0,)})
    graph = space.graph(space.sample(np.random.default_rng(0)))
    assert graph["stem"].shape == (32, 32, 32)
    assert graph["head"].shape[0] == 1408
    with pytest.raises(SpaceError, match="did you mean 'efficientnet_b2'"):
        make_space("efficientnet", {"member": "efficientnet_b22"})
    with pytest.raises(SpaceError, match="did you mean 'kernel_size'"):
        make_space("efficientnet", {"vary": {"kernel": (3,)}})


def test_branches_are_left_out_in_training_alone() -> None:
    space = make_space("efficientnet", {"input_shape": (3, 16, 16), "classes": 3, **SMALL, "drop_path": 0.9})
    torch.manual_seed(0)
    deep = space.from_indices([len(c.options) - 1 for c in space.choices])
    network = Network(space.graph(deep))
    images = torch.randn(4, 3, 16, 16)
    network.eval()
    with torch.no_grad():
        assert torch.equal(network(images), network(images))
    network.train()
    assert not torch.equal(network(images), network(images))


def test_families_name_their_source() -> None:
    timm: Callable[..., Any] = pytest.importorskip("timm").is_model
    assert all(timm(member.source[1]) for member in families["efficientnet"].members.values())
