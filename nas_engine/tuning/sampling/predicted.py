"""A sampler that proposes from the lookup table: Thompson draws of accuracy, traded against costs by random weights.

Every row's accuracy is drawn from its predicted mean and deviation, so that a row is proposed as often as it may
be the best; a weight drawn for each trial walks the proposals along the whole Pareto front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from optuna.samplers import BaseSampler

from predictors.table import LookupTable, pareto
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import ConfigError

from ...config import Bound
from .base import SamplerSettings, SpaceSampler, Told, samplers, where

_AUGMENTATION = 0.05  # rho of Knowles 2006, so that among equal worst losses the sum decides


@dataclass(frozen=True)
class _Rows:
    """The rows of a table that satisfy the bounds and lack nothing.

    Shapes:
        codes: `(n,)`, sorted; accuracy, std: `(n,)`; costs: `(n, k)` in the order of the objectives that are costs.
    """

    codes: np.ndarray
    accuracy: np.ndarray
    std: np.ndarray
    costs: np.ndarray

    @classmethod
    def read(cls, table: LookupTable, costs: Sequence[str], bounds: Sequence[Bound]) -> _Rows:
        frame = table.query(where(bounds), columns=["code", "accuracy", "accuracy_std", *costs]).dropna()
        codes = frame["code"].to_numpy().astype("S")
        order = np.argsort(codes)
        return cls(
            codes[order],
            frame["accuracy"].to_numpy(dtype=float)[order],
            frame["accuracy_std"].to_numpy(dtype=float)[order],
            frame[list(costs)].to_numpy(dtype=float)[order].reshape(len(order), len(costs)),
        )

    def find(self, code: str) -> int | None:
        """The row of an architecture."""
        place = int(np.searchsorted(self.codes, code.encode()))
        return place if place < len(self.codes) and self.codes[place] == code.encode() else None


class PredictedSampler(SpaceSampler):
    """Proposes rows of a lookup table by Thompson sampling (Thompson 1933) and augmented Chebyshev scalarisation.

    For trial t, with a generator seeded by (seed, t): accuracies a_i ~ N(mean_i, s_i^2), where s_i is the predicted
    deviation but at most the median one on the predicted Pareto front (that of bad networks is large, yet not because
    they may be the best); weights w uniform on the simplex; losses l_ij scaled to 0 (best) to 1 (worst) over that
    front. The row proposed minimises `max_j w_j l_ij + rho sum_j w_j l_ij` (ParEGO, Knowles 2006, eq. 2), rows proposed
    before left out. With accuracy as the only objective that is the row of highest draw. Once every row was proposed it
    draws at random.

    >>> study = optuna.create_study(sampler=PredictedSampler(space, "table.parquet"))  # doctest: +SKIP
    >>> trial = study.ask(distributions(space))  # doctest: +SKIP

    Args:
        space: whose choices are the study's parameters.
        table: the lookup table, or its path.
        objectives: metrics to `max` or `min`: `accuracy`, and costs of the table.
        bounds: on costs; only rows that satisfy them are proposed. One on accuracy is not applied to predictions.
        seed: with the number of a trial, decides its draw.
    """

    def __init__(
        self,
        space: SearchSpace,
        table: LookupTable | Path | str,
        *,
        objectives: Mapping[str, str] | None = None,
        bounds: Sequence[Bound] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(space, seed=seed)
        self._table = table
        self._objectives = dict(objectives or {"accuracy": "max"})
        self._bounds = tuple(bounds)

    @cached_property
    def _rows(self) -> _Rows:
        table = self._table if isinstance(self._table, LookupTable) else LookupTable.open(Path(self._table))
        return _Rows.read(table, self._cost_names, self._bounds)

    @property
    def _cost_names(self) -> list[str]:
        return [name for name in self._objectives if name != "accuracy"]

    @cached_property
    def _front(self) -> np.ndarray:
        """Rows of the predicted Pareto front."""
        return pareto(self._losses(self._rows.accuracy))

    @cached_property
    def _std(self) -> np.ndarray:
        """Deviations that accuracies are drawn with, `(n,)`."""
        return np.minimum(self._rows.std, np.median(self._rows.std[self._front]))

    @cached_property
    def _scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Losses of the ideal and of the nadir point of the predicted front, each `(1 + k,)`."""
        front = self._losses(self._rows.accuracy)[self._front]
        return front.min(axis=0), front.max(axis=0)

    def _losses(self, accuracy: np.ndarray) -> np.ndarray:
        """Objectives to be minimised, `(n, 1 + k)`."""
        return np.column_stack([-accuracy, self._rows.costs])

    def propose(self, told: Told, rng: np.random.Generator) -> Architecture | None:
        """The row that comes best out of a draw, of those that were not proposed yet."""
        rows = self._rows
        places = (rows.find(code) for code in told.proposed)
        proposed = [place for place in places if place is not None]
        if len(proposed) >= len(rows.codes):
            return None
        drawn = rows.accuracy + self._std * rng.standard_normal(len(rows.codes))
        score = self._scalarised(drawn, rng)
        score[proposed] = np.inf
        return self.space.decode(rows.codes[score.argmin()].decode())

    def _scalarised(self, accuracy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        losses = self._losses(accuracy)
        if losses.shape[1] == 1:
            return losses[:, 0]
        ideal, nadir = self._scale
        weighted = rng.dirichlet(np.ones(losses.shape[1])) * (losses - ideal) / np.maximum(nadir - ideal, 1e-12)
        return np.asarray(weighted.max(axis=1) + _AUGMENTATION * weighted.sum(axis=1))


@samplers.register("predicted")
def _predicted(settings: SamplerSettings) -> BaseSampler:
    """The run's lookup table: Thompson draws of predicted accuracy under the bounds, a random trade-off a trial."""
    if settings.table is None:
        others = ", ".join(n for n in samplers if n != "predicted")
        raise ConfigError(f"sampler 'predicted' needs the lookup table of the run; without one choose among: {others}")
    return PredictedSampler(
        settings.space,
        settings.table,
        objectives=settings.objectives,
        bounds=settings.bounds,
        seed=settings.seed,
    )
