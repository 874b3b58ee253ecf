"""Members that a sampler chooses among: the whole of a small space, or a fresh pool for each trial of a large one.

Bounds on costs hold for every member of a pool, known from the lookup table where there is one: what cannot be used is
never looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from predictors.reading import Members, Reader
from predictors.table import LookupTable, pareto
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import ConfigError

from ...config import Bound
from .base import Costs, Limits, Prior, Told, where

_DRAWN, _MUTATED, _TRIES = 300, 300, 4
_ELITE = 16
_MOST_CHANGES = 3
_LARGE = 10_000


@dataclass(frozen=True)
class Pool:
    """Members that may be proposed.

    Attributes:
        members: as predictors see them.
        costs: of them, in the order of the objectives that are costs, float `(n, k)`.
    """

    members: Members
    costs: np.ndarray

    @cached_property
    def codes(self) -> np.ndarray:
        """Codes of the members, `(n,)`."""
        return np.array([a.code for a in self.members.architectures], dtype=str)

    def open(self, proposed: set[str]) -> np.ndarray:
        """Which members were not proposed yet, bool `(n,)`."""
        return ~np.isin(self.codes, list(proposed))


class Pools:
    """The pools of one search.

    Args:
        names: costs that are objectives.
        bounds: on costs; those on accuracy are left aside.
        costs: of a member. Needed for `names`, and for bounds, where a small space has no table that tells them.
        table: the lookup table, None where there is none.
        prior: predicted accuracies, which are read beside the members.

    Raises:
        ConfigError: costs are asked for that nothing tells.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        names: Sequence[str] = (),
        bounds: Sequence[Bound] = (),
        costs: Costs | None = None,
        table: Path | None = None,
        prior: Prior | None = None,
    ) -> None:
        needed = {*names, *(b.metric for b in bounds if b.metric != "accuracy")}
        if needed and costs is None:
            raise ConfigError(
                f"the sampler is to mind {', '.join(sorted(needed))}; give it costs=, a function of members"
            )
        self.space, self._names, self._bounds, self._table, self._prior = space, list(names), list(bounds), table, prior
        self._costs = costs
        self._limits = Limits(bounds, costs)
        self._reader = Reader.of(space)
        self._predicted: dict[str, float] = {}

    @property
    def whole_and_large(self) -> bool:
        """Whether each trial looks at the same many members, so that it pays to keep what is believed of them."""
        return self._reader.whole and self.space.distinct > _LARGE

    def of(self, told: Told, rng: np.random.Generator) -> Pool:
        """The members to choose among for one trial."""
        return self._whole if self._reader.whole else self._fresh(told, rng)

    def read(self, architectures: Sequence[Architecture]) -> Members:
        """Members as predictors see them, with what was predicted of them."""
        return self._reader.read(architectures, extra=self._inputs(architectures))

    def costs_of(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Costs that are objectives, `(n, k)`."""
        if not self._names or self._costs is None:
            return np.zeros((len(architectures), 0))
        told = [self._costs(a) for a in architectures]
        return np.array([[costs[name] for name in self._names] for costs in told], dtype=float)

    # ---- a small space -----------------------------------------------------------------------------------

    @cached_property
    def _whole(self) -> Pool:
        members = self._reader.everything().architectures
        if self._table is None:
            allowed = [a for a in members if self._limits.allow(a)]
            return Pool(self.read(allowed), self.costs_of(allowed))
        frame = LookupTable.open(self._table).query(where(self._bounds), columns=["code", *self._names]).dropna()
        rows = {code: i for i, code in enumerate(frame["code"])}
        allowed = [a for a in members if a.code in rows]
        costs = frame[self._names].to_numpy(dtype=float).reshape(len(frame), len(self._names))
        return Pool(self.read(allowed), costs[[rows[a.code] for a in allowed]])

    # ---- a large one -------------------------------------------------------------------------------------

    def _fresh(self, told: Told, rng: np.random.Generator) -> Pool:
        """Random members beside mutations of the best."""
        found = {a.code: a for a in (*self._drawn(rng), *self._mutations(told, rng))}
        allowed = [a for a in found.values() if self._limits.allow(a)]
        return Pool(self.read(allowed), self.costs_of(allowed))

    def _drawn(self, rng: np.random.Generator) -> list[Architecture]:
        """Random rows of the table, or random members that meet the bounds."""
        if self._table is not None:
            rows = self._rows
            codes = rows[rng.integers(len(rows), size=_DRAWN)].tolist() if len(rows) else []
            return [self.space.canonical(self.space.decode(code)) for code in codes]
        found: list[Architecture] = []
        for _ in range(_TRIES * _DRAWN):
            member = self.space.canonical(self.space.sample(rng))
            if self._limits.allow(member):
                found.append(member)
            if len(found) == _DRAWN:
                break
        return found

    @cached_property
    def _rows(self) -> np.ndarray:
        """Codes of the rows of the table that meet the bounds."""
        assert self._table is not None
        return np.array(LookupTable.open(self._table).query(where(self._bounds), columns=["code"])["code"], dtype=str)

    def _mutations(self, told: Told, rng: np.random.Generator) -> list[Architecture]:
        good = np.flatnonzero(told.feasible) if told.feasible.any() else np.arange(len(told.members))
        if not len(good):
            return []
        front = good[pareto(told.losses[good])]
        best = good[np.argsort(told.losses[good, 0], kind="stable")]
        elite = list(dict.fromkeys([*front.tolist(), *best.tolist()]))[:_ELITE]
        return [
            self.space.canonical(
                self.space.mutate(
                    told.members[elite[i % len(elite)]], rng, changes=int(rng.integers(1, _MOST_CHANGES + 1))
                )
            )
            for i in range(_MUTATED)
        ]

    # ---- predictions -------------------------------------------------------------------------------------

    def _inputs(self, architectures: Sequence[Architecture]) -> np.ndarray | None:
        """Predicted accuracies as one more input, `(n, 1)`, on a scale on which it counts as much as all others."""
        if self._prior is None or not len(architectures):
            return None
        mean, deviation = self._scale
        new = list({a.code: a for a in architectures if a.code not in self._predicted}.values())
        if new:
            self._predicted.update(zip((a.code for a in new), self._prior(new).tolist(), strict=True))
        told = np.array([self._predicted[a.code] for a in architectures])
        width = np.sqrt(
            self._reader.known_features.shape[1] if self._reader.whole else len(self._reader.features.names)
        )
        return ((told - mean) / deviation)[:, None] * width

    @cached_property
    def _scale(self) -> tuple[float, float]:
        """Mean and deviation of predictions over the space."""
        assert self._prior is not None
        rng = np.random.default_rng(0)
        told = self._prior([self.space.canonical(self.space.sample(rng)) for _ in range(_DRAWN)])
        return float(told.mean()), float(told.std() + 1e-12)
