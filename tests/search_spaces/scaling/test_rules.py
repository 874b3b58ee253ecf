"""Rules of scaling by hand: EfficientNet's figures, dWr's exponents, and both ways to round."""

from __future__ import annotations

import math

import pytest

from search_spaces import SpaceError
from search_spaces.scaling import Compound, FastCompound, Rounding, Scaling, Single, grid
from search_spaces.scaling.forms import RULES, ByExponents, ByPhi, ByRule, Free, make_rule


def test_compound_of_the_paper() -> None:
    assert Compound().product == pytest.approx(1.920, abs=5e-4)
    scaling = Compound().scaling(3)
    assert (scaling.depth, scaling.width, scaling.resolution) == pytest.approx((1.728, 1.331, 1.520875))
    again = Compound().at(Compound().product ** 3)
    assert (again.depth, again.width, again.resolution) == pytest.approx((1.728, 1.331, 1.520875))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0, 5.0])
def test_every_rule_multiplies_the_arithmetic_by_the_factor(name: str, factor: float) -> None:
    assert make_rule(name).at(factor).macs == pytest.approx(factor)


def test_fast_compound_grows_activations_as_published() -> None:
    """Activations grow with `w * d * r^2` of one layer: `s^(1 - a / 2)` in all (Dollar et al. 2021)."""
    for a, exponent in ((0.8, 0.6), (1 / 3, 5 / 6), (1.0, 0.5), (0.0, 1.0)):
        grown = FastCompound(a).at(4.0)
        assert math.log(grown.depth * grown.width * grown.resolution**2, 4) == pytest.approx(exponent)


def test_a_single_dimension_takes_all() -> None:
    assert Single("depth").at(4) == Scaling(depth=4)
    assert Single("width").at(4) == Scaling(width=2)
    assert Single("resolution").at(4) == Scaling(resolution=2)


def test_the_grid_holds_what_comes_near_two() -> None:
    found = grid(0.05, tolerance=0.05)
    assert Compound(1.2, 1.1, 1.15) in found
    assert all(1.9 <= rule.product <= 2.1 for rule in found)
    assert len({(r.alpha, r.beta, r.gamma) for r in found}) == len(found)
    assert Compound(2.0, 1.0, 1.0) in found
    assert Compound(1.0, 1.0, 1.4) in found


def test_widths_are_rounded_as_efficientnets() -> None:
    rounding = Rounding()
    assert [rounding.width(c, 1.1) for c in (32, 16, 24, 40, 80, 112, 192, 320, 1280)] == [
        32, 16, 24, 48, 88, 120, 208, 352, 1408,
    ]  # fmt: skip
    assert rounding.width(37, 1.0) == 37
    assert rounding.width(30, 2.0, divisor=12) % 24 == 0
    assert Rounding(divisor=1).width(30, 1.5) == 45


def test_depths_are_rounded_up_or_to_the_nearest() -> None:
    assert [Rounding().depth(n, 1.1) for n in (1, 2, 3, 4)] == [2, 3, 4, 5]
    assert [Rounding(repeats="round").depth(n, 1.1) for n in (1, 2, 3, 4, 5)] == [1, 2, 3, 4, 6]
    assert Rounding().depth(3, 1.0) == 3
    assert Rounding().depth(5, 1.2) == 6  # 6.000000000000001 is not seven
    assert Rounding(repeats="round").depth(1, 0.1) == 1


def test_rows_of_one_stage_share_its_depth_as_in_timm() -> None:
    """The sum is scaled and shared out from the last row on, as timm's `_scale_stage_depth` does."""
    builder = pytest.importorskip("timm.models._efficientnet_builder")
    for rows in ([1, 2], [2, 3, 4], [1, 1], [5]):
        for multiplier in (0.7, 1.0, 1.2, 2.6):
            for how in ("ceil", "round"):
                theirs = builder._scale_stage_depth([{"n": n} for n in rows], list(rows), multiplier, how)
                counts, at = [], 0
                ours = Rounding(repeats=how).depths(rows, multiplier)
                for n in ours:
                    counts.append(n)
                    at += n
                assert at == len(theirs)
                assert ours == [sum(b["n"] == n for b in theirs) for n in rows] or len(set(rows)) < len(rows)


@pytest.mark.parametrize("values", [(0.9, 1.1, 1.1), (1.0, 1.0, 1.0)])
def test_exponents_below_one_are_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(SpaceError, match="alpha, beta and gamma"):
        Compound(*values)


def test_what_is_no_multiplier_is_refused() -> None:
    for bad in (0, -1.0, math.inf, math.nan):
        with pytest.raises(SpaceError, match="width is a multiplier above 0"):
            Scaling(width=bad)
    with pytest.raises(SpaceError, match="a is the share of the width"):
        FastCompound(1.5)
    with pytest.raises(SpaceError, match="did you mean 'width'"):
        make_rule("widht")


def test_forms_come_to_their_scalings() -> None:
    assert ByPhi((0, 2), Compound()).scaling({"scale.phi": 2}) == Compound().scaling(2)
    form = ByExponents(0.1)
    assert all(1.88 <= form.scaling(v).macs <= 2.12 for v in form.assignments())
    rules = ByRule(("width", "dwr"), (1.0, 4.0), Compound(), 0.8)
    assert rules.scaling({"scale.rule": "width", "scale.factor": 4.0}) == Scaling(width=2.0)
    at = {(v["scale.rule"], v["scale.factor"]) for v in rules.largest()}
    assert at == {("width", 4.0), ("dwr", 4.0)}
    free = Free((1.0, 2.0), (1.0,), (1.0, 1.3))
    assert free.largest() == [{"scale.depth": 2.0, "scale.width": 1.0, "scale.resolution": 1.3}]
    with pytest.raises(SpaceError, match="a grid of step"):
        ByExponents(0.01)
