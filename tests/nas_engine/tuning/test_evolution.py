"""Regularised evolution: parents and ages worked by hand, bounds, new members only, repeatable, better than random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
import pytest
from numpy.typing import ArrayLike

from nas_engine.config import Bound
from nas_engine.tuning import SamplerSettings, architecture_of, distributions
from nas_engine.tuning.sampling import Limits, Told
from nas_engine.tuning.sampling.evolution import (
    EvolutionSampler,
    _evolution,
    fresh_member,
    fresh_mutation,
    nondominated_ranks,
)
from search_spaces import Architecture, SearchSpace, make_space

optuna.logging.set_verbosity(optuna.logging.WARNING)


def told(space: SearchSpace, codes: Sequence[str], losses: ArrayLike, feasible: bool = True) -> Told:
    members = [space.decode(code) for code in codes]
    values = np.array(losses, dtype=float).reshape(len(codes), -1) if codes else np.zeros((0, 1))
    return Told(len(codes), members, values, np.full(len(codes), feasible), [], [])


def total(architecture: Architecture) -> float:
    return float(sum(architecture.indices))


def best_of(sampler: optuna.samplers.BaseSampler, space: SearchSpace, count: int) -> float:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(count):
        trial = study.ask(distributions(space))
        study.tell(trial, total(space.canonical(architecture_of(space, trial.params))))
    return float(study.best_value)


def differences(one: Architecture, other: Architecture) -> int:
    return sum(a != b for a, b in zip(one.indices, other.indices, strict=True))


def test_ranks_worked_by_hand() -> None:
    losses = np.array([[1, 4], [2, 2], [4, 1], [3, 3], [5, 5], [0, 0]], dtype=float)
    feasible = np.array([True, True, True, True, True, False])
    assert nondominated_ranks(losses, feasible).tolist() == [0, 0, 0, 1, 2, 3]
    assert nondominated_ranks(np.array([[3.0], [1.0], [2.0]]), np.ones(3, dtype=bool)).tolist() == [2, 0, 1]


def test_a_child_differs_in_one_choice_from_the_best_of_the_youngest(tiny: SearchSpace) -> None:
    """The best of all is too old; with a tournament of the whole population the next best is always the parent."""
    codes = [a.code for a in tiny.enumerate()][::7][:6]
    seen = told(tiny, codes, [[0.0], [5.0], [3.0], [1.0], [4.0], [2.0]])
    sampler = EvolutionSampler(tiny, population=4, tournament=4)
    for seed in range(10):
        child = sampler.propose(seen, np.random.default_rng(seed))
        assert child is not None
        assert differences(child, seen.members[3]) == 1


def test_a_small_tournament_may_miss_the_best(tiny: SearchSpace) -> None:
    codes = [a.code for a in tiny.enumerate()][::9][:4]
    seen = told(tiny, codes, [[1.0], [2.0], [3.0], [4.0]])
    sampler = EvolutionSampler(tiny, population=4, tournament=1)
    parents = {sampler._parent(seen, np.random.default_rng(seed)).code for seed in range(40)}
    assert parents == set(codes)


def test_what_breaks_a_constraint_is_no_parent_of_choice(tiny: SearchSpace) -> None:
    codes = [a.code for a in tiny.enumerate()][::9][:3]
    seen = told(tiny, codes, [[1.0], [2.0], [3.0]])
    seen.feasible[:2] = False
    sampler = EvolutionSampler(tiny, population=3, tournament=3)
    assert sampler._parent(seen, np.random.default_rng(0)).code == codes[2]


def test_every_member_is_proposed_once_and_then_none(tiny: SearchSpace) -> None:
    sampler = EvolutionSampler(tiny, population=4, tournament=2)
    codes: list[str] = []
    for number in range(64):
        seen = told(tiny, codes, [[float(i % 5)] for i in range(number)])
        member = sampler.propose(seen, np.random.default_rng([1, number]))
        assert member is not None
        codes.append(member.code)
    assert len(set(codes)) == 64
    assert sampler.propose(told(tiny, codes, [[0.0]] * 64), np.random.default_rng(0)) is None


def test_bounds_are_kept(tiny: SearchSpace) -> None:
    bounds = [Bound.parse("macs <= 2"), Bound.parse("accuracy >= 0.9")]
    sampler = EvolutionSampler(
        tiny, population=4, tournament=2, bounds=bounds, costs=lambda a: {"macs": float(a.indices[0])}
    )
    codes: list[str] = []
    for number in range(30):
        losses = np.arange(number, dtype=float).reshape(number, 1)
        member = sampler.propose(told(tiny, codes, losses), np.random.default_rng(number))
        assert member is not None
        codes.append(member.code)
    assert all(tiny.decode(code).indices[0] <= 2 for code in codes)


def test_more_changes_where_one_leaves_nothing(tiny: SearchSpace) -> None:
    parent = tiny.decode(next(tiny.enumerate()).code)
    near = {a.code for a in tiny.neighbours(parent)} | {parent.code}
    child = fresh_mutation(tiny, parent, near, Limits(), np.random.default_rng(0))
    assert child is not None
    assert differences(child, parent) == 2
    everything = {a.code for a in tiny.enumerate()}
    assert fresh_mutation(tiny, parent, everything, Limits(), np.random.default_rng(0)) is None
    assert fresh_member(tiny, everything, Limits(), np.random.default_rng(0)) is None


@pytest.mark.parametrize(("trials", "population"), [(1, 4), (12, 4), (100, 10), (1000, 32), (100_000, 100)])
def test_the_population_grows_with_the_search(space: SearchSpace, trials: int, population: int) -> None:
    sampler = _evolution(SamplerSettings(space, trials=trials))
    assert isinstance(sampler, EvolutionSampler)
    assert (sampler._population, sampler._tournament) == (population, population // 2)


def test_better_than_random() -> None:
    space = make_space("nasbench201")
    evolved = [best_of(EvolutionSampler(space, population=8, tournament=4, seed=s), space, 40) for s in range(5)]
    random = [best_of(optuna.samplers.RandomSampler(seed=s), space, 40) for s in range(5)]
    assert np.mean(evolved) > np.mean(random) + 1


def test_an_interrupted_study_goes_on_as_if_it_had_not_been(space: SearchSpace) -> None:
    def proposals(interrupted: bool) -> list[dict[str, object]]:
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=EvolutionSampler(space, seed=3))
        for number in range(20):
            if interrupted and number == 13:
                study.sampler = EvolutionSampler(space, seed=3)
            trial = study.ask(distributions(space))
            member = architecture_of(space, trial.params)
            study.tell(trial, [total(member), float(member.indices[0])])
        return [t.params for t in study.trials]

    assert proposals(True) == proposals(False)
