"""Gradient-boosted trees on graph features (LightGBM, Ke et al. 2017).

Trees of few leaves with random thresholds, several ensembles of them on different parts of the data: what these
disagree about is the ranking's uncertainty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import register_predictor
from .ranked import Ranking, RankPredictor, RankSettings
from .reading import Members

if TYPE_CHECKING:
    from lightgbm import Booster

_MANY = 5_000  # rows from which on threads pay


@dataclass(frozen=True)
class BoostingSettings(RankSettings):
    """Settings of `BoostingPredictor`.

    Attributes:
        members: ensembles of trees whose mean is predicted.
        trees: of each ensemble.
        leaves: of each tree, at most.
        smallest_leaf: members in a leaf, at least.
        learning_rate: weight of each tree.
        rows, columns: share of the data and of the features that a tree sees.
    """

    members: int = 3
    trees: int = 400
    leaves: int = 8
    smallest_leaf: int = 3
    learning_rate: float = 0.05
    rows: float = 0.8
    columns: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_positive("members", "trees", "leaves", "smallest_leaf", "learning_rate", "rows", "columns")


@register_predictor("boosting")
class BoostingPredictor(RankPredictor):
    """Boosted regression trees of transformed scores on graph features and further inputs."""

    Settings = BoostingSettings
    settings: BoostingSettings
    _boosters: list[Booster]

    def learn(self, seen: Members, target: np.ndarray, folds: np.ndarray) -> np.ndarray:
        inputs = seen.features
        self._boosters = [self._boost(inputs, target, i) for i in range(self.settings.members)]
        if (folds < 0).any():
            return self.rank(seen)[0]
        unseen = np.empty(len(seen))
        for fold in np.unique(folds):
            out = folds == fold
            unseen[out] = self._boost(inputs[~out], target[~out], 0).predict(inputs[out])
        return unseen

    def _boost(self, inputs: np.ndarray, target: np.ndarray, member: int) -> Booster:
        import lightgbm

        s = self.settings
        parameters = {
            "num_leaves": s.leaves,
            "min_data_in_leaf": s.smallest_leaf,
            "min_data_in_bin": 1,
            "learning_rate": s.learning_rate,
            "bagging_fraction": s.rows,
            "bagging_freq": 1,
            "feature_fraction": s.columns,
            "extra_trees": True,
            "lambda_l2": 1.0,
            "seed": s.seed + member,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": _threads(len(inputs)),
            "verbosity": -1,
        }
        return lightgbm.train(parameters, lightgbm.Dataset(inputs, target), s.trees)

    def rank(self, members: Members) -> Ranking:
        inputs = members.features
        told = np.stack([booster.predict(inputs, num_threads=_threads(len(inputs))) for booster in self._boosters])
        return told.mean(0), told.std(0)

    def learned(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        texts = [booster.model_to_string(num_iteration=-1) for booster in self._boosters]
        tensors = {f"trees.{i}": np.frombuffer(text.encode(), dtype=np.uint8) for i, text in enumerate(texts)}
        return tensors, {}

    def recall(self, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        import lightgbm

        texts = [tensors[f"trees.{i}"].tobytes().decode() for i in range(self.settings.members)]
        try:
            self._boosters = [lightgbm.Booster(model_str=text) for text in texts]
        except lightgbm.basic.LightGBMError as e:
            raise ValueError(str(e)) from None


def _threads(rows: int) -> int:
    """As many as torch uses, which workers that share a machine set; one for few rows.

    Threads that wait for each other's few rows do so at work: beside other processes that takes minutes for seconds.
    """
    import torch

    return torch.get_num_threads() if rows >= _MANY else 1
