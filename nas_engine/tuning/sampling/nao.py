"""NAO as a sampler: members uphill of the best ones in an embedding learned from all results (Luo et al. 2018).

Random members first; then encoder, scorer and decoder are fitted anew now and then, and until the next fit the trials
take what the decoder wrote, the best predicted first. Which results a fit learns from follows from their number alone,
so a study that was loaded again proposes what it would have proposed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.samplers import BaseSampler

from predictors.base import FEWEST
from predictors.table import pareto
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import ConfigError

from .base import Limits, SamplerSettings, SpaceSampler, Told, samplers
from .evolution import fresh_member

_AUGMENTATION = 0.05  # rho of Knowles 2006, so that among equal worst losses the sum decides
_GROWTH = 5  # a fit waits for a fifth more results, at least
_SMALL = 32_768  # members of a space that is walked through where draws find nothing new


class NAOSampler(SpaceSampler):
    """Proposes members that NAO's decoder writes for points uphill of the best results.

    Of several objectives each fit learns one random trade-off: augmented Chebyshev scalarisation (Knowles 2006, eq. 2)
    of the losses, scaled to 0 to 1 over the Pareto front, whose members are the first seeds. Results that break a
    constraint are learned from but are no seeds while others are there.

    >>> study = optuna.create_study(direction="maximize", sampler=NAOSampler(space))  # doctest: +SKIP
    >>> trial = study.ask(distributions(space))  # doctest: +SKIP

    Args:
        space: whose choices are the study's parameters.
        limits: on costs; members that exceed them are not proposed.
        first: random members before the first fit, 4 or more.
        every: new results that a fit waits for, at least.
        seeds: best results that moves start from.
        pool: members that are decoded for each fit; the best predicted of them are proposed.
        settings: of `NAOPredictor`, over `SEARCH`.
        seed: with the number of a trial, decides its draw.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        limits: Limits | None = None,
        first: int = 16,
        every: int = 10,
        seeds: int = 20,
        pool: int = 100,
        settings: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(space, seed=seed)
        if first < FEWEST or min(every, seeds, pool) < 1:
            raise ConfigError(
                f"sampler 'nao' needs first >= {FEWEST} and every, seeds and pool >= 1; "
                f"got {first}, {every}, {seeds} and {pool}"
            )
        self._limits = limits or Limits()
        self._first, self._every, self._seeds, self._pool = first, every, seeds, pool
        self._settings = dict(settings or {})
        self._latest: tuple[str, list[Architecture]] = "", []

    def propose(self, told: Told, rng: np.random.Generator) -> Architecture | None:
        """The best predicted of the decoded members that were not proposed yet; a random one at first."""
        proposed = told.proposed
        count = self._learned(len(told.members))
        if count:
            for member in self._decoded(told, count):
                if member.code not in proposed:
                    return member
        return self._random(proposed, rng)

    def _learned(self, results: int) -> int:
        """How many of the results the latest fit has seen; 0 before the first."""
        if results < self._first:
            return 0
        count = self._first
        while (after := count + max(self._every, count // _GROWTH)) <= results:
            count = after
        return count

    def _random(self, proposed: set[str], rng: np.random.Generator) -> Architecture | None:
        """A random member that was not proposed and is within the limits; None where none is found."""
        if member := fresh_member(self.space, proposed, self._limits, rng):
            return member
        if self.space.size > _SMALL:
            return None
        distinct = {a.code: a for a in map(self.space.canonical, self.space.enumerate())}
        left = [a for code, a in distinct.items() if code not in proposed and self._limits.allow(a)]
        return left[int(rng.integers(len(left)))] if left else None

    # ---- fits --------------------------------------------------------------------------------------------

    def _decoded(self, told: Told, count: int) -> list[Architecture]:
        """New members by the fit to the first `count` results, the best predicted first."""
        codes = [a.code for a in told.members[:count]]
        losses, feasible = told.losses[:count], told.feasible[:count]
        key = hashlib.sha256(repr(codes).encode() + losses.tobytes() + feasible.tobytes()).hexdigest()
        if self._latest[0] != key:
            rng = np.random.default_rng([self.seed, count, 1])
            self._latest = key, self._fit(told.members[:count], losses, feasible, rng)
        return self._latest[1]

    def _fit(
        self, members: list[Architecture], losses: np.ndarray, feasible: np.ndarray, rng: np.random.Generator
    ) -> list[Architecture]:
        from predictors.nao import improved

        loss, front = scalarised(losses, feasible, rng)
        order = np.lexsort([loss, ~front, ~feasible])
        usable = order[feasible[order]] if feasible.any() else order
        return improved(
            self.space,
            members,
            -loss,
            seeds=list({members[i].code: members[i] for i in usable}.values())[: self._seeds],
            count=self._pool,
            allow=self._limits.allow,
            settings=self._settings,
            seed=int(rng.integers(2**31)),
        )


def scalarised(losses: np.ndarray, feasible: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One loss `(n,)` of a random trade-off, and which results are on the Pareto front of the feasible ones.

    Args:
        losses: float `(n, k)`, to be minimised.
        feasible: bool `(n,)`; all count where none is.
        rng: draws the weights, uniform on the simplex.
    """
    rows = np.flatnonzero(feasible) if feasible.any() else np.arange(len(losses))
    front = np.zeros(len(losses), dtype=bool)
    front[rows[pareto(losses[rows])]] = True
    if losses.shape[1] == 1:
        return losses[:, 0], front
    ideal, nadir = losses[front].min(axis=0), losses[front].max(axis=0)
    spread = np.where(nadir > ideal, nadir - ideal, np.maximum(losses.std(axis=0), 1e-12))
    weighted = rng.dirichlet(np.ones(losses.shape[1])) * (losses - ideal) / spread
    return weighted.max(axis=1) + _AUGMENTATION * weighted.sum(axis=1), front


@samplers.register("nao")
def _nao(settings: SamplerSettings) -> BaseSampler:
    """NAO: gradient steps in an embedding learned from the results, decoded to members within the bounds."""
    return NAOSampler(
        settings.space,
        limits=Limits(settings.bounds, settings.costs),
        first=max(FEWEST, min(16, settings.trials // 4)),
        seed=settings.seed,
    )
