"""The scorer: caching, order, what cannot be scored, and errors; and how well scores rank real cells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from predictors import spearman
from predictors.zerocost import ZeroCostScorer, noise_batch, scorer, untrained, zero_cost
from search_spaces import Architecture, SearchSpace, make_space
from search_spaces.errors import ConfigError, DataError

NAMES = ("synflow", "nwot", "zico")
SMALL = {"input_shape": [3, 8, 8], "channels": 4, "cells": 1, "stages": 2}


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return make_space("nasbench201", SMALL)


@pytest.fixture(scope="module")
def members(space: SearchSpace) -> list[Architecture]:
    rng = np.random.default_rng(0)
    found = [space.sample(rng) for _ in range(40)]
    return [a for a in found if "none" not in space.operations(a)][:4]


def test_values_are_those_of_the_networks(space: SearchSpace, members: list[Architecture]) -> None:
    images, labels = noise_batch(space, 8, seed=5)
    found = ZeroCostScorer(space, NAMES, images, labels, seed=3)(members)
    assert found.shape == (4, 3)
    assert found.dtype == np.float64
    for row, a in zip(found, members, strict=True):
        one = zero_cost(untrained(space, a, 3), images, labels, NAMES)
        assert row.tolist() == [one[n].value for n in NAMES]


def test_order_and_company_do_not_matter(space: SearchSpace, members: list[Architecture]) -> None:
    first, second = ZeroCostScorer(space, NAMES), ZeroCostScorer(space, NAMES)
    np.testing.assert_array_equal(first(members), second(members[::-1])[::-1])
    other = ZeroCostScorer(space, NAMES, seed=1)(members)
    assert (other != first(members)).all()


def test_each_network_is_scored_once(
    space: SearchSpace, members: list[Architecture], monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    monkeypatch.setattr(scorer, "untrained", lambda s, a, seed: built.append(a.code) or untrained(s, a, seed))
    one = ZeroCostScorer(space, NAMES)
    assert one.seconds == dict.fromkeys(NAMES, 0.0)
    first = one([*members, *members])
    np.testing.assert_array_equal(first, one([*members, *members]))
    assert built == [a.code for a in members]
    assert all(s > 0 for s in one.seconds.values())


def test_what_cannot_be_scored_gets_the_worst(space: SearchSpace, members: list[Architecture]) -> None:
    broken = space.architecture()
    one = ZeroCostScorer(space, NAMES)
    np.testing.assert_array_equal(one([broken]), np.zeros((1, 3)))
    found = one([broken, *members])
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[0, 1:], found[1:, 1:].min(0))
    assert found[0, 0] == 0 < found[1:, 0].min()
    assert not np.isfinite(one.measure([broken])[0, 1:]).any()


def test_no_architectures(space: SearchSpace) -> None:
    assert ZeroCostScorer(space, NAMES)([]).shape == (0, 3)


def test_noise_and_weights_leave_the_random_state(space: SearchSpace, members: list[Architecture]) -> None:
    state = torch.get_rng_state()
    ZeroCostScorer(space, NAMES)(members[:1])
    assert torch.equal(state, torch.get_rng_state())
    images, labels = noise_batch(space, 100, seed=2)
    assert images.shape == (100, 3, 8, 8)
    assert abs(float(images.std()) - 1) < 0.05
    assert set(labels.tolist()) == set(range(10))


def test_mobile() -> None:
    space = make_space("mobile", {"input_shape": [1, 16, 16], "classes": 4})
    rng = np.random.default_rng(0)
    members = [space.sample(rng) for _ in range(3)]
    found = ZeroCostScorer(space, ("nwot", "synflow"), *noise_batch(space, 8))(members)
    assert np.isfinite(found).all()
    assert len(np.unique(found[:, 0])) == 3


WRONG = [
    ({"names": ["nwott"]}, ConfigError, "did you mean 'nwot'"),
    ({"names": []}, ConfigError, "at least one"),
    ({"names": ["nwot", "nwot"]}, ConfigError, "each once"),
    ({"images": torch.zeros(4, 3, 8, 8)}, DataError, "both, or neither"),
    ({"images": torch.zeros(4, 1, 8, 8), "labels": torch.zeros(4).long()}, DataError, "with their input_shape"),
]


@pytest.mark.parametrize(("given", "error", "text"), WRONG, ids=[w[2] for w in WRONG])
def test_errors_are_one_line(space: SearchSpace, given: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        ZeroCostScorer(space, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_nwot_ranks_real_cells(shared_file: Callable[[str], Path]) -> None:
    from benchmarks.zerocost import load_cells, load_images, one_seed

    target = "cifar100_test_acc_200ep"
    frame = load_cells(
        shared_file("nasbench201_zerocost/nasbench201_zerocost.parquet"),
        shared_file("nasbench201/nasbench201.parquet"),
        [target],
    )
    images = load_images(str(shared_file("cifar10_lossless_subset/cifar10_lossless_4000_249.npz")))[1]
    figures = one_seed(frame, images, ["nwot"], [target], cells=60, batch=32, seed=0)
    assert figures["spearman"][target]["nwot"] > 0.7
    assert abs(figures["spearman"][target]["nwot"] - figures["published"][target]["nwot"]) < 0.05


def test_the_benchmark_reads_the_names_of_cells() -> None:
    from benchmarks.zerocost import parse

    space = make_space("nasbench201")
    cell = parse(space, "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|")
    assert cell.values == {
        "edge01": "nor_conv_3x3",
        "edge02": "none",
        "edge12": "skip_connect",
        "edge03": "avg_pool_3x3",
        "edge13": "nor_conv_1x1",
        "edge23": "none",
    }


def test_published_values_are_close_to_ours(shared_file: Callable[[str], Path]) -> None:
    from benchmarks.zerocost import load_images, parse

    frame = pd.read_parquet(shared_file("nasbench201_zerocost/nasbench201_zerocost.parquet")).sample(8, random_state=1)
    images = load_images(str(shared_file("cifar10_lossless_subset/cifar10_lossless_4000_249.npz")))[1]
    space = make_space("nasbench201")
    members = [parse(space, text) for text in frame["arch_str"]]
    found = ZeroCostScorer(space, ["nwot", "synflow"], *images.batch(16, 0))(members)
    assert spearman(frame["cifar10_nwot"], found[:, 0]) > 0.9
    assert spearman(frame["cifar10_synflow"], found[:, 1]) > 0.9
