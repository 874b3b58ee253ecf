"""The NAO sampler in plain Optuna studies: what it proposes, when it fits, and that history alone decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest

from nas_engine.config import Bound
from nas_engine.tuning import SamplerSettings, architecture_of, distributions, make_sampler
from nas_engine.tuning.sampling import Limits, Told
from nas_engine.tuning.sampling.nao import NAOSampler, scalarised
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import ConfigError

MODEL = {"hidden": 16, "embedding": 8, "members": 1, "max_steps": 30, "context": "totals"}
optuna.logging.set_verbosity(optuna.logging.WARNING)


def quality(member: Architecture) -> float:
    return float(sum((3 + i) * index for i, index in enumerate(member.indices)))


def sampler(space: SearchSpace, **more: Any) -> NAOSampler:
    return NAOSampler(space, **{"pool": 40, "first": 6, "every": 4, "settings": MODEL, **more})


def study_of(made: NAOSampler, directions: tuple[str, ...] = ("maximize",)) -> optuna.Study:
    return optuna.create_study(directions=list(directions), sampler=made)


def go_on(study: optuna.Study, space: SearchSpace, count: int) -> list[str]:
    """Codes of the next proposals; all told."""
    found = []
    for _ in range(count):
        trial = study.ask(distributions(space))
        member = space.canonical(architecture_of(space, trial.params))
        values = [quality(member), float(member.indices[0] + member.indices[-1])]
        study.tell(trial, values[: len(study.directions)])
        found.append(member.code)
    return found


def test_no_member_twice_and_better_than_at_random(space: SearchSpace) -> None:
    codes = go_on(study_of(sampler(space)), space, 22)
    assert len(set(codes)) == 22
    values = [quality(space.decode(c)) for c in codes]
    assert np.mean(values[6:]) > np.mean(values[:6]) + 10


@pytest.mark.parametrize("directions", [("maximize",), ("maximize", "minimize")])
def test_half_a_study_goes_on_as_the_whole_one(space: SearchSpace, directions: tuple[str, ...]) -> None:
    """Cut amid a block, after a fit that the new sampler has to repeat."""
    whole, part = study_of(sampler(space, seed=2), directions), study_of(sampler(space, seed=2), directions)
    expected = go_on(whole, space, 16)
    found = go_on(part, space, 9)
    part.sampler = sampler(space, seed=2)
    assert found + go_on(part, space, 7) == expected
    assert expected != go_on(study_of(sampler(space, seed=3), directions), space, 16)


def test_fits_wait_for_enough_results(space: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    made, fits = sampler(space, first=6, every=4), []
    fit = NAOSampler._fit

    def counted(self: NAOSampler, members: list[Architecture], *rest: Any) -> list[Architecture]:
        fits.append(len(members))
        return fit(self, members, *rest)

    monkeypatch.setattr(NAOSampler, "_fit", counted)
    go_on(study_of(made), space, 16)
    assert fits == [6, 10, 14]
    assert [made._learned(n) for n in (5, 6, 9, 10, 33, 40)] == [0, 6, 6, 10, 31, 37]


def test_concurrent_proposals_differ(space: SearchSpace) -> None:
    study = study_of(sampler(space))
    go_on(study, space, 8)
    running = [study.ask(distributions(space)) for _ in range(6)]
    assert len({space.canonical(architecture_of(space, t.params)).code for t in running}) == 6


def test_bounds_are_kept(space: SearchSpace) -> None:
    def costs(member: Architecture) -> dict[str, float]:
        return {"params": float(member.indices.count(4))}

    limits = Limits([Bound.parse("params <= 1")], costs)
    codes = go_on(study_of(sampler(space, limits=limits)), space, 12)
    assert all(space.decode(c).indices.count(4) <= 1 for c in codes)


def test_the_whole_of_a_small_space(tiny: SearchSpace) -> None:
    codes = go_on(study_of(sampler(tiny, every=20)), tiny, 64)
    assert len(set(codes)) == 64
    go_on(study_of(sampler(tiny, every=20)), tiny, 2)


def test_results_that_break_a_constraint_are_no_seeds(space: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    import predictors.nao

    asked: list[list[Architecture]] = []
    monkeypatch.setattr(predictors.nao, "improved", lambda *args, seeds, **more: asked.append(seeds) or [])
    rng = np.random.default_rng(0)
    members = [space.canonical(space.sample(rng)) for _ in range(8)]
    losses, feasible = -np.arange(8.0)[:, None], np.arange(8) < 3
    sampler(space).propose(Told(8, members, losses, feasible, []), rng)
    sampler(space).propose(Told(8, members, losses, np.zeros(8, dtype=bool), []), rng)
    assert len(asked) == 2
    assert asked[0] == [members[i] for i in (2, 1, 0)]
    assert asked[1] == [members[i] for i in (5, 4, 3, 2, 1, 0)]  # the first fit sees six


def test_one_objective_is_its_own_loss() -> None:
    loss, front = scalarised(np.array([[3.0], [1.0], [2.0]]), np.array([True, False, True]), np.random.default_rng(0))
    assert loss.tolist() == [3, 1, 2]
    assert front.tolist() == [False, False, True]


def test_trade_offs_reach_both_ends_of_the_front() -> None:
    losses = np.array([[0.0, 1.0], [0.4, 0.4], [1.0, 0.0], [1.0, 1.0]])
    best = [
        int(scalarised(losses, np.ones(4, dtype=bool), np.random.default_rng(seed))[0].argmin()) for seed in range(60)
    ]
    assert set(best) == {0, 1, 2}
    front = scalarised(losses, np.ones(4, dtype=bool), np.random.default_rng(0))[1]
    assert front.tolist() == [True, True, True, False]


def test_without_decoder(space: SearchSpace) -> None:
    codes = go_on(study_of(sampler(space, settings={**MODEL, "balance": 1.0})), space, 14)
    assert len(set(codes)) == 14


def test_by_name(space: SearchSpace) -> None:
    made = make_sampler("nao", SamplerSettings(space, trials=40, seed=5))
    assert isinstance(made, NAOSampler)
    assert (made._first, made.seed) == (10, 5)


def test_settings_are_checked(space: SearchSpace) -> None:
    with pytest.raises(ConfigError, match="first >= 4"):
        NAOSampler(space, first=3)
