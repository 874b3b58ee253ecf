"""Optuna's own samplers: random, TPE and NSGA-II, made to repeat what they drew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from .base import SamplerSettings, samplers, trial_seed


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
