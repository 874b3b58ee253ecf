"""The predictor of zero-cost scores: its order, its unit, its state."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from predictors.base import load_predictor, make_predictor
from predictors.zerocost import ZeroCostPredictor, ZeroCostScorer, noise_batch
from search_spaces import Architecture, SearchSpace, make_space
from search_spaces.errors import ConfigError, DataError, EngineError

SMALL = {"input_shape": [3, 8, 8], "channels": 4, "cells": 1, "stages": 2}


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return make_space("nasbench201", SMALL)


@pytest.fixture(scope="module")
def data(space: SearchSpace) -> tuple[list[Architecture], np.ndarray]:
    """Cells with an accuracy that grows with the number of their convolutions, plus noise."""
    rng = np.random.default_rng(0)
    members = [space.sample(rng) for _ in range(30)]
    scores = [80 + 2 * sum("conv" in o for o in space.operations(a)) + rng.normal(0, 0.3) for a in members]
    return members, np.array(scores)


@pytest.fixture(scope="module")
def fitted(space: SearchSpace, data: tuple[list[Architecture], np.ndarray]) -> ZeroCostPredictor:
    return ZeroCostPredictor(space, batch=16).fit(data[0][:20], data[1][:20])


def test_it_ranks_by_the_score_in_the_unit_of_the_labels(
    space: SearchSpace, data: tuple[list[Architecture], np.ndarray], fitted: ZeroCostPredictor
) -> None:
    unseen = data[0][20:]
    mean, std = fitted.predict(unseen)
    found = ZeroCostScorer(space, ["nwot"], *noise_batch(space, 16))(unseen)[:, 0]
    scorable = np.isfinite(ZeroCostScorer(space, ["nwot"], *noise_batch(space, 16)).measure(unseen)[:, 0])
    np.testing.assert_array_equal(np.argsort(mean[scorable]), np.argsort(found[scorable]))
    assert (std > 0).all()
    assert 70 < mean.min() < mean.max() < 100
    assert fitted.held_out is not None
    assert fitted.held_out.n == 20
    assert fitted.held_out.tau > 0.4


def test_what_cannot_be_scored_is_predicted_alike_whatever_came_before(
    space: SearchSpace, data: tuple[list[Architecture], np.ndarray]
) -> None:
    good = [a for a in data[0] if "none" not in space.operations(a)]
    good += [space.architecture(edge03="nor_conv_3x3", edge02=o) for o in ("none", "skip_connect", "nor_conv_1x1")]
    predictor = ZeroCostPredictor(space, batch=8).fit(good, np.arange(len(good)))
    broken = [space.architecture()]
    before = predictor.predict(broken)
    predictor.predict([space.architecture(edge03="skip_connect")])
    np.testing.assert_array_equal(before, predictor.predict(broken))
    assert before[0] <= predictor.predict(good)[0].min()


@pytest.mark.parametrize("real", [False, True])
def test_round_trip(
    space: SearchSpace, data: tuple[list[Architecture], np.ndarray], tmp_path: Path, real: bool
) -> None:
    predictor = ZeroCostPredictor(space, score="synflow" if not real else "snip", batch=8, seed=3)
    if real:
        generator = torch.Generator().manual_seed(9)
        images, labels = torch.rand(10, 3, 8, 8, generator=generator), torch.arange(10)
        predictor = predictor.with_batch(images, labels)
        assert torch.equal(predictor._scorer.images, images)
    predictor.fit(data[0][:12], data[1][:12])
    predictor.save(tmp_path)
    loaded = load_predictor(tmp_path, space)
    np.testing.assert_array_equal(loaded.predict(data[0][12:20]), predictor.predict(data[0][12:20]))
    assert loaded.id == predictor.id
    assert loaded.held_out == predictor.held_out
    copied = pickle.loads(pickle.dumps(predictor))
    np.testing.assert_array_equal(copied.predict(data[0][12:20]), predictor.predict(data[0][12:20]))


def test_with_batch_is_another_predictor(space: SearchSpace, fitted: ZeroCostPredictor) -> None:
    other = fitted.with_batch(*noise_batch(space, 8, seed=7))
    assert not other.fitted
    assert fitted.fitted
    assert other.settings == fitted.settings
    with pytest.raises(EngineError, match="is not fitted"):
        other.predict([space.architecture()])


def test_registered(space: SearchSpace) -> None:
    predictor = make_predictor("zerocost", space, score="synflow", batch=8, seed=1)
    assert isinstance(predictor, ZeroCostPredictor)


def test_damaged_state(space: SearchSpace, fitted: ZeroCostPredictor) -> None:
    tensors, facts = fitted._state()
    with pytest.raises(KeyError):
        fitted._restore({k: v for k, v in tensors.items() if k != "images"}, facts)
    with pytest.raises(ValueError, match="input_shape"):
        ZeroCostPredictor(space)._restore({**tensors, "images": np.zeros((4, 1, 2, 2), np.float32)}, facts)


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"score": "synflo"}, "did you mean 'synflow'"), ({"batch": 2}, "4 images or more"), ({"batches": 2}, "batch")],
)
def test_wrong_settings(space: SearchSpace, settings: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        ZeroCostPredictor(space, **settings)
    assert "\n" not in str(caught.value)


def test_further_inputs_are_refused(space: SearchSpace, data: tuple[list[Architecture], np.ndarray]) -> None:
    with pytest.raises(DataError, match="leave extra out"):
        ZeroCostPredictor(space, batch=8).fit(data[0][:6], data[1][:6], extra=np.zeros((6, 2)))
    with pytest.raises(DataError, match="give both|with their input_shape"):
        ZeroCostPredictor(space).with_batch(torch.zeros(4, 1, 2, 2), torch.zeros(4).long())
