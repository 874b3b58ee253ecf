"""load_data: the contract that every source meets, and the arguments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nas_engine.data import SOURCES, DataSplits, RawImages, load_data
from search_spaces.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_data("digits")


def rows(part) -> set[bytes]:
    return {image.numpy().tobytes() for image in part.images}


def test_digits_have_the_documented_form(digits):
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (1150, 288, 359)
    assert digits.input_shape == digits.train.shape == (1, 8, 8)
    assert digits.classes == tuple("0123456789")
    assert digits.source == "digits"
    assert digits.train.images.dtype == torch.float32
    assert digits.train.labels.dtype == torch.int64
    assert (digits.train.images.min(), digits.train.images.max()) == (0, 1)
    assert "10 classes" in digits.description
    assert "fixed stratified 20%" in digits.description
    assert digits.augment.shift == 1
    assert not digits.augment.flip


def test_the_parts_share_no_image_and_lose_none(digits):
    parts = [rows(part) for part in (digits.train, digits.validation, digits.test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert sum(map(len, parts)) == 1797  # no two digits of scikit-learn's are equal


def test_all_parts_keep_the_proportions(digits):
    whole = np.bincount(np.concatenate([part.labels for part in (digits.train, digits.validation, digits.test)]))
    for part in (digits.train, digits.validation, digits.test):
        expected = whole * len(part) / 1797
        assert np.abs(np.bincount(part.labels) - expected).max() < 2


def test_the_seed_moves_validation_but_never_test(digits):
    other = load_data("digits", seed=1)
    assert torch.equal(other.test.images, digits.test.images)
    assert rows(other.validation) != rows(digits.validation)
    assert rows(other.train) | rows(other.validation) == rows(digits.train) | rows(digits.validation)
    assert other.fingerprint != digits.fingerprint


def test_the_same_call_gives_the_same_splits(digits):
    again = load_data("digits")
    assert again.fingerprint == digits.fingerprint
    assert torch.equal(again.train.images, digits.train.images)


def test_the_split_of_digits_is_pinned(digits):
    # a changed value means that results measured before can no longer be compared
    assert digits.fingerprint == "10528229407cf9cb94b1f28ccc44dae1bc071d7efb9a31f2461c613967ee8985"


def test_statistics_are_those_of_training_alone(digits):
    train = digits.train.images.double()
    assert digits.mean[0] == pytest.approx(train.mean().item(), rel=1e-9)
    assert digits.std[0] == pytest.approx(train.std(correction=0).item(), rel=1e-9)


def test_limit_cuts_training_and_validation_but_not_test(digits):
    small = load_data("digits", limit=200, validation=0.25)
    assert (len(small.train), len(small.validation)) == (150, 50)
    assert torch.equal(small.test.images, digits.test.images)
    assert rows(small.train) | rows(small.validation) < rows(digits.train) | rows(digits.validation)
    counts = np.bincount(torch.cat([small.train.labels, small.validation.labels]))
    assert counts.min() >= 19
    assert counts.max() <= 21
    assert "limited to 200 of 1,438" in small.description


def test_a_limit_beyond_the_data_changes_nothing(digits):
    assert load_data("digits", limit=10**6).fingerprint == digits.fingerprint


def test_the_smallest_limit_leaves_each_class_one_image_a_side():
    small = load_data("digits", limit=20, validation=0.01)
    assert torch.bincount(small.train.labels).tolist() == [1] * 10
    assert torch.bincount(small.validation.labels).tolist() == [1] * 10


def test_image_size_resizes_arrays():
    assert load_data("digits", image_size=12).input_shape == (1, 12, 12)


def test_to_keeps_everything_but_the_place(digits):
    moved = digits.to("cpu")
    assert moved.fingerprint == digits.fingerprint
    assert torch.equal(moved.test.labels, digits.test.labels)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"validation": 0.0}, "validation must be a fraction"),
        ({"validation": 1.0}, "validation must be a fraction"),
        ({"validation": float("nan")}, "validation must be a fraction"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"limit": 0}, "limit must be"),
        ({"limit": 19}, "limit 19 is too small for 10 classes: at least 20"),
        ({"image_size": 0}, "image_size must be"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, words):
    with pytest.raises(ConfigError, match=words) as caught:
        load_data("digits", **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("cifr10", "unknown data set 'cifr10': did you mean 'CIFAR10'\\?"),
        ("fashon-mnist", "did you mean 'FashionMNIST'\\?"),
        ("digit", "did you mean 'digits'\\?"),
        ("torchvision:cifar1000", "did you mean 'CIFAR100'\\?"),
        ("torchvision:digits", "write 'digits' alone"),
        ("nzp:data.npz", "unknown kind of data source 'nzp': did you mean 'npz'\\?"),
        ("", "unknown data set ''"),
        ("npz:", "write npz:PATH"),
        ("folder:", "write folder:PATH"),
        ("digits:8", "write 'digits'"),
    ],
)
def test_unknown_sources_are_named_with_what_is_allowed(spec, words):
    with pytest.raises(DataError, match=words) as caught:
        load_data(spec)
    assert "\n" not in str(caught.value)


def test_a_bare_path_is_told_how_to_write_it(tmp_path):
    with pytest.raises(DataError, match="is a path: write folder:"):
        load_data(str(tmp_path))
    (tmp_path / "x.npz").touch()
    with pytest.raises(DataError, match="is a path: write npz:"):
        load_data(str(tmp_path / "x.npz"))


def test_a_source_of_ones_own_is_checked_like_the_others(monkeypatch):
    def two_stripes(request):
        images = np.zeros((12, 3, 4, 4), dtype=np.uint8)
        images[6:, :, 0] = 200
        return RawImages("stripes", images, np.repeat([0, 1], 6), classes=("plain", request.argument), flip=False)

    monkeypatch.setitem(SOURCES._entries, "stripes", two_stripes)
    data = load_data("stripes:striped")
    assert data.classes == ("plain", "striped")
    assert data.source == "stripes:striped"
    flat = RawImages("flat", np.zeros((12, 16), dtype=np.uint8), np.repeat([0, 1], 6))
    monkeypatch.setitem(SOURCES._entries, "flat", lambda request: flat)
    with pytest.raises(DataError, match="a source must return N x C x H x W"):
        load_data("flat")
    assert not data.augment.flip  # the source's word counts more than the colour


def test_nothing_heavy_is_imported_before_it_is_needed():
    program = (
        "import sys, nas_engine.data;"
        "print([m for m in ('torch', 'torchvision', 'sklearn', 'PIL', 'scipy') if m in sys.modules])"
    )
    here = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=here, check=True)
    assert done.stdout.strip() == "[]"
