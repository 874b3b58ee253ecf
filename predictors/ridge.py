"""Ridge regression on graph features: the baseline that any other predictor has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .base import register_predictor
from .ranked import Ranking, RankPredictor
from .reading import Members

_PENALTIES = np.logspace(-1, 5, 25)


@register_predictor("ridge")
class RidgePredictor(RankPredictor):
    """Linear regression of transformed scores on graph features and further inputs (Hoerl and Kennard 1970).

    The penalty is chosen by the error of each member when left out. The ranking tells no uncertainty of its own.
    """

    _weights: np.ndarray

    def learn(self, seen: Members, target: np.ndarray, folds: np.ndarray) -> np.ndarray:
        inputs = seen.features
        self._weights = _ridge(inputs, target)
        unseen = _linear(inputs, self._weights)
        for fold in np.unique(folds[folds >= 0]):
            out = folds == fold
            unseen[out] = _linear(inputs[out], _ridge(inputs[~out], target[~out]))
        return unseen

    def rank(self, members: Members) -> Ranking:
        return _linear(members.features, self._weights), np.zeros(len(members))

    def learned(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {"weights": self._weights}, {}

    def recall(self, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        self._weights = tensors["weights"]


def _ridge(inputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """A weight for each input, then the constant; `(F + 1,)`."""
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(_PENALTIES).fit(inputs, target)
    return np.append(model.coef_, model.intercept_)


def _linear(inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(inputs @ weights[:-1] + weights[-1])
