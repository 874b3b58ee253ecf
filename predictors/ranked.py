"""What all predictors that learn to rank share: encoding, held-out folds, calibration, uncertainty, what is stored.

A subclass learns transformed scores of encoded members and gives a ranking, on a scale of its own, with its own
uncertainty. Members held out of learning show what a ranking is worth in the unit of the scores, and how far it can be
trusted.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from search_spaces.errors import ConfigError
from search_spaces.graph import Graph

from .base import Predictor, Seeded
from .calibration import Calibration
from .ranking import trust
from .reading import Members, Reader

if TYPE_CHECKING:
    from search_spaces.space import Architecture

Ranking = tuple[np.ndarray, np.ndarray]
"""Ranking scores and their standard deviations, both float64 `(B,)`; higher is better, the scale is the predictor's."""

_READ_AT_ONCE = 4096
_PROBES = 256
_LEAST_NOISE = 0.25


@dataclass(frozen=True)
class RankSettings(Seeded):
    """Settings of every `RankPredictor`.

    Attributes:
        folds: parts of the data, each held out once, which show what a ranking is worth.
    """

    folds: int = 5

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ConfigError(f"a predictor needs 2 folds or more, so that some are held out; got folds={self.folds}")

    def need_positive(self, *names: str) -> None:
        """Raise `ConfigError` where one of these settings is not above 0."""
        for name in names:
            if not getattr(self, name) > 0:
                raise ConfigError(f"a predictor needs {name} > 0; got {getattr(self, name)!r}")


class RankPredictor(Predictor):
    """A predictor that learns an order; scores, uncertainty and storage are dealt with here.

    Scores are learned as logarithms of their distance from an unreachable best, so neither their unit nor failed
    networks at chance matter. The standard deviation joins what `rank` tells of its own uncertainty with the error on
    held-out folds; on average over the space it is that error.

    A subclass implements `learn`, `rank`, `learned` and `recall`.
    """

    Settings: ClassVar[type[Seeded]] = RankSettings
    settings: RankSettings
    reader: Reader
    _calibration: Calibration
    _noise: float
    _extra_scale: np.ndarray

    # ---- what a subclass implements ----------------------------------------------------------------------

    @abstractmethod
    def learn(self, seen: Members, target: np.ndarray, folds: np.ndarray) -> np.ndarray:
        """Learn from members and their transformed scores `(n,)`, see `targets_of`.

        Args:
            folds: number of the fold of each member, int64 `(n,)`; -1 where nothing can be held out.

        Returns:
            ranking scores `(n,)` of each member by a model that has not seen its fold, on the scale of `rank`.
        """

    @abstractmethod
    def rank(self, members: Members) -> Ranking:
        """Ranking scores of any members, with their standard deviations."""

    @abstractmethod
    def learned(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What `learn` found: tensors, and facts that JSON can hold."""

    @abstractmethod
    def recall(self, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Inverse of `learned`."""

    def read_with(self, reader: Reader) -> None:
        """Called before `learn` and `recall`, for subclasses that build on the reader."""
        self.reader = reader

    # ---- the contract of predictors ----------------------------------------------------------------------

    def _fit(
        self, architectures: Sequence[Architecture], scores: np.ndarray, groups: np.ndarray, extra: np.ndarray
    ) -> None:
        rng = np.random.default_rng(self.settings.seed)
        self.read_with(Reader.of(self.space))
        self._extra_scale = np.stack([extra.mean(0), extra.std(0) + 1e-9])
        seen = self.reader.read(architectures, extra=self._standardised(extra))
        folds = folds_of(groups, self.settings.folds, rng)
        unseen = self.learn(seen, targets_of(scores), folds)
        self.held_out = trust(scores, unseen, rng=rng) if (folds >= 0).all() else None
        self._calibration = Calibration.fit(unseen, scores)
        self._noise = self._unexplained(seen, rng)

    def _unexplained(self, seen: Members, rng: np.random.Generator) -> float:
        """Share of the held-out error's variance that the ranking's own uncertainty over the space does not cover."""
        if self.extras:  # of members that were not given, further inputs are not known
            probes = seen
        else:
            drawn = [self.space.sample(rng) for _ in range(_PROBES)]
            probes = self.reader.read(drawn)
        centre, deviation = self.rank(probes)
        known = self._spread(centre, deviation) / self._calibration.error(centre)
        return max(_LEAST_NOISE, 1 - float(np.mean(known**2)))

    def _predict(
        self, architectures: Sequence[Architecture], sketches: Sequence[Graph] | None, extra: np.ndarray
    ) -> Ranking:
        distinct = None if self.extras else self.reader.distinct(architectures)
        if distinct is None:
            return self._scores(self._read(architectures, sketches, extra))
        rows, inverse = distinct
        mean, std = self._scores(self.reader.known(part) for part in _parts(rows))
        return mean[inverse], std[inverse]

    def _scores(self, parts: Iterable[Members]) -> Ranking:
        """Expected scores and their deviations."""
        centre, deviation = (np.concatenate(told) for told in zip(*map(self.rank, parts), strict=True))
        own, error = self._spread(centre, deviation), self._calibration.error(centre)
        return self._calibration(centre), np.sqrt(own**2 + self._noise * error**2)

    def _read(
        self, architectures: Sequence[Architecture], sketches: Sequence[Graph] | None, extra: np.ndarray
    ) -> Iterator[Members]:
        inputs = self._standardised(extra)
        for which in _parts(np.arange(len(architectures))):
            part = slice(which[0], which[-1] + 1)
            yield self.reader.read(architectures[part], None if sketches is None else sketches[part], inputs[part])

    def _spread(self, centre: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        """The ranking's own uncertainty in the unit of the scores."""
        return (self._calibration(centre + deviation) - self._calibration(centre - deviation)) / 2

    def _standardised(self, extra: np.ndarray) -> np.ndarray:
        mean, scale = self._extra_scale
        return ((extra - mean) / scale).clip(-8, 8)

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        tensors, facts = self.learned()
        kept = {**tensors, **self._calibration.state(), "extra_scale": self._extra_scale}
        return kept, {**facts, "reader": self.reader.facts, "noise": self._noise}

    def _restore(self, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        self.read_with(Reader.of(self.space, facts["reader"]))
        self._calibration = Calibration.restore(tensors)
        self._extra_scale = tensors["extra_scale"]
        self._noise = float(facts["noise"])
        own = set(self._calibration.state()) | {"extra_scale"}
        self.recall({k: v for k, v in tensors.items() if k not in own}, facts)


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return np.array_split(rows, max(1, -(-len(rows) // _READ_AT_ONCE)))


def folds_of(groups: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """A fold number each, int64 `(n,)`; groups stay whole and folds about equal. -1 where there is one group only."""
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) < 2:
        return np.full(len(groups), -1)
    filled = np.zeros(min(count, len(names)), dtype=np.int64)
    fold_of = np.zeros(len(names), dtype=np.int64)
    shuffled = rng.permutation(len(names))
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    return fold_of[np.searchsorted(names, groups)]


def targets_of(scores: np.ndarray) -> np.ndarray:
    """What is learned instead of scores: `-log(c - score)`, standardised, with c half a quartile range above the best.

    Near the best small differences count, as between errors of 5 and 6 %, while networks at chance lie no further off
    than they must; and the unit of the scores does not matter.
    """
    low, high = np.quantile(scores, [0.25, 0.75])
    beyond = (high - low) / 2 or scores.std() or 1.0
    logarithms = -np.log(scores.max() + beyond - scores)
    return np.asarray((logarithms - logarithms.mean()) / (logarithms.std() or 1.0))
