"""MobileNetV2 and V3: the libraries' members to the unit, their weights, and their spaces."""

from __future__ import annotations

import pytest

from nas_engine.testing import SpaceContract
from search_spaces import make_space
from search_spaces.families import families, skeleton
from search_spaces.families.mobilenet import v2, v3
from search_spaces.scaling import Scaling
from tests.search_spaces.families.libraries import counted, largest_difference, params_and_macs

V2, V3 = (tuple(families[name].members) for name in ("mobilenetv2", "mobilenetv3"))


SMALL = {"input_shape": (3, 16, 16), "classes": 4, "multipliers": (0.25, 0.5), "depths": (-3, -2)}


class TestContractOfV2(SpaceContract):
    space = make_space("mobilenetv2", SMALL)
    members = 6
    networks = 2
    slices = 2


class TestContractOfV3(SpaceContract):
    """Rows that are one stage have one width, images are brought to a size, and gates come and go."""

    space = make_space("mobilenetv3", {**SMALL, "member": "mobilenetv3_small_100", "resolutions": (12, 16)})
    members = 6
    networks = 2
    slices = 2


@pytest.mark.parametrize("name", [*V2, *V3])
def test_every_member_has_the_params_and_macs_of_its_library(name: str) -> None:
    cost = skeleton(name).graph().cost
    assert (cost.params, cost.macs) == params_and_macs(name)


@pytest.mark.parametrize(("width", "depth"), [(0.6, 0.5), (1.3, 1.2)])
def test_any_multipliers_give_what_timm_makes_of_them(width: float, depth: float) -> None:
    """Rows of one stage share its depth in the same proportions, halves of blocks included."""
    two = pytest.importorskip("timm.models.efficientnet")._gen_mobilenet_v2
    three = pytest.importorskip("timm.models.mobilenetv3")._gen_mobilenet_v3
    how = Scaling(depth, width)
    tables = {
        v2().scaled(how): lambda: two("mobilenetv2_100", width, depth),
        v3("large", "large", how): lambda: three("mobilenetv3_large_100", width, depth),
        v3("small", "small", how): lambda: three("mobilenetv3_small_100", width, depth),
    }
    for table, make in tables.items():
        cost = table.graph((3, 64, 64)).cost
        assert (cost.params, cost.macs) == counted(make, 64), table.name


def test_published_figures() -> None:
    """MobileNetV2: 3.4 M and 300 M (Sandler et al. 2018, table 4); V3: 5.4 M and 219 M, 2.5 M and 56 M (table 3).

    The paper of V3 counts 2.9 M for the small one in a later version, and rounds otherwise; the libraries' are exact.
    """
    costs = {name: skeleton(name).graph().cost for name in (*V2, *V3)}
    assert (costs["mobilenetv2_100"].params, costs["mobilenetv2_100"].macs) == (3_504_872, 300_774_272)
    assert (costs["mobilenetv3_large_100"].params, costs["mobilenetv3_large_100"].macs) == (5_483_032, 216_589_760)
    assert (costs["mobilenetv3_small_100"].params, costs["mobilenetv3_small_100"].macs) == (2_542_856, 56_510_400)


@pytest.mark.parametrize(
    "name",
    ["mobilenetv2_035", "mobilenetv2_110d", "mobilenet_v2", "mobilenetv3_small_050", "mobilenetv3_large_150d"],
)
def test_logits_are_those_of_the_library_on_its_weights(name: str) -> None:
    assert largest_difference(name, 64) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", [*V2, *V3])
def test_logits_of_all_members(name: str) -> None:
    assert largest_difference(name, 96) < 1e-5


def test_torchvision_and_timm_publish_the_same_v2() -> None:
    assert skeleton("mobilenet_v2").graph() == skeleton("mobilenetv2_100").graph()


def test_the_head_of_v2_grows_but_does_not_shrink() -> None:
    widths = [v2(width=width).row("head").width for width in (0.35, 1.0, 1.4)]
    assert widths == [1280, 1280, 1792]
    assert v2().scaled(Scaling(width=0.5)).row("head").width == 1280


def test_rows_of_one_stage_of_v3_share_its_depth() -> None:
    """Large, stage 3: one block of expansion 6, one of 2.5, two of 2.3; times 1.2 that is 1, 2 and 2, as in timm."""
    deeper = v3(scaling=Scaling(depth=1.2))
    assert [deeper.row(f"stage3{part}").repeats for part in "abc"] == [1, 2, 2]
    assert deeper.row("last").repeats == 2
    assert deeper.row("classifier").attributes == (("hidden", 1280), ("dropout", 0.2))


def test_rows_of_one_stage_have_one_width_in_the_space() -> None:
    space = make_space("mobilenetv3", {"multipliers": (0.5, 1.0)})
    names = [c.name for c in space.choices]
    assert "stage3a.width" in names
    assert "stage3b.width" not in names
    graph = space.graph(space.architecture({"stage3a.width": 0.5, "stage4.width": 1.0}))
    assert {graph[f"stage3{part}.0"].shape[0] for part in "abc"} == {40}
    assert "stage3c.0.residual" in [n.name for n in graph.inline()]


def test_spaces_leave_alone_what_is_no_block() -> None:
    names = {c.name for c in make_space("mobilenetv3").choices}
    assert "last.width" in names
    assert not names & {"last.kernel_size", "last.expansion", "stage0.expansion", "classifier.hidden", "stem.width"}


@pytest.mark.parametrize(("name", "member"), [("mobilenetv2", "mobilenetv2_100"), ("mobilenetv3", V3[1])])
def test_references_without_varied_attributes_are_the_published_networks(name: str, member: str) -> None:
    settings = {"input_shape": (3, 224, 224), "classes": 1000, "stride": 32, "member": member, "vary": {}}
    space = make_space(name, settings)
    assert space.reference is not None
    assert space.graph(space.reference) == skeleton(member).graph()
