"""Expected improvement, alone and over budgets, against what it is defined as."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import norm

from predictors.acquisition import expected_improvement, improvement_over_budgets


def test_expected_improvement_is_the_mean_of_improvements() -> None:
    mean, std, level = np.array([0.0, 1.0, -2.0]), np.array([1.0, 0.1, 3.0]), 0.5
    draws = mean + std * np.random.default_rng(0).standard_normal((400_000, 3))
    expected = np.maximum(draws - level, 0).mean(0)
    assert expected_improvement(mean, std, level) == pytest.approx(expected, rel=0.02, abs=1e-4)


def test_by_hand() -> None:
    assert expected_improvement(np.array([0.0]), np.array([1.0]), 0.0) == pytest.approx(norm.pdf(0))
    assert expected_improvement(np.array([2.0]), np.array([0.0]), 0.5) == pytest.approx(1.5)


def test_without_costs_it_is_the_improvement_over_the_best_found() -> None:
    mean, std, found = np.array([0.0, 1.0]), np.array([1.0, 0.5]), np.array([-1.0, 0.3, 0.1])
    worth = improvement_over_budgets(mean, std, np.zeros((2, 0)), found, np.zeros((3, 0)), np.zeros((1, 0)))
    assert worth == pytest.approx(expected_improvement(mean, std, 0.3))


def area(points: list[tuple[float, float]], most: float) -> float:
    """Area below the best quality for each budget up to `most`, by its steps; quality and cost from 0."""
    ends = sorted({cost for _, cost in points} | {most})
    total = 0.0
    for left, right in itertools.pairwise(ends):
        total += (right - left) * max(quality for quality, cost in points if cost <= left)
    return total


def test_over_uniform_budgets_it_is_the_gain_of_hypervolume() -> None:
    found = [(0.2, 0.0), (0.5, 0.3), (0.8, 0.7)]
    candidates = [(0.6, 0.1), (0.4, 0.5), (0.9, 0.2), (1.0, 0.9)]
    budgets = np.linspace(0, 1, 20_001)[:, None]
    worth = improvement_over_budgets(
        np.array([q for q, _ in candidates]),
        np.zeros(len(candidates)),
        np.array([[c] for _, c in candidates]),
        np.array([q for q, _ in found]),
        np.array([[c] for _, c in found]),
        budgets,
    )
    gains = [area([*found, candidate], 1.0) - area(found, 1.0) for candidate in candidates]
    assert worth == pytest.approx(gains, abs=1e-3)
    assert gains[1] == 0  # dominated


def test_what_meets_no_budget_is_worth_nothing() -> None:
    worth = improvement_over_budgets(
        np.array([5.0]), np.array([1.0]), np.array([[2.0]]), np.array([0.0]), np.array([[0.5]]), np.array([[1.0]])
    )
    assert worth == pytest.approx([0.0])
