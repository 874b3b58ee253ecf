"""Ask and tell over an Optuna study, with everything that need not be trained turned away first.

A proposal that breaks a bound on costs, or is a network trained before, is told to the sampler at once and
another one is asked for; a sampler that finds nothing new gets help from the lookup table and from a walk
through the space, and only when these have nothing left is the search over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from optuna.trial import Trial as OptunaTrial

from search_spaces import Architecture, SearchSpace

from ..config import Bound, Config
from .history import TRAINED, History, Trial
from .sampling import REJECTED, Costs, Prior, SamplerSettings, architecture_of, distributions, make_sampler, where
from .study import Database, Judge, open_study

REJECTIONS = 50  # proposals of a sampler that are turned away for one trial, before help is sought
_STEPS = 2000  # of a walk through a space too large to be enumerated
_ENUMERABLE = 20_000
_PARENTS = 4


class Proposals:
    """Proposals of a search, written to its record.

    Args:
        history: the record; what it holds is repeated nowhere.
        costs: predicted costs of an architecture by name.
        table: the lookup table, None where there is none.
        prior: predicted accuracies of members, None where nothing was predicted.
        storage: where the Optuna study is kept.
    """

    def __init__(
        self,
        config: Config,
        space: SearchSpace,
        history: History,
        costs: Costs,
        *,
        table: Path | None,
        prior: Prior | None = None,
        storage: Path | Database,
    ) -> None:
        self._space = space
        self._seed = config.seed
        self._history = history
        self._costs = costs
        self._table = table
        self._judge = Judge(config.objectives, config.bounds)
        settings = SamplerSettings(
            space, config.seed, config.objectives, config.bounds, config.search.trials, table, self._costs_of, prior
        )
        self._known_costs: dict[str, dict[str, float]] = {}
        sampler = make_sampler(config.search.sampler, settings)
        self._study = open_study(storage, history, space, self._judge, sampler)
        self._nearest = (math.inf, "")
        self._trained = {trial.code: trial for trial in history.trials.values()}

    def ask(self) -> Trial | None:
        """The next trial, noted in the record; None where no member is left that meets the bounds and is new."""
        for _ in range(REJECTIONS):
            trial = self._consider(self._study.ask(distributions(self._space)))
            if trial is not None:
                return trial
        for architecture in self._others():
            if architecture.code not in self._trained and not self._broken(architecture):
                self._study.enqueue_trial(architecture.values)
                return self._consider(self._study.ask(distributions(self._space)))
        return None

    def tell(self, trial: Trial) -> None:
        """Give the sampler the result of a trial that ended."""
        if trial.state in TRAINED and trial.accuracy is not None:
            asked = OptunaTrial(self._study, self._stored(trial.ask)._trial_id)
            known = asked.constraints
            for name, value in self._judge.constraints(trial.costs, trial.accuracy).items():
                if name not in known:
                    asked.set_constraint(name, value)
            self._study.tell(trial.ask, self._judge.values(trial.costs, trial.accuracy))
        else:
            self._study.tell(trial.ask, state=TrialState.FAIL)

    # ---- a proposal of the sampler -----------------------------------------------------------------------

    def _consider(self, asked: OptunaTrial) -> Trial | None:
        """Begin a trial with a proposal, or turn it away."""
        architecture = self._space.canonical(architecture_of(self._space, asked.params))
        code, costs = architecture.code, self._costs_of(architecture)
        attributes = dict(self._stored(asked.number).system_attrs)
        proposal = {"params": asked.params, "costs": costs, "attributes": attributes}
        for name, value in self._judge.constraints(costs, None).items():
            asked.set_constraint(name, value)
        asked.set_user_attr("code", code)
        broken, before = self._broken(architecture), self._trained.get(code)
        values: list[float] | None
        if before is None and not broken:
            self._trained[code] = self._history.asked(code, proposal)
            return self._trained[code]
        if before is None:
            reason, values = f"breaks {' and '.join(map(str, broken))}", self._judge.values(costs, 0.0)
        else:
            reason, values = f"is trial {before.number}", self._values(before)
        asked.set_user_attr(REJECTED, reason)
        self._history.rejected(code, reason, values, proposal)
        self._study.tell(asked, values, state=TrialState.FAIL if values is None else None)
        return None

    def _values(self, trial: Trial) -> list[float] | None:
        """What a trial of an earlier proposal gave, None while it runs and where it failed."""
        if trial.state in TRAINED and trial.accuracy is not None:
            return self._judge.values(trial.costs, trial.accuracy)
        return None

    def _stored(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _costs_of(self, architecture: Architecture) -> dict[str, float]:
        if architecture.code not in self._known_costs:
            costs = self._costs(architecture)
            self._known_costs[architecture.code] = {name: float(value) for name, value in costs.items()}
        return self._known_costs[architecture.code]

    def _broken(self, architecture: Architecture) -> list[Bound]:
        """Bounds that a member breaks; the member that comes nearest is remembered, for the user."""
        costs = self._costs_of(architecture)
        broken = self._judge.broken(costs)
        excess = sum(b.excess(costs[b.metric]) for b in broken)
        if broken and excess < self._nearest[0]:
            self._nearest = excess, ", ".join(f"{b.metric} {costs[b.metric]:.4g}" for b in broken)
        return broken

    @property
    def nearest(self) -> str:
        """The figures by which the nearest member seen breaks the bounds."""
        return self._nearest[1]

    # ---- help for a sampler that finds nothing new -------------------------------------------------------

    def _others(self) -> Iterator[Architecture]:
        """The best rows of the table, then a walk; with whatever it takes to be sure in a small space."""
        if self._table is not None:
            yield from self._rows(self._table)
        rng = np.random.default_rng([self._seed, len(self._history.proposals), 1])
        if self._space.size <= _ENUMERABLE:
            members = list(self._space.enumerate())
            yield from (self._space.canonical(members[i]) for i in rng.permutation(len(members)))
        else:
            yield from (self._space.canonical(a) for a in self._walk(rng))

    def _rows(self, path: Path) -> Iterator[Architecture]:
        """Rows that meet the bounds, best first: one more than there are trials must hold a new one."""
        from predictors.table import LookupTable

        frame = LookupTable.open(path).query(where(self._judge.bounds), "accuracy", len(self._trained) + 1, ["code"])
        yield from (self._space.canonical(self._space.decode(code)) for code in frame["code"])

    def _walk(self, rng: np.random.Generator) -> Iterator[Architecture]:
        """Mutations of the best trained members, and random members in turn."""
        trained = [t for t in self._trained.values() if t.accuracy is not None]
        trained.sort(key=lambda t: (-(t.accuracy or 0.0), t.number))
        parents = [self._space.decode(t.code) for t in trained[:_PARENTS]]
        for step in range(_STEPS):
            if parents and step % 2 == 0:
                parent = parents[step // 2 % len(parents)]
                yield self._space.mutate(parent, rng, changes=1 + step * 4 // _STEPS)
            else:
                yield self._space.sample(rng)
