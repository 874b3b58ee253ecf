"""Samplers: ordinary Optuna samplers over the choices of a space, by name.

Each trial's draw follows from the seed, the trial's number and the study's history alone, so that a study that was
interrupted and loaded again proposes what it would have proposed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search_spaces import Architecture, SearchSpace
from search_spaces.registry import Registry

from ..config import Bound


@dataclass(frozen=True)
class SamplerSettings:
    """What a sampler may want to know.

    Attributes:
        objectives: metric to `max` or `min`, in the order of the study's directions.
        bounds: on costs and accuracy.
        trials: how many trainings the search may do.
        table: the lookup table, None where there is none.
    """

    space: SearchSpace
    seed: int = 0
    objectives: Mapping[str, str] = field(default_factory=lambda: {"accuracy": "max"})
    bounds: tuple[Bound, ...] = ()
    trials: int = 100
    table: Path | None = None


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


class Repeatable(BaseSampler):
    """Any sampler, made afresh for each trial with a seed that follows from the trial's number.

    Args:
        make: the sampler for a seed below 2**31. What it draws must depend on the study and the seed only.
        seed: of all trials together.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int = 0) -> None:
        self._make = make
        self._seed = seed
        self._current: tuple[int, BaseSampler] | None = None

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        current = self._current
        if current is None or current[0] != trial.number:
            current = self._current = trial.number, self._make(trial_seed(self._seed, trial.number))
        return current[1]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._of(trial).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._of(trial).after_trial(study, trial, state, values)


def trial_seed(seed: int, number: int) -> int:
    """A seed for one trial; neighbouring numbers give unrelated seeds."""
    import numpy as np

    return int(np.random.default_rng([seed, number]).integers(2**31 - 1))


@samplers.register("random")
def _random(settings: SamplerSettings) -> BaseSampler:
    """Uniform draws of every choice."""
    return Repeatable(lambda seed: RandomSampler(seed=seed), settings.seed)


@samplers.register("tpe")
def _tpe(settings: SamplerSettings) -> BaseSampler:
    """Multivariate TPE (Bergstra et al. 2011); a quarter of the trials, four to ten, are random ones."""
    startup = min(10, max(4, settings.trials // 4))
    return Repeatable(
        lambda seed: TPESampler(multivariate=True, n_startup_trials=startup, seed=seed),
        settings.seed,
    )


class NSGA2(NSGAIISampler):
    """Optuna's NSGA-II with parents in the order of their numbers.

    Optuna gives them in one order to the first child of a generation and in another to the rest, for whom they come
    from a cache in the study; a study rebuilt amid a generation would draw other children.
    """

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)


@samplers.register("nsga2")
def _nsga2(settings: SamplerSettings) -> BaseSampler:
    """NSGA-II (Deb et al. 2002), with generations small enough that there are several."""
    population = min(50, max(4, settings.trials // 5))
    return Repeatable(lambda seed: NSGA2(population_size=population, seed=seed), settings.seed)


@samplers.register("predicted")
def _predicted(settings: SamplerSettings) -> BaseSampler:
    """The run's lookup table: Thompson draws of predicted accuracy under the bounds, a random trade-off a trial."""
    from search_spaces.errors import ConfigError

    from .predicted import PredictedSampler

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
