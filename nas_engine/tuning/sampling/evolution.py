"""Regularised evolution: a population in which the oldest dies, and children of tournament winners.

Death by age instead of by rank keeps lucky measurements from staying for ever, and is all the state there is: the
population are the last members with results, so a study read again gives the same children.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.samplers import BaseSampler

from predictors.table import pareto
from search_spaces import Architecture, SearchSpace

from ...config import Bound
from .base import Costs, Limits, SamplerSettings, SpaceSampler, Told, samplers

_TRIES = 1000  # random members drawn before bounds are held to leave nothing new
_MUTATIONS = 50  # children of one parent that are drawn with so many changes, before one change more is made


class EvolutionSampler(SpaceSampler):
    """Regularised (aging) evolution (Real et al. 2019, AAAI, algorithm 1).

    The first P members are random. Then S of the P youngest members with results are drawn without replacement, the
    best of them is the parent, and one of its choices is redrawn. With several objectives the best are those of the
    lowest non-dominated rank in the population (Deb et al. 2002), and among equals one is drawn; a member that breaks
    a constraint ranks behind all that break none. Unlike in the paper no member is proposed twice, and none that
    breaks a bound on costs: a child that would be is drawn again, with more changes where one change leaves nothing.

    Args:
        space: whose choices are the study's parameters.
        population: P.
        tournament: S, at most P.
        bounds: on costs, asked of `costs` before a member is proposed.
        costs: of a member.
        seed: with the number of a trial, decides its draw.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        population: int = 10,
        tournament: int = 5,
        bounds: Sequence[Bound] = (),
        costs: Costs | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(space, seed=seed)
        self._population = max(2, population)
        self._tournament = min(max(1, tournament), self._population)
        self._limits = Limits(bounds, costs)

    def propose(self, told: Told, rng: np.random.Generator) -> Architecture | None:
        """A random member while the population is not full, then a child."""
        proposed = told.proposed
        if (len(told.members) < self._population and told.number < self._population) or not told.members:
            return fresh_member(self.space, proposed, self._limits, rng)
        parent = self._parent(told, rng)
        child = fresh_mutation(self.space, parent, proposed, self._limits, rng)
        return child or fresh_member(self.space, proposed, self._limits, rng)

    def _parent(self, told: Told, rng: np.random.Generator) -> Architecture:
        """The winner of a tournament among the youngest."""
        youngest = range(max(0, len(told.members) - self._population), len(told.members))
        ranks = nondominated_ranks(told.losses[youngest], told.feasible[youngest])
        # drawn in random order, so that the first of the best is one of them at random
        contestants = rng.permutation(len(youngest))[: self._tournament]
        return told.members[youngest[int(contestants[ranks[contestants].argmin()])]]


def nondominated_ranks(losses: np.ndarray, feasible: np.ndarray) -> np.ndarray:
    """The front each row belongs to: 0 for the non-dominated ones, 1 for those dominated by these alone, and so on.

    Rows that are not feasible are ranked among themselves, behind all that are.

    Shapes: losses `(n, k)`, all to be minimised; feasible bool `(n,)`; returns int `(n,)`.
    """
    ranks = np.zeros(len(losses), dtype=int)
    rank = 0
    for group in (np.flatnonzero(feasible), np.flatnonzero(~feasible)):
        while len(group):
            front = group[pareto(losses[group])]
            ranks[front] = rank
            group = np.setdiff1d(group, front)
            rank += 1
    return ranks


def fresh_member(
    space: SearchSpace, proposed: set[str], limits: Limits, rng: np.random.Generator
) -> Architecture | None:
    """A random member within the bounds that was not proposed; None where many draws gave none."""
    for _ in range(_TRIES):
        member = space.canonical(space.sample(rng))
        if member.code not in proposed and limits.allow(member):
            return member
    return None


def fresh_mutation(
    space: SearchSpace, parent: Architecture, proposed: set[str], limits: Limits, rng: np.random.Generator
) -> Architecture | None:
    """A member within the bounds that was not proposed, as few changes from the parent as many draws allow."""
    for changes in range(1, len(space.choices) + 1):
        for _ in range(_MUTATIONS):
            member = space.canonical(space.mutate(parent, rng, changes))
            if member.code not in proposed and limits.allow(member):
                return member
    return None


@samplers.register("evolution")
def _evolution(settings: SamplerSettings) -> BaseSampler:
    """Regularised evolution (Real et al. 2019): children of tournament winners, the oldest die."""
    population = min(100, max(4, round(settings.trials**0.5)))
    return EvolutionSampler(
        settings.space,
        population=population,
        tournament=population // 2,
        bounds=settings.bounds,
        costs=settings.costs,
        seed=settings.seed,
    )
