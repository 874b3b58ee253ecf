"""What all samplers share: their registry, what they are made from, and how they read a study.

Each trial's draw follows from the seed, the trial's number and the study's history alone, so that a study that was
interrupted and loaded again proposes what it would have proposed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search_spaces import Architecture, SearchSpace
from search_spaces.registry import Registry

from ...config import Bound

Costs = Callable[[Architecture], Mapping[str, float]]
"""Predicted costs of a member by name, before anything is trained."""

Prior = Callable[[Sequence[Architecture]], np.ndarray]
"""Predicted accuracies `(n,)` of members, before anything is trained."""

REJECTED = "rejected"
"""User attribute of a trial whose values were not measured, with the reason; samplers that learn leave it out."""


@dataclass(frozen=True)
class SamplerSettings:
    """What a sampler may want to know.

    Attributes:
        objectives: metric to `max` or `min`, in the order of the study's directions.
        bounds: on costs and accuracy.
        trials: how many trainings the search may do.
        table: the lookup table, None where there is none.
        costs: of a member; needed where costs are objectives or bounded and there is no table.
        prior: predicted accuracies of members, None where nothing was predicted.
    """

    space: SearchSpace
    seed: int = 0
    objectives: Mapping[str, str] = field(default_factory=lambda: {"accuracy": "max"})
    bounds: tuple[Bound, ...] = ()
    trials: int = 100
    table: Path | None = None
    costs: Costs | None = None
    prior: Prior | None = None


samplers: Registry[Callable[[SamplerSettings], BaseSampler]] = Registry("sampler")


def make_sampler(name: str, settings: SamplerSettings) -> BaseSampler:
    """The sampler called `name`.

    Raises:
        ConfigError: no such sampler, with the nearest name; or the settings lack what it needs.
    """
    return samplers[name](settings)


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """One categorical distribution a choice of the space."""
    return {choice.name: CategoricalDistribution(choice.options) for choice in space.choices}


def architecture_of(space: SearchSpace, params: Mapping[str, Any]) -> Architecture:
    """The member with these parameters; choices left out take their first option, as resting ones do."""
    names = {choice.name for choice in space.choices}
    return space.architecture({name: value for name, value in params.items() if name in names})


def where(bounds: Iterable[Bound]) -> str | None:
    """The bounds on costs as a condition on rows of the lookup table, None where there are none."""
    conditions = [f"{b.metric} {b.operator} {b.value!r}" for b in bounds if b.metric != "accuracy"]
    return " and ".join(conditions) or None


def trial_seed(seed: int, number: int) -> int:
    """A seed for one trial; neighbouring numbers give unrelated seeds."""
    return int(np.random.default_rng([seed, number]).integers(2**31 - 1))


@dataclass(frozen=True)
class Told:
    """What a study knows when one of its trials asks for a proposal; members are canonical.

    Shapes: n trials with results, k objectives.

    Attributes:
        number: of the trial that asks.
        members: of the trials with results, in the order of their numbers; a member tried twice is there twice.
        losses: their objective values, all to be minimised, float `(n, k)`.
        feasible: whether they meet all constraints, bool `(n,)`.
        pending: members that are being tried.
        barred: members that failed, or were turned away untried.
    """

    number: int
    members: list[Architecture]
    losses: np.ndarray
    feasible: np.ndarray
    pending: list[Architecture]
    barred: list[Architecture] = field(default_factory=list)

    @classmethod
    def read(cls, space: SearchSpace, study: Study, trial: FrozenTrial) -> Told:
        """The other trials of a study that set any of the space's choices."""
        names = {choice.name for choice in space.choices}
        signs = [-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in study.directions]
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number and names & set(t.params)]
        done = [t for t in others if _measured(t)]
        losses = [[sign * value for sign, value in zip(signs, t.values, strict=True)] for t in done]

        def members(trials: Iterable[FrozenTrial]) -> list[Architecture]:
            return [_canonical(space, t.params) for t in trials]

        return cls(
            trial.number,
            members(done),
            np.array(losses, dtype=float).reshape(len(done), len(signs)),
            np.array([all(v <= 0 for v in t.constraints.values()) for t in done], dtype=bool),
            members(t for t in others if not t.state.is_finished()),
            members(t for t in others if t.state.is_finished() and not _measured(t)),
        )

    @property
    def proposed(self) -> set[str]:
        """Codes of all members that were proposed, whatever became of them."""
        return {a.code for a in (*self.members, *self.pending, *self.barred)}


_KNOWN: WeakKeyDictionary[SearchSpace, dict[tuple[Any, ...], Architecture]] = WeakKeyDictionary()


def _canonical(space: SearchSpace, params: Mapping[str, Any]) -> Architecture:
    """The canonical member with these parameters; a study's trials are read again for each proposal."""
    known = _KNOWN.setdefault(space, {})
    key = tuple(params.items())
    if key not in known:
        known[key] = space.canonical(architecture_of(space, params))
    return known[key]


def _measured(trial: FrozenTrial) -> bool:
    return (
        trial.state == TrialState.COMPLETE
        and REJECTED not in trial.user_attrs
        and bool(np.isfinite(trial.values).all())
    )


class Limits:
    """Bounds on costs, asked of members before they are proposed.

    Args:
        bounds: those on accuracy are left aside, as it is not known.
        costs: of a member; needed where there are bounds on costs.
    """

    def __init__(self, bounds: Sequence[Bound] = (), costs: Costs | None = None) -> None:
        self._bounds = [b for b in bounds if b.metric != "accuracy"] if costs is not None else []
        self._costs = costs
        self._known: dict[str, bool] = {}

    def allow(self, architecture: Architecture) -> bool:
        """Whether a member meets all bounds on costs; what cannot be known is allowed."""
        if not self._bounds or self._costs is None:
            return True
        code = architecture.code
        if code not in self._known:
            costs = self._costs(architecture)
            self._known[code] = all(b.holds(costs[b.metric]) for b in self._bounds)
        return self._known[code]


class SpaceSampler(BaseSampler):
    """A sampler that proposes whole members of a space; a subclass implements `propose`.

    Parameters of the study that are no choices of the space are drawn at random, and so is everything where `propose`
    has nothing to propose.

    Args:
        space: whose choices are parameters of the study.
        seed: with the number of a trial, decides its draw.
    """

    def __init__(self, space: SearchSpace, *, seed: int = 0) -> None:
        self.space = space
        self.seed = seed

    @abstractmethod
    def propose(self, told: Told, rng: np.random.Generator) -> Architecture | None:
        """The member to try next; anything random comes from `rng`."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: d for name, d in distributions(self.space).items() if not d.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, trial.number])
        member = self.propose(Told.read(self.space, study, trial), rng)
        return {} if member is None else {n: v for n, v in member.values.items() if n in search_space}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        seed = trial_seed(trial_seed(self.seed, trial.number), sum(param_name.encode()))
        return RandomSampler(seed=seed).sample_independent(study, trial, param_name, param_distribution)
