"""Samplers that learn from results: what they propose in plain Optuna studies and in searches of the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest

from nas_engine.config import Bound
from nas_engine.tuning import (
    GuidedSampler,
    SearchJob,
    architecture_of,
    distributions,
    read_trials,
    recorded,
    search_recorded,
)
from nas_engine.tuning.sampling.pools import Pools
from predictors.cost import make_cost_model
from search_spaces import Architecture, SearchSpace, make_space
from search_spaces.errors import ConfigError

Jobs = Callable[..., SearchJob]
Curves = Callable[[str], list[float]]
Write = Callable[..., Path]
BOTH = {"accuracy": "max", "params": "min"}
optuna.logging.set_verbosity(optuna.logging.WARNING)


def costs_in(space: SearchSpace) -> Callable[[Architecture], dict[str, float]]:
    model = make_cost_model("params")
    return lambda architecture: {"params": float(model.cost(space.graph(architecture)))}


def quality(architecture: Architecture) -> float:
    """Later options are better, and the first two choices like to be equal."""
    indices = architecture.indices
    return float(sum(indices)) + 2.0 * (indices[0] == indices[1])


def tried(study: optuna.Study, space: SearchSpace, count: int, *, costs: bool = False) -> list[Architecture]:
    """Members that a study tries, with their results told."""
    params = costs_in(space)
    found = []
    for _ in range(count):
        trial = study.ask(distributions(space))
        member = space.canonical(architecture_of(space, trial.params))
        found.append(member)
        study.tell(trial, [quality(member), params(member)["params"]] if costs else quality(member))
    return found


def test_it_finds_the_best_of_thousands_with_few_trials(space: SearchSpace) -> None:
    best = max(quality(space.canonical(a)) for a in space.enumerate())
    for learner, trials in ((None, 30), ("gcn", 30)):
        study = optuna.create_study(direction="maximize", sampler=GuidedSampler(space, learner=learner))
        found = tried(study, space, trials)
        assert len({a.code for a in found}) == trials
        assert max(map(quality, found)) >= best - 1


def test_proposals_of_one_moment_differ(space: SearchSpace) -> None:
    study = optuna.create_study(direction="maximize", sampler=GuidedSampler(space, learner=None))
    tried(study, space, 12)
    together = [space.canonical(architecture_of(space, study.ask(distributions(space)).params)) for _ in range(5)]
    assert len({a.code for a in together}) == 5


def test_minimised_losses_are_as_good(space: SearchSpace) -> None:
    up, down = (optuna.create_study(direction=d, sampler=GuidedSampler(space)) for d in ("maximize", "minimize"))
    for _ in range(16):
        trials = [study.ask(distributions(space)) for study in (up, down)]
        assert trials[0].params == trials[1].params
        value = quality(architecture_of(space, trials[0].params))
        up.tell(trials[0], value)
        down.tell(trials[1], -value)


@pytest.mark.parametrize("with_table", [False, True])
def test_bounds_on_costs_hold_for_all_proposals(
    space: SearchSpace, job: Jobs, write_table: Write, with_table: bool
) -> None:
    params = costs_in(space)
    middle = float(np.median([params(space.sample(np.random.default_rng(i)))["params"] for i in range(50)]))
    sampler = GuidedSampler(
        space,
        learner=None,
        bounds=[Bound("params", "<=", middle)],
        costs=params,
        table=write_table(job()) if with_table else None,
        initial=4,
    )
    found = tried(optuna.create_study(direction="maximize", sampler=sampler), space, 14)
    assert all(params(a)["params"] <= middle for a in found)


def test_a_bound_that_nothing_tells_is_an_error(space: SearchSpace) -> None:
    with pytest.raises(ConfigError, match="params; give it costs="):
        GuidedSampler(space, bounds=[Bound("params", "<=", 1.0)])


def test_two_objectives_that_must_be_learned_are_an_error(space: SearchSpace) -> None:
    with pytest.raises(ConfigError, match="is not told: accuracy, robustness"):
        GuidedSampler(space, objectives={"accuracy": "max", "robustness": "max"}, costs=costs_in(space))


def test_with_costs_it_walks_along_the_front(space: SearchSpace) -> None:
    """Of the best quality within each of ten budgets it finds more than random trials do."""
    params = costs_in(space)
    every = [space.canonical(a) for a in space.enumerate()]
    sizes, values = np.array([params(a)["params"] for a in every]), np.array([quality(a) for a in every])
    budgets = np.quantile(sizes, np.linspace(0.05, 1, 10))
    best = np.array([values[sizes <= b].max() for b in budgets])

    def missing(found: list[Architecture]) -> float:
        reached = [max((quality(a) for a in found if params(a)["params"] <= b), default=0.0) for b in budgets]
        return float((best - reached).mean())

    directions = ["maximize", "minimize"]
    guided = GuidedSampler(space, learner=None, objectives=BOTH, costs=params)
    random = optuna.samplers.RandomSampler(seed=0)
    gaps = [
        missing(tried(optuna.create_study(directions=directions, sampler=s), space, 40, costs=True))
        for s in (guided, random)
    ]
    assert gaps[0] < 0.6 * gaps[1]


def test_a_bound_on_accuracy_is_a_level_to_pass(space: SearchSpace) -> None:
    """With quality bounded from below, cheap members of low quality are worth nothing."""
    bound = Bound("accuracy", ">=", 16.0)
    sampler = GuidedSampler(space, learner=None, objectives=BOTH, costs=costs_in(space), bounds=[bound])
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    found = []
    for _ in range(40):
        trial = study.ask(distributions(space))
        member = space.canonical(architecture_of(space, trial.params))
        found.append(quality(member))
        trial.set_constraint("accuracy", 16.0 - quality(member))
        study.tell(trial, [quality(member), costs_in(space)(member)["params"]])
    assert np.mean(np.array(found[-20:]) >= 14) > np.mean(np.array(found[:10]) >= 14)
    assert sum(q >= 16 for q in found[10:]) >= 5


def test_a_large_space_is_searched_by_pools() -> None:
    space = make_space("mobile", {"input_shape": (3, 32, 32), "classes": 10})
    sampler = GuidedSampler(space, learner=None, initial=4)
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def size(member: Architecture) -> float:
        return float(sum(member.indices))

    sizes = []
    for _ in range(14):
        trial = study.ask(distributions(space))
        member = space.canonical(architecture_of(space, trial.params))
        sizes.append(size(member))
        study.tell(trial, size(member))
    assert max(sizes[4:]) > max(sizes[:4])


def test_predictions_are_heard_before_results(space: SearchSpace) -> None:
    """With a prior that tells the quality, the surrogate needs few results to find what is best."""

    def prior(members: object) -> np.ndarray:
        return np.array([quality(a) for a in members])  # type: ignore[attr-defined]

    sampler = GuidedSampler(space, learner=None, prior=prior, initial=4)
    found = tried(optuna.create_study(direction="maximize", sampler=sampler), space, 10)
    best = max(quality(space.canonical(a)) for a in space.enumerate())
    assert max(map(quality, found)) >= best - 1


def test_a_pool_holds_what_may_be_proposed(space: SearchSpace) -> None:
    pools = Pools(space, names=["params"], bounds=[Bound("params", "<=", 2500.0)], costs=costs_in(space))
    members = pools.costs_of(list(pools._whole.members.architectures))
    assert (members <= 2500).all()
    assert len(members) > 100
    assert pools._whole.costs == pytest.approx(members)
    assert pools._whole.open({pools._whole.codes[0]}).sum() == len(members) - 1


def test_the_greedy_one_tries_what_it_believes_best(space: SearchSpace) -> None:
    """Its proposals have a higher expectation, and what it ends with is as good."""
    ends = {}
    for greedy in (False, True):
        sampler = GuidedSampler(space, learner=None, greedy=greedy, initial=6)
        found = tried(optuna.create_study(direction="maximize", sampler=sampler), space, 24)
        assert len({a.code for a in found}) == 24
        ends[greedy] = [quality(a) for a in found[6:]]
    assert np.mean(ends[True]) > np.mean(ends[False])
    assert max(ends[True]) >= max(ends[False]) - 1


def test_the_greedy_one_weighs_no_costs(space: SearchSpace) -> None:
    with pytest.raises(ConfigError, match="'greedy' takes one objective, accuracy; got accuracy, params. Try 'gp'"):
        GuidedSampler(space, greedy=True, objectives=BOTH, costs=costs_in(space))


@pytest.mark.parametrize("sampler", ["gcn", "gp"])
def test_a_search_is_resumed_as_if_it_had_not_stopped(
    job: Jobs, accuracies: Curves, write_table: Write, tiny: SearchSpace, tmp_path: Path, sampler: str
) -> None:
    """Three parts propose what one whole search does."""

    def run(directory: Path, *halts: int) -> list[str]:
        for most in (*halts, 10**9):
            left = [most]

            def stop(left: list[int] = left) -> bool:
                left[0] -= 1
                return left[0] < 0

            made = job(over=tiny, sampler=sampler, trials=24, directory=directory, stop=stop)
            if not made.table:
                write_table(made)
            search_recorded(made, recorded(accuracies))
        return [t.code for t in read_trials(directory)]

    assert run(tmp_path / "halves", 40, 37) == run(tmp_path / "whole")
