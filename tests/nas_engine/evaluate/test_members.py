"""Scores of supernet members do not depend on what was scored before."""

from __future__ import annotations

import numpy as np
import pytest

from nas_engine.data import load_data
from nas_engine.evaluate import MemberScorer
from search_spaces import Supernet, make_space


@pytest.fixture(scope="module")
def scorer() -> tuple[MemberScorer, list]:
    data = load_data("digits", limit=300)
    space = make_space("nasbench201", {"input_shape": (1, 8, 8), "channels": 4, "cells": 1})
    rng = np.random.default_rng(0)
    members = [space.canonical(space.sample(rng)) for _ in range(4)]
    return MemberScorer(Supernet(space), data, batch_size=32, recalibration_batches=2), members


def test_scores_do_not_depend_on_their_order(scorer: tuple[MemberScorer, list]) -> None:
    judge, members = scorer
    forwards = [judge.score(a) for a in members]
    backwards = [judge.score(a) for a in reversed(members)]
    assert forwards == backwards[::-1]


def test_halves_make_the_whole(scorer: tuple[MemberScorer, list]) -> None:
    judge, members = scorer
    score = judge.score(members[0])
    assert score.accuracy == pytest.approx((score.first_half + score.second_half) / 2, abs=0.02)
    assert score.loss > 0
