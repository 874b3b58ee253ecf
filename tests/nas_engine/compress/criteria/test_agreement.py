"""Correlations on made-up scores, and ablation curves against networks that are really cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nas_engine.compress.criteria import Curve, Oracle, ablation, agree, correlate, layerwise, score
from nas_engine.compress.criteria.agreement import removal_order
from nas_engine.compress.criteria.losses import losses
from nas_engine.testing.criteria import small_batches, small_gated
from search_spaces.coupling import operate
from search_spaces.errors import ConfigError


def test_correlations_of_a_curve_and_of_a_swap() -> None:
    squares = correlate(np.arange(5.0), np.arange(5.0) ** 2)
    assert squares.spearman == pytest.approx(1)
    assert squares.kendall == pytest.approx(1)
    assert squares.pearson == pytest.approx(0.9589266029707684)
    swapped = correlate(np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 3, 4]))
    assert swapped.kendall == pytest.approx(4 / 6)
    assert swapped.spearman == pytest.approx(0.8)
    assert swapped.count == 4


def test_a_constant_has_no_correlation() -> None:
    for scores in (np.ones(4), np.ones(1)):
        found = correlate(scores, np.arange(float(len(scores))))
        assert np.isnan([found.pearson, found.spearman, found.kendall]).all()


def test_agreement_of_groups_is_apart_from_that_of_all() -> None:
    """Scores that are right inside every group and turn the groups' scales round."""
    coupling = small_gated().coupling
    truth, scores = np.zeros(coupling.count), np.zeros(coupling.count)
    for i, group in enumerate(coupling.groups):
        truth[group.units] = 100 * i + np.arange(len(group))
        scores[group.units] = -100 * i + np.arange(len(group))
    found = agree(scores, truth, coupling)
    assert found.overall.spearman < -0.5
    assert found.within.spearman == pytest.approx(1)
    assert found.within.kendall == pytest.approx(1)
    assert set(found.groups) == {g.name for g in coupling.groups}
    assert found.within.count == found.overall.count == coupling.count


def test_units_can_be_limited_and_the_others_are_not_read() -> None:
    coupling = small_gated().coupling
    rng = np.random.default_rng(0)
    scores, units = rng.random(coupling.count), np.array([0, 3, 7, 8, 12])
    truth = np.full(coupling.count, np.nan)
    truth[units] = scores[units]
    found = agree(scores, truth, coupling, units)
    assert found.overall.spearman == pytest.approx(1)
    assert found.overall.count == 5


def test_no_group_with_a_correlation_gives_no_mean() -> None:
    coupling = small_gated().coupling
    within = agree(np.ones(coupling.count), np.arange(coupling.count), coupling).within
    assert np.isnan(within.spearman)
    assert within.count == 0


def test_removal_order_is_stable() -> None:
    scores = np.array([2.0, 1.0, 1.0, 0.0])
    assert removal_order(scores).tolist() == [3, 1, 2, 0]
    assert removal_order(scores, np.array([2, 0, 1])).tolist() == [1, 2, 0]


@torch.no_grad()
@pytest.mark.parametrize("group", [None, 1])
def test_curves_are_those_of_networks_that_are_cut(group: int | None) -> None:
    gated, batches = small_gated(), small_batches()
    coupling, rng = gated.coupling, np.random.default_rng(0)
    scores = rng.random(coupling.count)
    units = None if group is None else coupling.groups[group].units
    curve = ablation(gated, scores, batches, group=group, points=5)
    order = removal_order(scores, units)
    assert curve.removed[0] == 0
    assert curve.removed[-1] == 1
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    for share, loss, accuracy in zip(curve.removed[:-2], curve.loss, curve.accuracy, strict=False):
        keep = coupling.all()
        keep[order[: round(share * len(order))]] = False
        if any(not keep[g.units].any() for g in coupling.groups):
            continue  # no network is left of an empty group; its gates still have a curve
        logits = operate(gated.network, coupling, keep).network.eval()(inputs)
        assert loss == pytest.approx(float(losses(logits, targets).mean()), rel=1e-4)
        assert accuracy == pytest.approx(float((logits.argmax(1) == targets).float().mean()))
    np.testing.assert_array_equal(gated.coupling.all(), True)


def test_areas_of_a_curve() -> None:
    curve = Curve(np.array([0.0, 0.25, 1.0]), np.array([1.0, 2.0, 8.0]), np.array([1.0, 0.5, 0.1]))
    assert curve.area == pytest.approx(0.25 * 0.75 + 0.75 * 0.3)
    at_half = 2 + 6 / 3
    assert curve.loss_area == pytest.approx((0.25 * 1.5 + 0.25 * (2 + at_half) / 2) / 0.5)


def test_the_order_of_the_oracle_loses_less_than_its_opposite() -> None:
    gated, batches = small_gated(), small_batches(4, 20)
    with torch.no_grad():  # classes that the network agrees with, so that there is something to lose
        batches = [(inputs, gated.network(inputs).argmax(1)) for inputs, _ in batches]
    truth = score(Oracle(), gated, batches).units
    assert truth is not None
    right, wrong = (ablation(gated, s, batches) for s in (truth, -truth))
    assert right.accuracy[0] == wrong.accuracy[0] == 1
    assert right.area > wrong.area + 0.1
    assert right.loss_area < wrong.loss_area
    each = layerwise(gated, truth, batches, points=4)
    assert list(each) == [g.name for g in gated.coupling.groups]
    assert all(curve.accuracy[0] == 1 for curve in each.values())


def test_more_points_than_units_are_as_many_as_there_are() -> None:
    gated = small_gated()
    scores = np.arange(gated.coupling.count, dtype=float)
    sizes = [len(g) for g in gated.coupling.groups]
    found = layerwise(gated, scores, small_batches(1), points=50)
    assert [len(curve.removed) for curve in found.values()] == [n + 1 for n in sizes]


def test_one_point_or_no_images_are_refused() -> None:
    gated = small_gated()
    scores = np.zeros(gated.coupling.count)
    with pytest.raises(ConfigError, match="two points"):
        ablation(gated, scores, small_batches(), points=1)
    with pytest.raises(ConfigError, match="images"):
        ablation(gated, scores, [])
