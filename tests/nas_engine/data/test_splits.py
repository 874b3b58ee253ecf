"""Stratified splits: promises that hold for any labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_engine.data.splits import channel_statistics, fingerprint, stratified
from search_spaces.errors import DataError


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(3, 60), min_size=1, max_size=12),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 2**40),
    leave=st.integers(0, 2),
)
def test_a_split_is_whole_stratified_and_of_the_asked_size(sizes, fraction, seed, leave):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = round(fraction * len(labels))
    taken, rest = stratified(labels, count, key=(seed,), leave=leave)
    assert sorted([*taken, *rest]) == list(range(len(labels)))
    assert len(taken) == np.clip(count, len(sizes), len(labels) - leave * len(sizes))
    shares = np.bincount(labels[taken], minlength=len(sizes))
    assert (shares >= 1).all()
    assert (np.array(sizes) - shares >= leave).all()
    again, _ = stratified(labels, count, key=(seed,), leave=leave)
    assert np.array_equal(taken, again)


def test_equal_classes_get_equal_shares_and_keys_differ():
    labels = np.arange(1000) % 10
    first, _ = stratified(labels, 200, key=(0,))
    second, _ = stratified(labels, 200, key=(1,))
    assert np.bincount(labels[first]).tolist() == [20] * 10
    assert not np.array_equal(first, second)
    overlap = len(np.intersect1d(first, second))
    assert 20 < overlap < 62  # 40 expected of two independent draws


def test_a_split_worked_by_hand():
    # 10 of 6, 3 and 11: quotas 3, 1.5, 5.5; the first of the two equal remainders wins
    labels = np.repeat([0, 1, 2], [6, 3, 11])
    taken, _ = stratified(labels, 10, key=(0,))
    assert np.bincount(labels[taken]).tolist() == [3, 2, 5]


def test_statistics_are_exact_over_chunks():
    images = np.random.default_rng(0).integers(0, 256, (2500, 2, 3, 3), dtype=np.uint8)
    mean, std = channel_statistics(images)
    assert mean == pytest.approx((images / 255).mean((0, 2, 3)), rel=1e-12)
    assert std == pytest.approx((images / 255).std((0, 2, 3)), rel=1e-12)


def test_a_constant_float_is_found_in_spite_of_rounding():
    with pytest.raises(DataError, match="constant"):
        channel_statistics(np.full((3000, 1, 7, 7), 0.1, dtype=np.float32))


def test_the_fingerprint_tells_shape_type_and_names_apart():
    zeros = np.zeros((2, 3), dtype=np.uint8)
    prints = {
        fingerprint(("a", "b"), [zeros]),
        fingerprint(("ab",), [zeros]),
        fingerprint(("a", "b"), [zeros.T]),
        fingerprint(("a", "b"), [zeros.view(np.int8)]),
        fingerprint(("a", "b"), [zeros, zeros]),
    }
    assert len(prints) == 5
