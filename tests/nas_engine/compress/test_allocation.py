"""Allocators: exact counts, limits, rounding, ties, and the sizes that papers state."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas_engine.compress.allocation import (
    Cut,
    Limits,
    allocators,
    channels_per_unit,
    granule,
    per_layer,
    suited,
    unit_scores,
    vector_multiple,
)
from nas_engine.compress.criteria import Scores, criteria
from search_spaces import GraphBuilder, trace
from search_spaces.coupling import Coupling, couple, loosen
from search_spaces.errors import ConfigError, SpaceError
from search_spaces.models import models

CHIP = {  # shares removed: stem, outputs of stages 1 and 2, inner convolutions; parameters and MACs left
    "resnet56, 43 %": ("resnet56", (0.0, 0.15, 0.15), [0.4] * 27, 485_413, 65_168_128),
    "resnet56, 70 %": ("resnet56", (0.0, 0.4, 0.4), [0.5] * 9 + [0.6] * 9 + [0.7] * 9, 240_793, 34_197_184),
    "resnet110, 48 %": ("resnet110", (0.0, 0.22, 0.22), [0.35] * 18 + [0.45] * 36, 889_702, 119_638_144),
    "resnet110, 39 %": ("resnet110", (0.0, 0.2, 0.2), [0.3] * 18 + [0.35] * 36, 1_045_951, 139_006_144),
    "resnet110, 68 %": ("resnet110", (0.0, 0.4, 0.4), [0.5] * 18 + [0.65] * 36, 543_742, 70_554_880),
    "resnet20": ("resnet20", (0.0, 0.15, 0.15), [0.4] * 9, 152_677, 21_235_456),
}
VGG = {  # shares removed of the first 7 and the next 5 convolutions
    (0.21, 0.75): (2_766_541, 130_566_528),
    (0.3, 0.75): (2_505_793, 104_242_752),
    (0.45, 0.78): (1_901_836, 66_521_088),
}


def coupled(name: str, *sums: str, **settings: object) -> Coupling:
    graph = trace(models[name](**settings).eval(), torch.zeros(2, 3, 32, 32))
    return couple(loosen(graph, sums) if sums else graph)


@pytest.fixture(scope="module")
def resnet20() -> Coupling:
    return coupled("resnet20")


def drawn(coupling: Coupling, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    return Scores(units=rng.random(coupling.count), blocks=rng.random(len(coupling.blocks)))


@pytest.mark.parametrize("setting", CHIP)
def test_sizes_of_chip(setting: str) -> None:
    """Stem and stage 1 lose different shares, so the first sum is freed of what it started from."""
    name, outer, inner, params, macs = CHIP[setting]
    coupling = coupled(name, "layer1.0.add")
    ratios = dict(zip(("conv1", "layer1.0.conv2", "layer2.0.conv2"), outer, strict=True))
    ratios |= dict(zip([g.name for g in coupling.groups if g.name.endswith(".conv1")], inner, strict=True))
    cost = per_layer(coupling, drawn(coupling), ratios).graph(coupling).cost
    assert (cost.params, cost.macs) == (params, macs)


@pytest.mark.parametrize("ratios", VGG)
def test_sizes_of_chip_for_vgg(ratios: tuple[float, float]) -> None:
    coupling = coupled("vgg16_bn", hidden=512)
    shares = [ratios[0]] * 7 + [ratios[1]] * 5 + [0.0] * 2
    cost = per_layer(coupling, drawn(coupling), shares).graph(coupling).cost
    assert (cost.params, cost.macs) == VGG[ratios]


def test_global_takes_the_lowest_of_all(resnet20: Coupling) -> None:
    scores = drawn(resnet20)
    allocator = allocators["global"](resnet20, scores, Limits(max_ratio=0.99))
    for count in (1, 50, 150):
        gone = ~allocator.cut(count).keep
        assert gone.sum() == count
        kept_least = scores.units[~gone].min()
        full = [g for g in resnet20.groups if (~gone[g.units]).sum() == 1]  # groups at their limit
        assert scores.units[gone].max() < kept_least or full


def test_uniform_takes_the_same_share(resnet20: Coupling) -> None:
    allocator = allocators["uniform"](resnet20, drawn(resnet20))
    for steps in (60, 200, 300):
        keep = allocator.cut(steps).keep
        shares = np.array([keep[g.units].mean() for g in resnet20.groups])
        smallest = min(len(g) for g in resnet20.groups)
        assert np.ptp(shares) <= 1 / smallest + 1e-9


def test_ties_are_never_cut_beyond_the_quota(resnet20: Coupling) -> None:
    for name in ("global", "uniform"):
        allocator = allocators[name](resnet20, Scores(units=np.zeros(resnet20.count)))
        assert (~allocator.cut(37).keep).sum() == 37
        left = [int(allocator.cut(len(allocator)).keep[g.units].sum()) for g in resnet20.groups]
        assert left == [-(-len(g) // 10) for g in resnet20.groups]


@pytest.mark.parametrize("name", ["global", "uniform"])
def test_widths_are_rounded_and_costs_fall(resnet20: Coupling, name: str) -> None:
    allocator = allocators[name](resnet20, drawn(resnet20), Limits(multiple=8))
    macs = [allocator.cut(i).graph(resnet20).cost.macs for i in range(len(allocator) + 1)]
    assert all(after < before for before, after in itertools.pairwise(macs))
    keep = allocator.cut(len(allocator) // 2).keep
    for group in resnet20.groups:
        assert keep[group.units].sum() % {16: 4, 32: 8, 64: 8}[len(group)] == 0


@given(
    size=st.integers(1, 300),
    multiple=st.integers(1, 32),
    max_ratio=st.floats(0, 0.99),
    min_keep=st.integers(1, 8),
)
def test_widths_keep_their_limits(size: int, multiple: int, max_ratio: float, min_keep: int) -> None:
    widths = Limits(min_keep, max_ratio, multiple).widths(size)
    step = granule(size, multiple)
    assert widths[0] == size
    assert widths == sorted(set(widths), reverse=True)
    assert all(w % step == 0 for w in widths[1:])
    assert min(widths) >= min(size, min_keep)
    assert min(widths) >= size * (1 - max_ratio) - 1e-6
    assert multiple % step == 0


def test_heads_of_attention_fill_vectors_by_themselves() -> None:
    g = GraphBuilder((3, 8, 8))
    x = g.add("conv2d", g.input, name="first", out_channels=6, kernel_size=3)
    x = g.add("flatten", x)
    coupling = couple(g.build(g.add("linear", x, name="last", out_features=2)))
    assert channels_per_unit(coupling, coupling.groups[0]) == 1
    assert granule(12, 8, channels=64) == 1
    assert granule(64, 8, channels=4) == 2


def test_scores_on_one_scale() -> None:
    g = GraphBuilder((3, 8, 8))
    x = g.add("conv2d", g.input, name="first", out_channels=4, kernel_size=3)
    x = g.add("conv2d", x, name="second", out_channels=4, kernel_size=3)
    x = g.add("conv2d", x, name="third", out_channels=5, kernel_size=3)
    coupling = couple(g.build(x))
    raw = Scores(units=np.array([1.0, 2, 3, 4, -100, 0, 100, 300]))
    assert unit_scores(coupling, raw, comparable=True).tolist() == raw.units.tolist()
    scaled = unit_scores(coupling, raw, comparable=False)
    assert scaled[:4].tolist() == [0.4, 0.8, 1.2, 1.6]
    assert scaled[4:].tolist() == [0.25, 0.75, 1.25, 1.75]
    with pytest.raises(ConfigError, match="no scores"):
        unit_scores(coupling, Scores(blocks=np.zeros(0)))
    with pytest.raises(ConfigError, match="not-a-number"):
        unit_scores(coupling, Scores(units=np.full(8, np.nan)))


def test_blocks_go_by_their_scores(resnet20: Coupling) -> None:
    scores = drawn(resnet20)
    allocator = allocators["blocks"](resnet20, scores)
    order = [resnet20.blocks[i].name for i in np.argsort(scores.blocks)]
    assert allocator.cut(3).without == tuple(order[:3])
    assert allocator.cut(len(allocator)).keep.all()
    with pytest.raises(ConfigError, match="gives blocks no scores"):
        allocators["blocks"](resnet20, Scores(units=np.zeros(resnet20.count)))
    with pytest.raises(ConfigError, match="no residual block"):
        allocators["blocks"](coupled("vgg16_bn"), scores)


def test_a_cut_is_written_and_read(resnet20: Coupling) -> None:
    cut = Cut(allocators["global"](resnet20, drawn(resnet20)).cut(99).keep, (resnet20.blocks[0].name,))
    read = Cut.from_dict(resnet20, cut.to_dict(resnet20))
    assert (read.keep == cut.keep).all()
    assert read.without == cut.without
    with pytest.raises(SpaceError, match="another network"):
        Cut.from_dict(coupled("vgg16_bn"), cut.to_dict(resnet20))


def test_what_cannot_be_asked(resnet20: Coupling) -> None:
    for wrong in ({"min_keep": 0}, {"max_ratio": 1.0}, {"multiple": 0}):
        with pytest.raises(ConfigError):
            Limits(**wrong)
    with pytest.raises(ConfigError, match="did you mean 'layer1.0.conv1'"):
        per_layer(resnet20, drawn(resnet20), {"layer1.0.conv": 0.5})
    with pytest.raises(ConfigError, match="3 ratios for 12 groups"):
        per_layer(resnet20, drawn(resnet20), [0.5] * 3)
    assert vector_multiple("Some processor", "cuda") == 8


def test_what_saves_more_goes_first_at_equal_scores() -> None:
    """Channels of large images cost more MACs than those of small ones."""
    g = GraphBuilder((3, 16, 16))
    x = g.add("conv2d", g.input, name="large", out_channels=8, kernel_size=3, padding=1)
    x = g.add("conv2d", x, name="small", out_channels=8, kernel_size=3, stride=4, padding=1)
    coupling = couple(g.build(g.add("conv2d", x, name="out", out_channels=4)))
    scores = Scores(units=np.ones(coupling.count))
    allocator = allocators["per_cost"](coupling, scores)
    assert [coupling.groups[r.group].name for r in allocator.removals[:7]] == ["large"] * 7
    dear = Scores(units=np.where(coupling.group_of == 0, 1e6, 1.0))
    assert coupling.groups[allocators["per_cost"](coupling, dear).removals[0].group].name == "small"
    assert suited(criteria["taylor"]) == "per_cost"
    assert suited(criteria["magnitude"]) == "global"
