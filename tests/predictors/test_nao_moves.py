"""NAO's moves and rounds: new members, better than what they start from, the same whenever they are asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from predictors.nao import JOINT, NAOPredictor, NAOProposer, NAORounds, improved
from search_spaces import Architecture, SearchSpace, make_space
from search_spaces.errors import ConfigError, DataError, EngineError

QUICK: dict[str, Any] = {**JOINT, "hidden": 32, "embedding": 16, "members": 2, "folds": 2, "max_steps": 150}
TINY: dict[str, Any] = {"hidden": 8, "embedding": 4, "members": 1, "max_steps": 20}


def additive(member: Architecture) -> float:
    return float(sum((5 + i) * index for i, index in enumerate(member.indices)))


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return make_space("nasbench201")


@pytest.fixture(scope="module")
def members(space: SearchSpace) -> list[Architecture]:
    rng = np.random.default_rng(0)
    return list({space.canonical(space.sample(rng)): None for _ in range(160)})[:120]


def fitted(space: SearchSpace, members: list[Architecture], **more: Any) -> NAOPredictor:
    scores = [additive(a) for a in members]
    return NAOPredictor(space, **{**QUICK, **more}).fit(members, scores, groups=[0] * len(members))


@pytest.fixture(scope="module")
def model(space: SearchSpace, members: list[Architecture]) -> NAOPredictor:
    return fitted(space, members)


@pytest.fixture(scope="module")
def seeds(members: list[Architecture]) -> list[Architecture]:
    return sorted(members, key=additive, reverse=True)[:15]


def codes(members: list[Architecture]) -> list[str]:
    return [a.code for a in members]


# ---- proposals ---------------------------------------------------------------------------------------------


def test_proposals_are_new_allowed_and_canonical(
    model: NAOPredictor, space: SearchSpace, members: list[Architecture], seeds: list[Architecture]
) -> None:
    def allow(member: Architecture) -> bool:
        return member["edge01"] != "none"

    found = NAOProposer(model).propose(seeds, 40, seen=codes(members), allow=allow)
    assert len(found) == len(set(found)) == 40
    assert not set(codes(found)) & set(codes(members))
    assert all(allow(a) and space.canonical(a) == a for a in found)


def test_moved_points_decode_to_better_members_than_points_left_alone(
    model: NAOPredictor, members: list[Architecture], seeds: list[Architecture]
) -> None:
    """From middling members, which leave room above."""
    middling = sorted(members, key=additive)[50:70]
    moved, drawn = (
        NAOProposer(model, steps=steps).propose(middling, 30, seen=codes(members)) for steps in (range(1, 51), ())
    )
    before, after, beside = (np.mean([additive(a) for a in group]) for group in (middling, moved, drawn))
    assert after > before + 5
    assert after > beside + 5


def test_the_gradient_points_uphill(model: NAOPredictor, seeds: list[Architecture]) -> None:
    """Every network's own score of the point reached rises with a small step, and falls against the gradient."""
    outputs, uphill = NAOProposer(model)._directions(seeds)
    networks, context = model.kept, model.inputs(model.reader.read(seeds))[1].unsqueeze(0)

    def score(step: float) -> torch.Tensor:
        moved = networks.encoder.on_sphere(outputs + step * uphill)
        return networks.scorer(torch.nn.functional.normalize(moved.mean(2), dim=-1), context).mean(1)

    with torch.no_grad():
        assert (score(0.05) > score(0.0)).all()
        assert (score(-0.05) < score(0.0)).all()


def test_small_steps_come_first(model: NAOPredictor, members: list[Architecture], seeds: list[Architecture]) -> None:
    few, many = (NAOProposer(model).propose(seeds, count, seen=codes(members)) for count in (5, 60))
    assert many[:5] == few
    near, far = (NAOProposer(model, steps=[step]).propose(seeds[:1], 1, seen=codes(seeds)) for step in (0.5, 50))
    assert near != far


def test_draws_go_on_where_no_step_leads_anywhere(
    model: NAOPredictor, members: list[Architecture], seeds: list[Architecture]
) -> None:
    found = NAOProposer(model, steps=()).propose(seeds, 20, seen=codes(members))
    assert len(found) == 20
    assert found == NAOProposer(model, steps=()).propose(seeds, 20, seen=codes(members))
    assert found != NAOProposer(model, steps=(), seed=1).propose(seeds, 20, seen=codes(members))


def test_nothing_left_to_propose(model: NAOPredictor, space: SearchSpace, seeds: list[Architecture]) -> None:
    proposer = NAOProposer(model, steps=(1, 2))
    assert proposer.propose([], 5) == []
    assert proposer.propose(seeds, 5, seen=codes(list(space.enumerate()))) == []
    assert proposer.propose(seeds, 5, allow=lambda a: False) == []


def test_without_decoder_the_nearest_members(
    space: SearchSpace, members: list[Architecture], seeds: list[Architecture]
) -> None:
    model = fitted(space, members, balance=1.0)
    found = NAOProposer(model).propose(seeds, 15, seen=codes(members))
    assert len(set(found)) == 15
    assert not set(codes(found)) & set(codes(members))
    changes = [min(sum(x != y for x, y in zip(a.indices, s.indices, strict=True)) for s in seeds) for a in found]
    assert max(changes) <= 6
    assert np.mean([additive(a) for a in found]) > np.mean([additive(a) for a in members])


def test_what_cannot_propose(space: SearchSpace, members: list[Architecture]) -> None:
    with pytest.raises(EngineError, match="need a fitted predictor"):
        NAOProposer(NAOPredictor(space))
    informed = NAOPredictor(space, **{**QUICK, "max_steps": 20})
    informed.fit(members[:10], range(10), groups=[0] * 10, extra=np.ones((10, 1)))
    with pytest.raises(EngineError, match="without further inputs"):
        NAOProposer(informed)


def test_improved_members_are_ranked_and_repeatable(space: SearchSpace, members: list[Architecture]) -> None:
    scores = np.array([additive(a) for a in members])
    best = [members[i] for i in np.argsort(-scores)[:10]]
    runs = [
        improved(space, members, scores, seeds=best, count=30, settings={**QUICK, "context": "totals"}, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]
    values = [additive(a) for a in runs[0]]
    assert np.mean(values[:10]) > np.mean(values[-10:])


@pytest.mark.parametrize("name", ["mobile"])
def test_other_spaces(name: str) -> None:
    space, rng = make_space(name), np.random.default_rng(0)
    members = [space.sample(rng) for _ in range(30)]
    scores = np.array([additive(a) for a in members])
    best = [members[i] for i in np.argsort(-scores)[:5]]
    found = improved(space, members, scores, seeds=best, count=20, settings={**TINY, "context": "totals"})
    assert len(set(found)) == 20
    assert not set(codes(found)) & set(codes(members))


@pytest.mark.slow
def test_on_nas_bench_201_they_beat_seeds_and_mutations(space: SearchSpace, shared_file: Callable[[str], Path]) -> None:
    """Mean CIFAR-10 test accuracy of 50 proposals from 200 results, with labels of canonical members."""
    frame = pd.read_parquet(shared_file("nasbench201/nasbench201.parquet"))
    accuracy = dict(
        zip([space.from_text(t).code for t in frame["arch_str"]], frame["cifar10_test_acc_200ep"], strict=True)
    )
    rng = np.random.default_rng(0)
    drawn = list({space.canonical(space.sample(rng)): None for _ in range(260)})[:200]
    scores = np.array([accuracy[a.code] for a in drawn])
    best = [drawn[i] for i in np.argsort(-scores)[:20]]
    ranked = improved(space, drawn, scores, seeds=best, count=100)[:20]
    seen = set(codes(drawn))
    mutants = [space.canonical(space.mutate(best[i % 20], rng)) for i in range(400)]
    mutants = list({a: None for a in mutants if a.code not in seen})[:20]
    found, before, mutated = (np.mean([accuracy[a.code] for a in group]) for group in (ranked, best, mutants))
    assert found > before
    assert found > mutated + 0.2


# ---- rounds ------------------------------------------------------------------------------------------------


def rounds(space: SearchSpace, **more: Any) -> NAORounds:
    return NAORounds(space, **{"members": 24, "rounds": 3, "settings": TINY, "seed": 3, **more})


def answered(search: NAORounds, times: int = 100) -> list[list[str]]:
    asked = []
    while len(asked) < times and (members := search.ask()) is not None:
        asked.append(codes(members))
        search.tell([additive(a) for a in members])
    return asked


def test_rounds_ask_for_what_they_said(space: SearchSpace) -> None:
    search = rounds(space)
    asked = answered(search)
    assert [len(a) for a in asked] == [12, 6, 6]
    assert len(set(chain(*asked))) == search.questions == 24
    assert search.ask() is None
    assert search.scored == {c: additive(space.decode(c)) for c in chain(*asked)}


def test_the_same_question_until_it_is_answered(space: SearchSpace) -> None:
    search = rounds(space)
    assert search.ask() == search.ask()


@pytest.mark.parametrize("told", [0, 1, 2])
def test_going_on_from_a_state(space: SearchSpace, told: int) -> None:
    whole, part = rounds(space), rounds(space)
    expected = answered(whole)
    before = answered(part, told)
    part.ask()
    again = rounds(space)
    again.restore(json.loads(json.dumps(part.state)))
    assert before + answered(again) == expected
    assert again.state == whole.state


def test_a_space_smaller_than_the_question() -> None:
    from tests.predictors.test_nao_decoder import Waiting

    search = rounds(Waiting(), members=60, rounds=3)
    asked = answered(search)
    assert len(asked) >= 2
    assert len(set(chain(*asked))) == sum(map(len, asked)) <= Waiting().size


def test_wrong_answers_and_states_are_refused(space: SearchSpace) -> None:
    search = rounds(space)
    with pytest.raises(DataError, match=r"call ask\(\) first"):
        search.tell([1.0])
    search.ask()
    with pytest.raises(DataError, match="12 members were asked for, 1 scores came"):
        search.tell([1.0])
    with pytest.raises(DataError, match="seed 3, now it is 4"):
        rounds(space, seed=4).restore(search.state)
    with pytest.raises(DataError, match="damaged"):
        rounds(space).restore({**search.state, "codes": [["44444?"]]})
    with pytest.raises(DataError, match="do not belong together"):
        rounds(space).restore({**search.state, "scores": [[1.0]]})


@pytest.mark.parametrize(
    ("more", "words"),
    [({"rounds": 0}, "rounds >= 1"), ({"first": 1.0}, "first between"), ({"members": 13, "first": 0.9}, "too few")],
)
def test_rounds_that_cannot_be(space: SearchSpace, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        rounds(space, **more)
