"""ShuffleNet V1 and V2: published members, the units against a direct form in torch, and the spaces."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_engine.testing import Example, OperatorContract, SpaceContract, example
from nas_engine.testing.measure import shake_statistics
from predictors.cost import check_guidelines
from search_spaces import GraphBuilder, GraphError, Network, SpaceError, make_space
from search_spaces.families import families, published_state, skeleton
from search_spaces.families.shufflenet import V1_PUBLISHED_MMACS
from search_spaces.scaling import Scaling
from tests.search_spaces.families.libraries import largest_difference, params_and_macs

IMAGE = (12, 9, 7)
V1, V2 = tuple(families["shufflenetv1"].members), tuple(families["shufflenetv2"].members)
SMALL = {"input_shape": (3, 16, 16), "classes": 4}

AUTHORS = {
    "shufflenet_v1_x0_5_g3": (38, 0.7),
    "shufflenet_v1_x0_5_g8": (40, 1.0),
    "shufflenet_v1_x1_0_g3": (138, 1.9),
    "shufflenet_v1_x1_0_g8": (138, 2.4),
    "shufflenet_v1_x1_5_g3": (292, 3.4),
    "shufflenet_v1_x1_5_g8": (290, 4.3),
    "shufflenet_v1_x2_0_g3": (524, 5.4),
    "shufflenet_v1_x2_0_g8": (522, 6.5),
}
"""Millions of MACs and of params that the authors publish with their code."""


EXAMPLES: tuple[Example, ...] = (
    example("channel_shuffle", IMAGE, groups=3),
    example("shuffle_v2", IMAGE, out_channels=12),
    example("shuffle_v2", IMAGE, out_channels=16, kernel_size=5, stride=2, split=False),
    example("shuffle_v2", IMAGE, out_channels=10, split=False, activation="hardswish"),
    example("shuffle_v1", IMAGE, out_channels=12),
    example("shuffle_v1", IMAGE, out_channels=24, groups=2, stride=2, join=True, kernel_size=5),
    example("shuffle_v1", IMAGE, out_channels=24, groups=3, stride=2, join=True, dense=True),
)


class TestOperators(OperatorContract):
    examples = EXAMPLES


class TestSpaceOfV2(SpaceContract):
    space = make_space("shufflenetv2", {**SMALL, "multipliers": (0.25, 0.5), "resolutions": (12, 16)})
    members = 8
    networks = 2
    slices = 2


class TestSpaceOfV1(SpaceContract):
    space = make_space("shufflenetv1", {**SMALL, "member": "shufflenet_v1_x0_5_g8", "multipliers": (0.75, 1.0)})
    members = 8
    networks = 2
    slices = 2


# ---- published members -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", V2)
def test_v2_has_the_params_and_macs_of_torchvision(name: str) -> None:
    cost = skeleton(name).graph().cost
    assert (cost.params, cost.macs) == params_and_macs(name)


def test_logits_are_those_of_torchvision_on_its_weights() -> None:
    assert largest_difference("shufflenet_v2_x0_5", 64) < 1e-5


@pytest.mark.parametrize("name", AUTHORS)
def test_v1_has_the_complexity_that_its_authors_publish(name: str) -> None:
    mmacs, mparams = AUTHORS[name]
    cost = skeleton(name).graph().cost
    assert cost.macs / 1e6 == pytest.approx(mmacs, abs=0.6)
    assert cost.params / 1e6 == pytest.approx(mparams, abs=0.06)


def test_v1_has_the_complexity_of_its_paper() -> None:
    """Table 1 agrees to the million for all numbers of groups where the classifier is left out."""
    found = {}
    for name in V1_PUBLISHED_MMACS:
        graph = skeleton(name).graph()
        found[name] = round((graph.cost.macs - graph["classifier"].signature.cost.macs) / 1e6)
    assert found == V1_PUBLISHED_MMACS


def test_state_dicts_of_v1_are_ours() -> None:
    name = "shufflenet_v1_x0_5_g3"
    state = Network(skeleton(name).graph()).state_dict()
    assert published_state(name, state).keys() == state.keys()


# ---- the unit of V1 against its form in torch ------------------------------------------------------------


class Unit(nn.Module):
    """Figure 2 of the paper, written down directly."""

    def __init__(self, channels: int, out: int, groups: int, stride: int, dense: bool) -> None:
        super().__init__()
        hidden, branch = out // 4, out - channels if stride == 2 else out
        self.groups, self.stride = groups, stride
        self.reduce = nn.Conv2d(channels, hidden, 1, groups=1 if dense else groups, bias=False)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.expand = nn.Conv2d(hidden, branch, 1, groups=groups, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (hidden, hidden, branch))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.reduce(x)))
        n, c, h, w = y.shape
        y = y.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        y = self.norms[2](self.expand(self.norms[1](self.depthwise(y))))
        joined = torch.cat([F.avg_pool2d(x, 3, 2, 1), y], 1) if self.stride == 2 else x + y
        return F.relu(joined)


@pytest.mark.parametrize(("stride", "out", "dense"), [(1, 24, False), (2, 48, False), (2, 48, True)])
def test_v1_units_are_those_of_figure_2(stride: int, out: int, dense: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    unit = Unit(24, out, 3, stride, dense).eval()
    shake_statistics(unit, generator)
    g = GraphBuilder((24, 8, 8))
    attributes = {"out_channels": out, "groups": 3, "stride": stride, "join": stride == 2, "dense": dense}
    ours = Network(g.build(g.add("shuffle_v1", g.input, name="unit", **attributes))).eval()
    order = ("reduce" if dense else "reduce_in_3", "depthwise", "expand_in_3")
    state = {}
    for i, (name, conv) in enumerate(zip(order, (unit.reduce, unit.depthwise, unit.expand), strict=True)):
        state[f"unit.{name}.conv.weight"] = conv.weight
        state |= {f"unit.{name}.bn.{k}": v for k, v in unit.norms[i].state_dict().items()}
    ours.load_state_dict(state)
    images = torch.randn(2, 24, 8, 8, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), unit(images))


@pytest.mark.parametrize(
    ("operator", "attributes", "message"),
    [
        ("shuffle_v2", {"out_channels": 12, "stride": 2}, "split=False"),
        ("shuffle_v2", {"out_channels": 7, "split": False}, "two halves"),
        ("shuffle_v1", {"out_channels": 24}, "join=True"),
        ("shuffle_v1", {"out_channels": 12, "join": True}, "beside others"),
        ("channel_shuffle", {"groups": 5}, "shuffled between 5 groups"),
    ],
)
def test_units_that_do_not_fit_are_told(operator: str, attributes: dict[str, object], message: str) -> None:
    g = GraphBuilder(IMAGE)
    with pytest.raises(GraphError, match=message):
        g.add(operator, g.input, **attributes)


# ---- spaces and guidelines -------------------------------------------------------------------------------


def test_references_are_the_published_networks() -> None:
    for name in ("shufflenetv1", "shufflenetv2"):
        space = make_space(name, {"input_shape": (3, 224, 224), "classes": 1000, "stride": 32})
        published = skeleton(space.default).graph()
        assert space.graph(space.reference) == published


def test_small_images_keep_their_pixels() -> None:
    """Where a stride is lowered to 1, its pooling is left out."""
    space = make_space("shufflenetv2", SMALL)
    graph = space.graph(space.reference)
    assert "pool" not in {node.name for node in graph}
    assert graph["head"].shape[1:] == (4, 4)


def test_stages_of_v1_must_grow() -> None:
    with pytest.raises(SpaceError, match="stages of ShuffleNet V1 grow"):
        make_space("shufflenetv1", {"multipliers": (0.5, 1.0)})
    with pytest.raises(SpaceError, match="no choice"):
        make_space("shufflenetv1", {"vary": {"groups": (2, 4)}})


@pytest.mark.parametrize("name", [V1[0], V1[2], V2[1]])
@pytest.mark.parametrize("width", [0.5, 0.7, 1.3])
def test_scaled_members_are_networks(name: str, width: float) -> None:
    table = skeleton(name).scaled(Scaling(depth=1.5, width=width))
    graph = table.graph((3, 64, 64))
    assert [row.repeats for row in table.rows if row.repeats] == [6, 12, 6]
    assert Network(graph)(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)


def test_guidelines_tell_v1_from_v2() -> None:
    """The groups of V1 are what G2 speaks of; V2 was made by the guidelines and keeps them all."""
    broken = {
        name: {f.guideline for f in check_guidelines(skeleton(name).graph()) if f.broken}
        for name in ("shufflenet_v1_x1_0_g3", "shufflenet_v1_x1_0_g8", "shufflenet_v2_x1_0")
    }
    assert [("G2" in found) for found in broken.values()] == [True, True, False]
    assert broken["shufflenet_v2_x1_0"] == set()
