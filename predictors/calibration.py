"""From a ranking score to the unit of the scores it was learned from.

A network trained on pairs orders architectures on a scale of its own. Members it did not learn from show what a value
on that scale is worth: binned, made monotone, and interpolated, so that the order stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np

_IN_A_BIN, _BINS = 8, 40
_REACH = 20.0  # how far beyond the bins straight lines go on, in standard deviations of the ranking score
_FLATTEST = 1e-3  # slope of the map where the data show none, relative to the spreads of both sides


@dataclass(frozen=True)
class Calibration:
    """A strictly increasing map to scores, and the error it leaves.

    Shapes: B bins.

    Attributes:
        knots: `(2, B + 2)`, ranking scores and what they map to; linear between.
        errors: `(2, B)`, ranking scores and the root of the mean squared error about them.
    """

    knots: np.ndarray
    errors: np.ndarray

    @classmethod
    def fit(cls, ranking: np.ndarray, scores: np.ndarray) -> Self:
        """Fit to members that were not learned from; both `(n,)`, n >= 2."""
        order = np.argsort(ranking, kind="stable")
        bins = np.array_split(order, int(np.clip(len(order) // _IN_A_BIN, 2, _BINS)))
        centres = np.array([ranking[b].mean() for b in bins])
        knots = _knots(
            centres, np.array([scores[b].mean() for b in bins]), np.array([len(b) for b in bins]), ranking, scores
        )
        squares = (scores - np.interp(ranking, *knots)) ** 2
        near = [np.concatenate(bins[max(0, i - 1) : i + 2]) for i in range(len(bins))]
        floor = _FLATTEST * (scores.std() + 1e-12)
        return cls(knots, np.stack([centres, np.maximum([np.sqrt(squares[b].mean()) for b in near], floor)]))

    def __call__(self, ranking: np.ndarray) -> np.ndarray:
        """Scores of ranking scores, any shape."""
        return np.interp(ranking, *self.knots)

    def error(self, ranking: np.ndarray) -> np.ndarray:
        """Root mean squared error to be expected, in the unit of the scores."""
        return np.interp(ranking, *self.errors)

    def state(self) -> dict[str, np.ndarray]:
        return {"calibration.knots": self.knots, "calibration.errors": self.errors}

    @classmethod
    def restore(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """Inverse of `state`."""
        return cls(tensors["calibration.knots"], tensors["calibration.errors"])


def _knots(
    centres: np.ndarray, means: np.ndarray, counts: np.ndarray, ranking: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """Monotone knots through binned means (pooled adjacent violators), with straight lines at both ends."""
    from scipy.optimize import isotonic_regression

    blocks = isotonic_regression(means, weights=counts).blocks
    pooled = [slice(a, b) for a, b in pairwise(blocks)]
    x = np.array([np.average(centres[s], weights=counts[s]) for s in pooled])
    y = np.array([np.average(means[s], weights=counts[s]) for s in pooled])
    spread = ranking.std() + 1e-12
    flattest = _FLATTEST * (scores.std() + 1e-12) / spread
    steepest = max(flattest, float(np.cov(ranking, scores)[0, 1]) / spread**2)
    slopes = (
        np.clip(np.diff(y) / np.maximum(np.diff(x), 1e-12), flattest, steepest) if len(x) > 1 else np.array([flattest])
    )
    far = _REACH * spread
    x = np.concatenate([[x[0] - far], x, [x[-1] + far]])
    return np.stack([x, np.concatenate([[y[0] - far * slopes[0]], y, [y[-1] + far * slopes[-1]]])])
