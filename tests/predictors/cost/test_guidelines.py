"""The four guidelines: the formulas of the paper, its settings, and networks that break one guideline each."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.cost import Finding, check_guidelines, explain, worst_first
from predictors.cost.guidelines import CLEAN, EXCESS, pointwise_minimum, ungrouped
from search_spaces import Graph, GraphBuilder

WIDTHS = st.integers(1, 512)
SIDES = st.integers(1, 112)


def one(operator: str, shape: tuple[int, ...], **settings: object) -> Graph:
    g = GraphBuilder(shape)
    return g.build(g.add(operator, g.input, name="it", **settings))


def findings(graph: Graph) -> dict[str, Finding]:
    return {f.guideline: f for f in check_guidelines(graph)}


def broken(graph: Graph) -> list[str]:
    return [f.guideline for f in check_guidelines(graph) if f.broken]


# ---- G1 --------------------------------------------------------------------------------------------------


@given(side=SIDES, width=WIDTHS, factor=st.integers(2, 16))
def test_fewest_bytes_are_moved_at_equal_widths(side: int, width: int, factor: int) -> None:
    """For fixed B = h w c1 c2 the memory-access cost h w (c1 + c2) + c1 c2 is least at c1 = c2, and nowhere else."""
    area, square = side * side, width * factor

    def cost(c1: int, c2: int) -> int:
        return area * (c1 + c2) + c1 * c2

    least = pointwise_minimum(area, area, square, square)
    assert least == pytest.approx(cost(square, square))
    macs = area * square * square
    assert least == pytest.approx(2 * math.sqrt(area * macs) + macs / area)
    assert cost(width, square * factor) > least * (1 + 1e-12)
    assert pointwise_minimum(area, area, width, square * factor) == pytest.approx(least)


@pytest.mark.parametrize(("c1", "c2", "ratio"), [(128, 128, 1.0), (90, 180, 1.06), (52, 312, 1.42), (36, 432, 1.85)])
def test_the_settings_of_table_1(c1: int, c2: int, ratio: float) -> None:
    """Pairs of equal MACs at 56 x 56: the ratios are (1 + r) / (2 sqrt r) for widths 1:r, less what weights add."""
    found = findings(one("conv2d", (c1, 56, 56), out_channels=c2))["G1"]
    assert found.figure == pytest.approx(ratio, abs=0.01)
    assert found.broken == (c2 > 2 * c1)
    r = c2 / c1
    assert found.figure <= (1 + r) / (2 * math.sqrt(r)) + 1e-9


def test_the_limit_is_the_ratio_at_widths_one_to_two() -> None:
    assert pytest.approx(1.0607, abs=1e-4) == EXCESS


def test_g1_in_words() -> None:
    g = GraphBuilder((24, 16, 16))
    x = g.add("conv_bn_act", g.input, name="stage2.block1.expand", out_channels=144, kernel_size=1)
    graph = g.build(g.add("conv2d", x, name="next", out_channels=144, kernel_size=3, padding=1))
    found = findings(graph)["G1"]
    assert found.broken
    assert found.nodes == ("stage2.block1.expand.conv",)
    moved, least = 256 * 168 + 24 * 144, 2 * 256 * math.sqrt(24 * 144) + 24 * 144
    assert found.figure == pytest.approx(moved / least)
    assert found.words.startswith(
        "G1: 1x1 convolution stage2.block1.expand maps 24 to 144 channels at 16x16: "
        "it moves 1.4 times the bytes of the balanced form with equal MACs"
    )


def test_a_stride_is_no_imbalance() -> None:
    """Where the output is a quarter of the input, twice the width out balances the bytes: 4 c1 = c2 in numbers."""
    assert findings(one("conv2d", (32, 28, 28), out_channels=128, stride=2))["G1"].figure == pytest.approx(1, abs=1e-9)


def test_weights_of_one_pixel_are_not_to_blame() -> None:
    assert broken(one("conv2d", (512, 1, 1), out_channels=64)) == []


# ---- G2 --------------------------------------------------------------------------------------------------


@given(side=st.integers(2, 64), width=st.integers(1, 16), outs=st.integers(1, 16))
def test_bytes_grow_with_the_groups_at_equal_macs(side: int, width: int, outs: int) -> None:
    """h w c1 + B g / c1 + B / (h w): fixed input, outputs in proportion to the groups."""
    area, c1 = side * side, 16 * width
    costs = [area * (c1 + outs * 16 * g) + c1 * outs * 16 for g in (1, 2, 4, 8, 16)]
    assert costs == sorted(set(costs))
    macs = area * c1 * outs * 16
    assert costs == [pytest.approx(area * c1 + macs * g / c1 + macs / area) for g in (1, 2, 4, 8, 16)]
    assert ungrouped(area, area, c1, outs * 64, 4) == pytest.approx(costs[0])


def test_g2_is_told_for_groups_and_not_for_depthwise_convolutions() -> None:
    ratios = []
    for groups in (2, 4, 8):
        found = findings(one("conv2d", (64, 28, 28), out_channels=64, kernel_size=3, padding=1, groups=groups))["G2"]
        assert found.broken
        assert f"in {groups} groups" in found.words
        best = 64 * 784 + 64 // groups * 784 + 9 * 64 * 64 // groups
        assert found.figure == pytest.approx((2 * 64 * 784 + 9 * 64 * 64 // groups) / best)
        ratios.append(found.figure)
    assert ratios == sorted(ratios)
    depthwise = one("conv2d", (64, 28, 28), out_channels=64, kernel_size=3, padding=1, groups=64)
    assert not findings(depthwise)["G2"].broken
    assert findings(depthwise)["G4"].broken


# ---- G3 --------------------------------------------------------------------------------------------------


def block(branches: int, row: int) -> Graph:
    """The paper's fragments: convolutions in parallel branches and in rows, summed, between two convolutions."""
    g = GraphBuilder((64, 28, 28))
    start = g.add("conv2d", g.input, name="stem", out_channels=64, kernel_size=3, padding=1)
    ends = []
    for b in range(branches):
        x = start
        for i in range(row):
            x = g.add("conv2d", x, name=f"block.{b}.conv{i}", out_channels=64, kernel_size=3, padding=1)
        ends.append(x)
    x = g.add("add", start, *ends, name="block.sum")
    return g.build(g.add("conv2d", x, name="head", out_channels=64, kernel_size=3, padding=1))


@pytest.mark.parametrize(("branches", "row"), itertools.product((1, 2, 3, 4), (1, 2, 3, 6)))
def test_fragments_are_counted_by_blocks(branches: int, row: int) -> None:
    found = findings(block(branches, row))["G3"]
    assert found.figure == branches * row
    assert (found.figures["branches"], found.figures["longest"]) == (branches, row)
    assert found.broken == (branches > 2 or branches * row > 5)
    if found.broken:
        assert found.words.startswith(f"G3: block block runs {branches * row} convolutions and poolings")
        assert found.share < 1
        assert all(name.startswith("block.") for name in found.nodes)


def test_a_chain_has_no_fragments() -> None:
    g = GraphBuilder((64, 28, 28))
    x = g.input
    for _ in range(12):
        x = g.add("conv2d", x, out_channels=64, kernel_size=3, padding=1)
    found = findings(g.build(x))["G3"]
    assert (found.broken, found.figure) == (False, 0.0)


def test_learned_tensors_do_not_hide_blocks() -> None:
    """A weight that is a node of its own is no path from the input."""
    g = GraphBuilder((4, 8, 8))
    x = g.add("adder2d", g.input, name="first", out_channels=4, kernel_size=3, padding=1)
    ends = [g.add("adder2d", x, name=f"block.{i}", out_channels=4, kernel_size=3, padding=1) for i in range(3)]
    found = findings(g.build(g.add("add", *ends, name="block.sum")))["G3"]
    assert found.figure == 3
    assert found.figures["blocks"] == 1


# ---- G4 --------------------------------------------------------------------------------------------------


def test_element_wise_bytes_of_a_bottleneck_by_hand() -> None:
    """ResNet's bottleneck, the unit of table 4, by activations of c channels: convolutions move 5, 2 and 5; a ReLU
    twice its width, 2, 2 and 8; the shortcut 12. So ReLU and shortcut are 24 of 36 but for the weights."""
    g = GraphBuilder((32, 56, 56))
    x = g.add("activation", g.add("conv2d", g.input, name="reduce", out_channels=8))
    x = g.add("activation", g.add("conv2d", x, name="spatial", out_channels=8, kernel_size=3, padding=1))
    x = g.add("add", g.input, g.add("conv2d", x, name="expand", out_channels=32))
    found = findings(g.build(g.add("activation", x)))["G4"]
    assert found.figure == pytest.approx(24 / 36, abs=0.003)
    assert found.broken
    assert found.share == found.figure
    assert found.figures["activations"] == pytest.approx(12 / 36, abs=0.003)
    assert "sums and gates 33 %" in found.words


def test_batch_normalisations_behind_convolutions_count_as_folded() -> None:
    g = GraphBuilder((64, 28, 28))
    x = g.add("conv2d", g.input, out_channels=64, kernel_size=3, padding=1)
    folded = findings(g.build(g.add("batch_norm", x)))["G4"]
    assert folded.figure == 0
    image = 64 * 28 * 28
    assert folded.figures["folded normalisations"] == pytest.approx((2 * image + 128) / (2 * image + 9 * 64 * 64))
    both = g.add("batch_norm", x, name="read_twice")
    read_elsewhere = findings(g.build(g.add("add", x, both)))["G4"]
    assert "normalisations" in read_elsewhere.figures


# ---- all of them -----------------------------------------------------------------------------------------


def shuffle_unit(g: GraphBuilder, x, name: str, width: int):  # type: ignore[no-untyped-def]
    """ShuffleNet V2's unit of stride 1 (figure 3c): one half stays, the other is convolved, then channels mix."""
    kept = g.add("slice", x, name=f"{name}.kept", axis=0, start=0, stop=width)
    y = g.add("slice", x, name=f"{name}.taken", axis=0, start=width, stop=2 * width)
    y = g.add("conv_bn_act", y, name=f"{name}.first", out_channels=width, kernel_size=1)
    y = g.add("conv_bn_act", y, name=f"{name}.depthwise", out_channels=width, groups=width, activation=None)
    y = g.add("conv_bn_act", y, name=f"{name}.last", out_channels=width, kernel_size=1)
    return g.add("concat", kept, y, name=f"{name}.joined")


def test_the_authors_own_unit_keeps_all_four() -> None:
    g = GraphBuilder((116, 28, 28))
    x = g.input
    for i in range(4):
        x = shuffle_unit(g, x, f"stage2.{i}", 58)
    found = check_guidelines(g.build(x))
    assert [f.guideline for f in found] == ["G1", "G2", "G3", "G4"]
    assert not any(f.broken for f in found)
    assert explain(found) == [CLEAN]


def test_inverted_residuals_break_what_the_paper_says() -> None:
    """MobileNetV2: unequal widths and depthwise convolutions on thick features (section 2, last paragraph)."""
    g = GraphBuilder((24, 56, 56))
    x = g.input
    for i in range(3):
        x = g.add("inverted_residual", x, name=f"block{i}", out_channels=24, expansion=6)
    found = check_guidelines(g.build(x))
    assert [f.guideline for f in found if f.broken] == ["G1", "G4"]
    assert explain(found)[0].startswith("G4")


def test_with_times_shares_of_the_time_are_told_and_sorted_by() -> None:
    g = GraphBuilder((24, 56, 56))
    graph = g.build(g.add("inverted_residual", g.input, name="block", out_channels=24, expansion=6))
    times = {n.name: 8.0 if n.name.endswith("expand.conv") else 1.0 for n in graph.simplify().nodes}
    found = check_guidelines(graph, times)
    assert [f.guideline for f in worst_first(found)] == ["G1", "G4"]
    g1 = found[0]
    assert g1.time_share == pytest.approx(9 / sum(times.values()))
    assert Finding.from_dict(g1.to_dict()) == g1


def test_a_graph_that_does_nothing_keeps_all() -> None:
    g = GraphBuilder((3, 4, 4))
    assert explain(check_guidelines(g.build(g.input))) == [CLEAN]
