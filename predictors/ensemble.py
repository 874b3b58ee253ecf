"""Several predictors as one, each weighted by how well it ranks members it has not seen.

A network on graphs, a Gaussian process and trees err in different ways, so their mean ranks better than the best of
them; which of them suits a space shows on held-out folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from search_spaces.errors import ConfigError

from .base import make_predictor, register_predictor
from .ranked import Ranking, RankPredictor, RankSettings
from .ranking import kendall_tau
from .reading import Members, Reader

_SHARPNESS = 16


@dataclass(frozen=True)
class EnsembleSettings(RankSettings):
    """Settings of `EnsemblePredictor`.

    Attributes:
        members: names of predictors that learn to rank (`RankPredictor`).
        settings: of the members, by name, where they are not the defaults.
    """

    members: tuple[str, ...] = ("gcn", "gp", "boosting", "ridge")
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "members", tuple(self.members))
        if not self.members or len(set(self.members)) != len(self.members) or "ensemble" in self.members:
            raise ConfigError(f"an ensemble needs members, each once and none of them 'ensemble'; got {self.members}")
        if unknown := set(self.settings) - set(self.members):
            raise ConfigError(f"settings for {sorted(unknown)}, but the ensemble has members {list(self.members)}")


@register_predictor("ensemble")
class EnsemblePredictor(RankPredictor):
    """Several predictors as one: the mean of their rankings, weighted by how they rank what was held out.

    A member whose held-out Kendall tau is t weighs `(t / best t)^16`, none if t is negative; all the same where no
    member ranks at all. Only the ratio counts, as noise in the scores makes all t small. The uncertainty joins the
    members' own with their disagreement.

    Attributes:
        weights: of the members, by name; they add up to 1.
    """

    Settings = EnsembleSettings
    settings: EnsembleSettings
    _parts: dict[str, RankPredictor]
    _scales: np.ndarray
    weights: dict[str, float]

    def read_with(self, reader: Reader) -> None:
        self.reader = reader
        self._parts = {}
        for name in self.settings.members:
            own = {"seed": self.settings.seed, **self.settings.settings.get(name, {})}
            part = make_predictor(name, self.space, **own)
            if not isinstance(part, RankPredictor):
                raise ConfigError(f"predictor {name!r} cannot be part of an ensemble, as it gives no ranking")
            part.read_with(reader)
            self._parts[name] = part

    def learn(self, seen: Members, target: np.ndarray, folds: np.ndarray) -> np.ndarray:
        unseen = np.stack([part.learn(seen, target, folds) for part in self._parts.values()])
        self._scales = np.stack([unseen.mean(1), unseen.std(1) + 1e-9])
        told = np.maximum([kendall_tau(target, ranking) for ranking in unseen], 0)
        weights = (told / told.max()) ** _SHARPNESS if told.any() else np.ones(len(told))
        self.weights = dict(zip(self._parts, (weights / weights.sum()).tolist(), strict=True))
        return self._mean(self._standard(unseen))

    def _standard(self, rankings: np.ndarray) -> np.ndarray:
        """Rankings `(M, B)` with mean 0 and deviation 1 over the members that were held out."""
        return (rankings - self._scales[0][:, None]) / self._scales[1][:, None]

    def _mean(self, values: np.ndarray) -> np.ndarray:
        return np.array(list(self.weights.values())) @ values

    def rank(self, members: Members) -> Ranking:
        told = [part.rank(members) for part in self._parts.values()]
        rankings = self._standard(np.stack([centre for centre, _ in told]))
        own = np.stack([deviation for _, deviation in told]) / self._scales[1][:, None]
        centre = self._mean(rankings)
        return centre, np.sqrt(self._mean(own**2 + (rankings - centre) ** 2))

    def learned(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        tensors, facts = {"scales": self._scales}, {}
        for name, part in self._parts.items():
            own, facts[name] = part.learned()
            tensors.update({f"{name}/{key}": tensor for key, tensor in own.items()})
        return tensors, {"parts": facts, "weights": self.weights}

    def recall(self, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        self._scales, self.weights = tensors["scales"], dict(facts["weights"])
        for name, part in self._parts.items():
            start = f"{name}/"
            part.recall(
                {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}, facts["parts"][name]
            )
