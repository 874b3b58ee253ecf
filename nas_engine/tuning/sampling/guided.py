"""Samplers that believe: `gcn`, `gp` and `greedy` learn from every result what to try next.

A surrogate (a Gaussian process on graph features, which for `gcn` also hears a graph convolutional network) is renewed
with each result; of all members that meet the bounds, the one with the largest expected improvement is proposed, or by
`greedy` the one of the largest expected quality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from optuna.samplers import BaseSampler

from predictors.acquisition import improvement_over_budgets
from predictors.surrogate import Surrogate
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import ConfigError

from ...config import Bound
from .base import Costs, Prior, SamplerSettings, SpaceSampler, Told, samplers
from .pools import Pool, Pools
from .predicted import PredictedSampler

_BUDGETS = 128
_ALIKE = 0.1  # deviation of the logarithmic length scales under their prior
_RENEWED_EVERY = 10  # results after which the slow learner learns anew, and a large pool is looked at anew


class GuidedSampler(SpaceSampler):
    """Proposes the member with the largest expected improvement (Jones et al. 1998) under a surrogate of all results.

    The first `initial` members are random, or drawn from the lookup table where there is one. From then on, for each
    trial, the surrogate learns all results; members that are being tried count as if they came to what is expected of
    them (Ginsbourger et al. 2010, "kriging believer"), so that proposals of one moment differ. With costs as further
    objectives the improvement is averaged over random budgets, which is the expected gain of hypervolume, costs on a
    logarithmic scale. A bound on accuracy is a level to be passed; bounds on costs hold for all that is considered.

    >>> study = optuna.create_study(direction="maximize", sampler=GuidedSampler(space))  # doctest: +SKIP
    >>> trial = study.ask(distributions(space))  # doctest: +SKIP

    Args:
        space: whose choices are the study's parameters.
        learner: predictor that is heard beside the Gaussian process, such as `gcn`; None for the process alone.
        objectives: to `max` or `min`, in the order of the study's directions. All but one must be costs that are known.
        bounds: on costs, and on accuracy.
        costs: of a member, by name; needed for objectives and bounds on them.
        table: the lookup table, None where there is none.
        prior: predicted accuracies, for the surrogate to learn from.
        greedy: propose what is believed best instead, under a process in which all features count nearly alike. Where
            differences between good members are as small as the noise of results, what seems uncertain is noise, and
            exploring it is in vain. Not together with costs as objectives.
        initial: members tried before the surrogate is asked.
        seed: with the number of a trial, decides its draw.

    Raises:
        ConfigError: more than one objective that is not a known cost, or costs that nothing tells.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        learner: str | None = "gcn",
        objectives: Mapping[str, str] | None = None,
        bounds: Sequence[Bound] = (),
        costs: Costs | None = None,
        table: Path | None = None,
        prior: Prior | None = None,
        greedy: bool = False,
        initial: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__(space, seed=seed)
        names = list(objectives or {"accuracy": "max"})
        self._quality, self._costs = _parted(names, space, costs)
        self._bounds = list(bounds)
        self._initial = max(2, initial)
        wanted = [names[i] for i in self._costs]
        self._pools = Pools(space, names=wanted, bounds=bounds, costs=costs, table=table, prior=prior)
        every = _RENEWED_EVERY if self._pools.whole_and_large else 1
        spread = _ALIKE if greedy else 1.0
        self._surrogate = Surrogate(space, learner=learner, spread=spread, renewed_every=every, seed=seed)
        self._greedy = greedy
        if greedy and self._costs:
            raise ConfigError(f"sampler 'greedy' takes one objective, accuracy; got {', '.join(names)}. Try 'gp'")
        self._first: PredictedSampler | None = None
        if table is not None:
            self._first = PredictedSampler(space, table, objectives=objectives, bounds=bounds, seed=seed)

    def propose(self, told: Told, rng: np.random.Generator) -> Architecture | None:
        """The open member of the largest expected improvement; None where all were proposed."""
        if len(told.members) < self._initial and self._first is not None:
            return self._first.propose(told, rng)
        pool = self._pools.of(told, rng)
        open_ = np.flatnonzero(pool.open(told.proposed))
        if not len(open_):
            return None
        if len(told.members) < self._initial:
            return pool.members.architectures[rng.choice(open_)]
        worth = self._worth(pool, told, rng)
        return pool.members.architectures[open_[worth[open_].argmax()]]

    def _worth(self, pool: Pool, told: Told, rng: np.random.Generator) -> np.ndarray:
        """Expected improvement of each member of the pool, or its expected quality, `(n,)`."""
        self._surrogate.fit(
            self._pools.read(told.members),
            -told.losses[:, self._quality],
            learned=len(told.members) // _RENEWED_EVERY * _RENEWED_EVERY,
            running=self._pools.read(told.pending) if told.pending else None,
        )
        mean, std = self._surrogate.believe(pool.members)
        if self._greedy:
            return mean
        found, found_costs = self._found(told)
        return improvement_over_budgets(mean, std, pool.costs, found, found_costs, _budgets(pool.costs, rng))

    def _found(self, told: Told) -> tuple[np.ndarray, np.ndarray]:
        """Qualities on the surrogate's scale, and costs, of what there is to improve on."""
        quality, costs = self._surrogate.targets, told.losses[:, self._costs]
        floors = [self._surrogate.target_of(b.value) for b in self._bounds if b.metric == "accuracy"]
        kept = told.feasible if told.feasible.any() else np.ones(len(quality), dtype=bool)
        return np.maximum(quality[kept], max(floors, default=-np.inf)), costs[kept]


def _parted(names: Sequence[str], space: SearchSpace, costs: Costs | None) -> tuple[int, list[int]]:
    """Positions of the one objective that is learned, and of those that are known costs."""
    known: set[str] = set()
    if costs is not None and len(names) > 1:
        known = set(costs(space.canonical(space.from_indices([0] * len(space.choices)))))
    learned = [i for i, name in enumerate(names) if name not in known]
    if len(learned) != 1:
        unknown = ", ".join(names[i] for i in learned) or "none"
        raise ConfigError(
            f"the sampler learns one objective and must be told the costs of all others; of {', '.join(names)} it is "
            f"not told: {unknown}. Give costs=, a function of members that names all but one, or use 'nsga2'"
        )
    return learned[0], [i for i in range(len(names)) if i != learned[0]]


def _budgets(costs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random budgets `(M, k)`, on a logarithmic scale between the least and the largest cost; one if there are none."""
    if not costs.shape[1]:
        return np.zeros((1, 0))
    low, high = (np.log(np.maximum(edge(axis=0), 1e-12)) for edge in (costs.min, costs.max))
    return np.exp(low + (high - low) * rng.random((_BUDGETS, costs.shape[1]))) * (1 + 1e-9)


def _of(settings: SamplerSettings, learner: str | None, *, greedy: bool = False) -> BaseSampler:
    return GuidedSampler(
        settings.space,
        learner=learner,
        objectives=settings.objectives,
        bounds=settings.bounds,
        costs=settings.costs,
        table=settings.table,
        prior=settings.prior,
        greedy=greedy,
        initial=min(10, max(4, settings.trials // 4)),
        seed=settings.seed,
    )


@samplers.register("gcn")
def _gcn(settings: SamplerSettings) -> BaseSampler:
    """Expected improvement under a Gaussian process that hears a graph convolutional network."""
    return _of(settings, "gcn")


@samplers.register("gp")
def _gp(settings: SamplerSettings) -> BaseSampler:
    """Expected improvement under a Gaussian process on graph features: a third of the time of `gcn`."""
    return _of(settings, None)


@samplers.register("greedy")
def _greedy(settings: SamplerSettings) -> BaseSampler:
    """The member believed best under a Gaussian process: for results whose noise hides what good members differ in."""
    return _of(settings, None, greedy=True)
