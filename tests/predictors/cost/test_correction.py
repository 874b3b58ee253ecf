"""The line from sums of units to networks."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.cost import Correction
from predictors.cost.correction import fit_correction, leave_one_out

SUMS = np.array([1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0])


def test_an_affine_law_is_found_despite_an_outlier() -> None:
    times = 0.3 + 1.2 * SUMS
    times[3] *= 2
    correction, error = fit_correction(SUMS, times)
    assert correction.offset_ms == pytest.approx(0.3, abs=0.02)
    assert correction.scale == pytest.approx(1.2, rel=0.02)
    assert error is not None
    assert error.median_ape < 0.01
    assert error.largest_ape > 0.4
    assert error.networks == 8


def test_leaving_one_out_by_hand() -> None:
    sums, times = np.array([1.0, 2.0, 4.0]), np.array([2.0, 4.0, 16.0])
    # ratios 2, 2, 4: without the first the median is 3, without the second 3, without the third 2
    assert leave_one_out(Correction.proportional, sums, times).tolist() == [3.0, 6.0, 8.0]
    _, error = fit_correction(sums, times)
    assert error is not None
    assert error.median_ape == pytest.approx(0.5)
    assert error.uncorrected_ape == pytest.approx(0.5)
    assert error.spearman == pytest.approx(1.0)


def test_the_line_is_never_below_zero_nor_falling() -> None:
    below = Correction.affine(SUMS, 2 * SUMS - 0.9)
    assert below.offset_ms == 0
    falling = Correction.affine(SUMS, 8 - SUMS)
    assert falling.offset_ms == 0
    assert falling.scale > 0


def test_few_networks_give_what_they_can() -> None:
    assert fit_correction(np.zeros(0), np.zeros(0)) == (Correction(), None)
    one, error = fit_correction(np.array([2.0]), np.array([3.0]))
    assert (one, error) == (Correction(0.0, 1.5), None)
    equal, _ = fit_correction(np.full(5, 2.0), np.full(5, 3.0))
    assert equal == Correction(0.0, 1.5)


def test_sums_that_are_right_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    times = SUMS * np.exp(0.02 * rng.standard_normal(8))
    times[0] *= 3
    correction, error = fit_correction(SUMS, times)
    assert correction.scale == pytest.approx(1.0, abs=0.02)
    assert correction.offset_ms < 0.05
    assert error is not None
    assert error.median_ape <= error.uncorrected_ape
