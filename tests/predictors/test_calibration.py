"""The map from ranking scores to scores: increasing, in the right unit, with the right error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.calibration import Calibration


def test_a_line_is_found() -> None:
    ranking = np.linspace(-2, 2, 200)
    calibration = Calibration.fit(ranking, 70 + 5 * ranking)
    assert calibration(np.array([-3.0, 0.0, 3.0])) == pytest.approx([55, 70, 85], abs=0.3)
    assert (calibration.error(ranking) < 0.2).all()


def test_error_follows_the_scatter() -> None:
    rng = np.random.default_rng(0)
    ranking = np.sort(rng.normal(size=2000))
    scatter = np.where(ranking < 0, 4.0, 0.5)
    calibration = Calibration.fit(ranking, 80 + ranking + scatter * rng.normal(size=2000))
    assert calibration.error(np.array([-1.5, 1.5])) == pytest.approx([4, 0.5], rel=0.25)


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(0, 100)), min_size=2, max_size=60))
def test_order_is_kept(pairs: list[tuple[float, float]]) -> None:
    ranking, scores = np.array(pairs).T
    calibration = Calibration.fit(ranking, scores)
    asked = np.linspace(-4, 4, 41) * (ranking.std() + 1e-12) + ranking.mean()
    mapped = calibration(asked)
    assert np.isfinite(mapped).all()
    assert (np.diff(mapped) >= 0).all()
    if ranking.std() > 1e-3 and scores.std() > 1e-3:
        assert (np.diff(mapped) > 0).all()
    assert (calibration.error(asked) > 0).all()


def test_a_ranking_that_is_wrong_promises_nothing() -> None:
    rng = np.random.default_rng(0)
    ranking = rng.normal(size=300)
    calibration = Calibration.fit(ranking, 50 - 10 * ranking)
    assert calibration(ranking).std() < 1
    assert (calibration.error(np.array([-1.5, 1.5])) > 10).all()


def test_state_round_trip() -> None:
    rng = np.random.default_rng(0)
    calibration = Calibration.fit(rng.normal(size=50), rng.normal(size=50))
    again = Calibration.restore(calibration.state())
    assert (again.knots == calibration.knots).all()
    assert (again.errors == calibration.errors).all()
