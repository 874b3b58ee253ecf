"""Rank statistics against cases worked by hand and against counting pairs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors import bootstrap_interval, kendall_tau, spearman, top_k_precision, top_k_regret, trust
from predictors.ranking import FEW, Trust
from search_spaces.errors import DataError

TRUE = [1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("predicted", "tau", "rho"),
    [
        ([1, 2, 3, 4, 5], 1.0, 1.0),
        ([5, 4, 3, 2, 1], -1.0, -1.0),
        ([2, 1, 3, 4, 5], 0.8, 0.9),  # one of ten pairs the wrong way round
        ([7, 7, 7, 7, 7], 0.0, 0.0),
    ],
)
def test_correlations_by_hand(predicted: list[float], tau: float, rho: float) -> None:
    assert kendall_tau(TRUE, predicted) == pytest.approx(tau)
    assert spearman(TRUE, predicted) == pytest.approx(rho)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_tau_counts_pairs(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, dtype=float).T
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in combinations(range(len(a)), 2)]
    different = [sum(s[side] != 0 for s in signs) for side in (0, 1)]
    expected = sum(x * y for x, y in signs) / np.sqrt(different[0] * different[1]) if all(different) else 0.0
    assert kendall_tau(a, b) == pytest.approx(expected, abs=1e-12)


def test_top_k_by_hand() -> None:
    predicted = [9, 1, 2, 8, 7]  # predicted best: the first and the fourth
    assert top_k_precision(TRUE, predicted, 2) == 0.5
    assert top_k_precision(TRUE, predicted, 5) == 1.0
    assert top_k_regret(TRUE, predicted, 1) == 4.0
    assert top_k_regret(TRUE, predicted, 2) == 1.0
    assert top_k_regret(TRUE, predicted, 3) == 0.0


@pytest.mark.parametrize(
    ("true", "predicted", "words"),
    [([1, 2], [1], "shapes"), ([], [], "non-empty"), ([1, float("nan")], [1, 2], "not finite")],
)
def test_bad_scores_are_refused(true: list[float], predicted: list[float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        kendall_tau(true, predicted)


def test_a_top_beyond_the_list_is_refused() -> None:
    with pytest.raises(DataError, match="1 to 5"):
        top_k_regret(TRUE, TRUE, 6)


def test_interval_holds_the_statistic_and_narrows() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for n in (30, 300):
        true = rng.normal(size=n)
        predicted = true + rng.normal(size=n)
        low, high = bootstrap_interval(true, predicted, np.random.default_rng(1))
        assert low < kendall_tau(true, predicted) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
    assert bootstrap_interval(true, predicted, np.random.default_rng(1)) == (low, high)


def test_interval_of_another_statistic() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=50)
    low, high = bootstrap_interval(true, true, rng, statistic=lambda a, b: float(np.abs(a - b).max()), samples=100)
    assert low == high == 0


def judged(n: int, noise: float) -> Trust:
    rng = np.random.default_rng(0)
    true = rng.normal(size=n)
    return trust(true, true + noise * rng.normal(size=n), rng=rng)


@pytest.mark.parametrize(
    ("n", "noise", "words", "low_trust"),
    [
        (200, 0.1, "ranks strongly", False),
        (200, 0.6, "usable", False),
        (200, 1.3, "weak, take care", True),
        (400, 3.0, "not to be trusted", True),
        (200, 1e3, "may be chance", True),
        (FEW - 1, 0.1, "too few", True),
    ],
)
def test_verdicts(n: int, noise: float, words: str, low_trust: bool) -> None:
    verdict = judged(n, noise)
    assert words in verdict.words
    assert verdict.low_trust == low_trust
    assert verdict.low <= verdict.tau <= verdict.high
    assert verdict.n == n


def test_verdict_needs_no_generator() -> None:
    assert trust(TRUE, TRUE) == trust(TRUE, TRUE)
