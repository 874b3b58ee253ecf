"""Samplers as ordinary Optuna samplers, and their repeatability."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler

from nas_engine.config import Bound
from nas_engine.tuning import SamplerSettings, architecture_of, distributions, make_sampler, samplers
from nas_engine.tuning.sampling import Repeatable, trial_seed, where
from search_spaces import EngineError, SearchSpace, make_space

WITHOUT_TABLE = [name for name in samplers if name != "predicted"]
optuna.logging.set_verbosity(optuna.logging.WARNING)


def proposals(
    sampler: Callable[[], BaseSampler], space: SearchSpace, count: int, *, interrupted_at: int | None = None
) -> list[dict[str, object]]:
    """Parameters of the first trials of a study; when interrupted, a new sampler goes on with the same study."""
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler())
    for number in range(count):
        if number == interrupted_at:
            study.sampler = sampler()
        trial = study.ask(distributions(space))
        architecture = architecture_of(space, trial.params)
        study.tell(trial, [float(sum(architecture.indices)), float(architecture.indices[0])])
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("name", WITHOUT_TABLE)
def test_an_interrupted_study_goes_on_as_if_it_had_not_been(name: str, space: SearchSpace) -> None:
    def make() -> BaseSampler:
        return make_sampler(name, SamplerSettings(space, seed=3, trials=20))

    whole = proposals(make, space, 20)
    assert whole == proposals(make, space, 20, interrupted_at=13)
    assert len({tuple(p.values()) for p in whole}) > 10


@pytest.mark.parametrize("name", WITHOUT_TABLE)
def test_seeds_differ(name: str, space: SearchSpace) -> None:
    one, other = (
        proposals(lambda: make_sampler(name, SamplerSettings(space, seed=s)), space, 4)  # noqa: B023 (called at once)
        for s in (0, 1)
    )
    assert one != other


@pytest.mark.parametrize("name", WITHOUT_TABLE)
def test_samplers_warn_of_nothing(name: str, space: SearchSpace) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        proposals(lambda: make_sampler(name, SamplerSettings(space, trials=20)), space, 12)


def test_tpe_learns(space: SearchSpace) -> None:
    """On an easy objective the later proposals are better than the first, random ones."""
    found = proposals(lambda: make_sampler("tpe", SamplerSettings(space, trials=40)), space, 40)
    values = [sum(architecture_of(space, p).indices) for p in found]
    assert sum(values[-10:]) > sum(values[:10])


def test_unknown_sampler_names_the_nearest(space: SearchSpace) -> None:
    with pytest.raises(EngineError, match="did you mean 'nsga2'"):
        make_sampler("nsga", SamplerSettings(space))


def test_predicted_needs_a_table(space: SearchSpace) -> None:
    with pytest.raises(EngineError, match="needs the lookup table"):
        make_sampler("predicted", SamplerSettings(space))


def test_params_and_architectures_are_the_same() -> None:
    space = make_space("mobile", {"input_shape": (1, 28, 28)})
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    for _ in range(20):
        params = study.ask(distributions(space)).params
        architecture = architecture_of(space, {**params, "learning_rate": 0.1})
        counting = [space.choices[i].name for i in space.counting(architecture)]
        assert {n: architecture[n] for n in counting} == {n: params[n] for n in counting}


def test_where() -> None:
    bounds = [Bound.parse(text) for text in ("latency_ms <= 2.5", "accuracy >= 0.9", "params < 1e6")]
    assert where(bounds) == "latency_ms <= 2.5 and params < 1000000.0"
    assert where(bounds[1:2]) is None


def test_trial_seeds_differ() -> None:
    assert len({trial_seed(seed, number) for seed in range(10) for number in range(100)}) == 1000


def test_any_sampler_becomes_repeatable(space: SearchSpace) -> None:
    def make() -> BaseSampler:
        return Repeatable(lambda seed: optuna.samplers.QMCSampler(seed=seed, warn_independent_sampling=False), seed=5)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert proposals(make, space, 6) == proposals(make, space, 6, interrupted_at=3)
