"""Local search: descents read off the study, restarts, late results, several objectives, bounds, repeatable."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import optuna
import pytest

from nas_engine.config import Bound
from nas_engine.tuning import architecture_of, distributions
from nas_engine.tuning.sampling import Told
from nas_engine.tuning.sampling.local import LocalSampler
from search_spaces import Architecture, SearchSpace

optuna.logging.set_verbosity(optuna.logging.WARNING)
Losses = Callable[[Architecture], tuple[float, ...]]


def told(members: list[Architecture], losses: Losses, pending: tuple[Architecture, ...] = ()) -> Told:
    values = np.array([losses(a) for a in members], dtype=float) if members else np.zeros((0, 1))
    return Told(len(members), members, values, np.ones(len(members), dtype=bool), list(pending), [])


def walk(sampler: LocalSampler, losses: Losses, count: int) -> list[Architecture]:
    members: list[Architecture] = []
    for number in range(count):
        member = sampler.propose(told(members, losses), np.random.default_rng([7, number]))
        assert member is not None
        members.append(member)
    return members


def near(space: SearchSpace, one: Architecture, other: Architecture) -> bool:
    return other in set(space.neighbours(one))


def smooth(architecture: Architecture) -> tuple[float, ...]:
    """No local optimum but the best member, all options at their last."""
    return (-float(sum(architecture.indices)),)


def bumpy(architecture: Architecture) -> tuple[float, ...]:
    """Random, with many local optima."""
    return (float(np.random.default_rng(list(architecture.code.encode())).random()),)


def test_each_proposal_is_a_neighbour_of_the_best_so_far(tiny: SearchSpace) -> None:
    members = walk(LocalSampler(tiny), smooth, 20)
    best = members[0]
    for member in members[1:]:
        if smooth(best)[0] == -float(sum(len(c.options) - 1 for c in tiny.choices)):
            break
        assert near(tiny, best, member)
        best = min(best, member, key=lambda a: smooth(a)[0])
    else:
        pytest.fail("the optimum was not found in 20 proposals")


def test_at_a_local_optimum_a_descent_begins_anew(tiny: SearchSpace) -> None:
    """After all neighbours of the best failed, a random member is next, and its neighbours follow, better or not."""
    sampler = LocalSampler(tiny)
    optimum = next(a for a in tiny.enumerate() if all(bumpy(a) < bumpy(n) for n in tiny.neighbours(a)))
    around = [optimum, *tiny.neighbours(optimum)]
    start = sampler.propose(told(around, bumpy), np.random.default_rng(0))
    assert start is not None
    assert start not in around
    for seed in range(10):
        following = sampler.propose(told([*around, start], bumpy), np.random.default_rng(seed))
        assert following is not None
        assert near(tiny, start, following)


def test_a_late_better_result_takes_the_search_back(tiny: SearchSpace) -> None:
    """The last neighbour was running when the next descent began. Worse, it changes nothing; better, it is followed."""
    sampler = LocalSampler(tiny)
    first, *_ = tiny.enumerate()
    around = list(tiny.neighbours(first))
    late = around[-1]
    far = next(a for a in tiny.enumerate() if not near(tiny, first, a) and a != first and not near(tiny, late, a))
    order = [first, *around[:-1]]

    def losses(of_late: float) -> Losses:
        return lambda a: ({first.code: 1.0, late.code: of_late}.get(a.code, 2.0),)

    running = sampler._descent(told([*order, far], losses(0.0), pending=(late,)))
    assert running.members == [far]
    assert sampler._descent(told([*order, late, far], losses(3.0))).members == [far]
    assert sampler._descent(told([*order, late, far], losses(0.0))).members == [late]


def test_several_objectives_keep_all_that_none_dominates(tiny: SearchSpace) -> None:
    """Two opposed objectives: nothing dominates anything, and every member is reached without a restart."""

    def opposed(architecture: Architecture) -> tuple[float, ...]:
        total = float(sum(architecture.indices))
        return (total, -total)

    sampler = LocalSampler(tiny)
    members = walk(sampler, opposed, 30)
    for i, member in enumerate(members[1:], 1):
        assert any(near(tiny, before, member) for before in members[:i])
    totals = {opposed(a) for a in members}
    assert {opposed(a) for a in sampler._descent(told(members, opposed)).members} == totals


def test_what_breaks_a_constraint_is_left_for_what_does_not(tiny: SearchSpace) -> None:
    first, *_ = tiny.enumerate()
    second = next(tiny.neighbours(first))
    seen = told([first, second], lambda a: (0.0 if a == first else 1.0,))
    seen.feasible[0] = False
    assert LocalSampler(tiny)._descent(seen).members == [second]


def test_every_member_is_proposed_once_and_then_none(tiny: SearchSpace) -> None:
    sampler = LocalSampler(tiny)
    members = walk(sampler, bumpy, 64)
    assert len({a.code for a in members}) == 64
    assert sampler.propose(told(members, bumpy), np.random.default_rng(0)) is None


def test_bounds_are_kept(tiny: SearchSpace) -> None:
    bounds = [Bound.parse("macs <= 2")]
    sampler = LocalSampler(tiny, bounds=bounds, costs=lambda a: {"macs": float(a.indices[0])})
    assert all(a.indices[0] <= 2 for a in walk(sampler, smooth, 30))


@pytest.mark.parametrize("directions", [["minimize"], ["minimize", "maximize"]])
def test_an_interrupted_study_goes_on_as_if_it_had_not_been(space: SearchSpace, directions: list[str]) -> None:
    def proposals(interrupted: bool) -> list[dict[str, object]]:
        study = optuna.create_study(directions=directions, sampler=LocalSampler(space, seed=3))
        for number in range(30):
            if interrupted and number == 17:
                study.sampler = LocalSampler(space, seed=3)
            trial = study.ask(distributions(space))
            member = architecture_of(space, trial.params)
            study.tell(trial, [*bumpy(member), float(sum(member.indices))][: len(directions)])
        return [t.params for t in study.trials]

    assert proposals(True) == proposals(False)
