"""npz archives: shapes, types, and each way in which one can be wrong."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from nas_engine.data import load_data
from search_spaces.errors import DataError


def arrays(count: int = 40, shape: tuple[int, ...] = (6, 5), classes: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return {
        "train_x": random.integers(0, 256, (count, *shape), dtype=np.uint8),
        "train_y": labels,
        "test_x": random.integers(0, 256, (count // 2, *shape), dtype=np.uint8),
        "test_y": labels[: count // 2],
    }


def save(folder: Path, **content: np.ndarray) -> str:
    np.savez(folder / "data.npz", **content)
    return f"npz:{folder / 'data.npz'}"


def test_grey_images_get_one_channel(tmp_path):
    content = arrays()
    data = load_data(save(tmp_path, **content), validation=0.25)
    assert data.input_shape == (1, 6, 5)
    assert data.train.images.dtype == torch.uint8
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 20)
    assert np.array_equal(data.test.images[:, 0].numpy(), content["test_x"])
    assert np.array_equal(data.test.labels.numpy(), content["test_y"])
    assert not data.augment.flip


def test_colour_images_become_channels_first(tmp_path):
    content = arrays(shape=(6, 5, 3))
    data = load_data(save(tmp_path, **content))
    assert data.input_shape == (3, 6, 5)
    assert np.array_equal(data.test.images.numpy(), content["test_x"].transpose(0, 3, 1, 2))
    assert data.augment.flip
    train = data.train.images.double() / 255
    assert data.mean == pytest.approx(train.mean((0, 2, 3)).tolist())
    assert data.std == pytest.approx(train.std((0, 2, 3), correction=0).tolist())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_become_float32_and_keep_their_units(tmp_path, dtype):
    content = arrays()
    for key in ("train_x", "test_x"):
        content[key] = (content[key] / 8).astype(dtype)
    data = load_data(save(tmp_path, **content))
    assert data.train.images.dtype == torch.float32
    assert data.mean[0] == pytest.approx(data.train.images.double().mean().item())
    assert data.train.images.max() > 20


def test_without_a_test_part_one_is_split_off_and_said_so(tmp_path):
    content = arrays()
    del content["test_x"], content["test_y"]
    first, second = (load_data(save(tmp_path, **content), seed=seed) for seed in (0, 1))
    assert len(first.test) == 8
    assert torch.bincount(first.test.labels).tolist() == [2] * 4
    assert torch.equal(first.test.images, second.test.images)
    assert "no test part, so a fixed stratified 20% was split off" in first.description


def test_columns_of_labels_and_class_names_are_understood(tmp_path):
    content = arrays(classes=2)
    content["train_y"] = content["train_y"].astype(np.uint8)[:, None]
    data = load_data(save(tmp_path, **content, classes=np.array(["cat", "dog"]), extra=np.arange(3)))
    assert data.classes == ("cat", "dog")


def test_the_fingerprint_follows_content_and_not_place(tmp_path):
    content = arrays()
    first = load_data(save(tmp_path, **content)).fingerprint
    (tmp_path / "elsewhere").mkdir()
    assert load_data(save(tmp_path / "elsewhere", **content)).fingerprint == first
    content["test_x"][3, 2, 1] ^= 1
    assert load_data(save(tmp_path, **content)).fingerprint != first
    assert len(bytes.fromhex(first)) == hashlib.sha256().digest_size


def test_a_constant_channel_gets_deviation_one(tmp_path):
    content = arrays(shape=(6, 5, 3))
    content["train_x"][..., 1] = 77
    data = load_data(save(tmp_path, **content))
    assert data.std[1] == 1
    assert data.mean[1] == pytest.approx(77 / 255)
    assert data.normaliser(data.train.images)[:, 1].abs().max() < 1e-6


def test_a_class_missing_from_the_test_part_is_said(tmp_path):
    content = arrays()
    content["test_y"] = content["test_y"] % 3
    assert "the test part has no image of class 3" in load_data(save(tmp_path, **content)).description


def broken(name: str) -> dict[str, np.ndarray]:
    """`arrays()` with one thing wrong."""
    content = arrays()
    x, y = content["train_x"], content["train_y"]
    with_nan = x.astype(np.float32)
    with_nan[7, 1, 1] = np.nan
    with_infinity = x.astype(np.float64)
    with_infinity[[4, 9], 0, 0] = 1e300  # infinite only once it is float32
    changes: dict[str, dict[str, np.ndarray | None]] = {
        "no train_y": {"train_y": None},
        "no test_y": {"test_y": None},
        "nan": {"train_x": with_nan},
        "infinity": {"train_x": with_infinity},
        "int64 images": {"train_x": x.astype(np.int64)},
        "complex images": {"train_x": x.astype(complex)},
        "flat images": {"train_x": x.reshape(40, -1)},
        "channels first": {"train_x": np.zeros((40, 3, 8, 8), dtype=np.uint8)},
        "no images": {"train_x": x[:0], "train_y": y[:0]},
        "lengths": {"train_y": y[:-1]},
        "one-hot": {"train_y": np.eye(4, dtype=int)[y]},
        "float labels": {"train_y": y.astype(float)},
        "negative": {"train_y": y - 1},
        "gap": {"train_y": np.where(y == 2, 5, y)},
        "huge label": {"train_y": np.where(y == 2, 2**40, y)},
        "one class": {"train_y": y * 0},
        "names": {"classes": np.array(["a", "b"])},
        "same names": {"classes": np.array(["a", "b", "a", "d"])},
        "number names": {"classes": np.arange(4)},
        "unused name": {"classes": np.array(["a", "b", "c", "d", "e"])},
        "test class": {"test_y": content["test_y"] + 1},
        "test shape": {"test_x": content["test_x"][:, :5]},
        "test type": {"test_x": content["test_x"].astype(np.float32)},
        "single": {"train_y": np.where(np.arange(40) == 1, 1, np.where(y == 1, 0, y))},
        "constant": {"train_x": x * 0 + 3},
        "objects": {"train_y": y.astype(object)},
    }
    content.update(changes[name])  # type: ignore[arg-type]
    return {key: value for key, value in content.items() if value is not None}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no train_y", "has no train_y \\(it has test_x, test_y, train_x\\): it needs train_x and train_y"),
        ("no test_y", "has no test_y"),
        ("nan", "train_x has NaN or infinite values in 1 of 40 images, first in number 7"),
        ("infinity", "in 2 of 40 images, first in number 4"),
        ("int64 images", "has type int64, but images are uint8 .* or float"),
        ("complex images", "has type complex128"),
        ("flat images", "has shape \\(40, 30\\), but N x H x W"),
        ("channels first", "looks like N x C x H x W: .*transpose\\(0, 2, 3, 1\\)"),
        ("no images", "is empty"),
        ("lengths", "has 39 labels for 40 images"),
        ("one-hot", "one-hot rows become numbers with .argmax\\(1\\)"),
        ("float labels", "has type float64, but class numbers are integers"),
        ("negative", "negative label -1"),
        ("gap", "no training image has class 2, 4 \\(2 of 6 classes are missing\\): number the classes 0..3"),
        ("huge label", "no training image has class 2, 4, 5, 6, 7, \\.\\.\\."),
        ("one class", "only one class"),
        ("names", "labels go up to 3, but there are 2 class names"),
        ("same names", "two classes bear the same name"),
        ("number names", "a list of strings is needed"),
        ("unused name", "no training image has class e \\(4\\)"),
        ("test class", "a test image has class 4"),
        ("test shape", "1 x 6 x 5 \\(C x H x W\\) but test images are 1 x 5 x 5"),
        ("test type", "uint8 but test images are float32"),
        ("single", "too few training images of class 1 \\(1\\): at least 2"),
        ("constant", "one and the same constant"),
        ("objects", "pickled objects are not read"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, name, words):
    with pytest.raises(DataError, match=words) as caught:
        load_data(save(tmp_path, **broken(name)))
    assert "\n" not in str(caught.value)


def test_three_of_a_class_are_needed_where_test_is_split_off(tmp_path):
    content = {key: value[:8] for key, value in arrays().items() if key.startswith("train")}
    with pytest.raises(DataError, match=r"class 0 \(2\), 1 \(2\), .*at least 3"):
        load_data(save(tmp_path, **content))


def test_files_that_are_no_archive_are_refused(tmp_path):
    path = tmp_path / "data.npz"
    with pytest.raises(DataError, match=r"there is no file .*data\.npz"):
        load_data(f"npz:{path}")
    with pytest.raises(DataError, match=r"is a folder, .* write folder:"):
        load_data(f"npz:{tmp_path}")
    for content in (b"", b"not an archive", b"PK\x03\x04 cut off"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"data\.npz cannot be read as npz") as caught:
            load_data(f"npz:{path}")
        assert "\n" not in str(caught.value)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="holds a single array"):
        load_data(f"npz:{path}")


def test_a_zip_of_other_things_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("train_x", "no array")
        archive.writestr("train_y.npy", "no array either")
    with pytest.raises(DataError, match=r"data\.npz (cannot be read|has a member train_)"):
        load_data(f"npz:{tmp_path / 'data.npz'}")


def test_a_damaged_archive_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "data.npz", **arrays())
    whole = (tmp_path / "data.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(flipped)
    for name in ("cut.npz", "flipped.npz"):
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            load_data(f"npz:{tmp_path / name}")


def test_fashion_mnist_whole(shared_data):
    data = load_data(f"npz:{shared_data / 'fashion_mnist' / 'fashion_mnist.npz'}")
    assert (len(data.train), len(data.validation), len(data.test)) == (48000, 12000, 10000)
    assert data.train.images.dtype == torch.uint8
    assert data.input_shape == (1, 28, 28)
    assert torch.bincount(data.validation.labels).tolist() == [1200] * 10
    assert data.mean[0] == pytest.approx(0.2860, abs=5e-4)
    assert data.std[0] == pytest.approx(0.3530, abs=5e-4)
