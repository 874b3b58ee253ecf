"""Folders of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas_engine.data import load_data
from search_spaces.errors import DataError


def picture(path: Path, size: tuple[int, int] = (6, 4), mode: str = "RGB", level: int = 128) -> Path:
    """A picture of one level with a white first pixel; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, size, level if mode in ("L", "P") else (level,) * len(mode))
    image.putpixel((0, 0), 255 if mode in ("L", "P") else (255,) * len(mode))
    image.save(path)
    return path


def fill(root: Path, classes: str = "ab", count: int = 5, **options) -> None:
    for position, name in enumerate(classes):
        for index in range(count):
            picture(root / name / f"{index}.png", level=20 + 40 * position + index, **options)


def test_sub_folders_are_classes_in_order_of_name(tmp_path):
    fill(tmp_path, "ba")
    data = load_data(f"folder:{tmp_path}")
    assert data.classes == ("a", "b")
    assert data.input_shape == (3, 4, 6)
    assert len(data.train) + len(data.validation) + len(data.test) == 10
    assert "no test part" in data.description
    levels = data.train.images[:, 0, 1, 1].numpy()
    # b was filled first, so its levels are the lower ones
    assert np.array_equal(data.train.labels.numpy(), levels < 60)


def test_train_and_test_folders_are_used(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", count=2)
    fill(tmp_path / "val", count=1)
    data = load_data(f"folder:{tmp_path}")
    assert len(data.train) + len(data.validation) == 10
    assert len(data.test) == 4
    assert "beside train and test lies val, which is not used" in data.description


def test_a_train_folder_alone_gets_a_test_part(tmp_path):
    fill(tmp_path / "train")
    data = load_data(f"folder:{tmp_path}")
    assert data.classes == ("a", "b")
    assert len(data.test) == 2


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train", "tram"):
        for index in range(4):
            picture(tmp_path / name / f"{index}.png", level=10 * index)
    assert load_data(f"folder:{tmp_path}").classes == ("train", "tram")


def test_all_grey_stays_grey_and_mixed_becomes_rgb(tmp_path):
    fill(tmp_path, mode="L")
    data = load_data(f"folder:{tmp_path}")
    assert data.input_shape == (1, 4, 6)
    assert not data.augment.flip
    picture(tmp_path / "a" / "colour.png")
    data = load_data(f"folder:{tmp_path}")
    assert data.input_shape == (3, 4, 6)
    assert "10 grey images were made RGB" in data.description


def test_transparent_and_palette_pictures_are_read(tmp_path):
    fill(tmp_path, mode="RGBA")
    picture(tmp_path / "a" / "palette.gif", mode="P", level=3)
    assert load_data(f"folder:{tmp_path}").input_shape == (3, 4, 6)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    for name, level in (("a", 65535), ("b", 257 * 100)):
        (tmp_path / name).mkdir()
        for index in range(3):
            Image.fromarray(np.full((4, 4), level, dtype=np.uint16)).save(tmp_path / name / f"{index}.png")
    data = load_data(f"folder:{tmp_path}")
    assert sorted(set(data.train.images.flatten().tolist())) == [100, 255]


def test_the_most_common_size_wins_unless_one_is_given(tmp_path):
    fill(tmp_path)
    picture(tmp_path / "b" / "big.png", size=(60, 40))
    data = load_data(f"folder:{tmp_path}")
    assert data.input_shape == (3, 4, 6)
    assert "1 of 11 images were resized to 6 x 4" in data.description
    assert load_data(f"folder:{tmp_path}", image_size=8).input_shape == (3, 8, 8)


def test_the_camera_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    for name in "ab":
        (tmp_path / name).mkdir()
        for index in range(3):
            level = 50 + 100 * (name == "b")
            Image.new("RGB", (8, 4), (level,) * 3).save(tmp_path / name / f"{index}.jpg", exif=exif)
    assert load_data(f"folder:{tmp_path}").input_shape == (3, 8, 4)


def test_other_files_and_hidden_ones_are_passed_over(tmp_path):
    fill(tmp_path)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "a" / "._0.png").write_bytes(b"left by a file manager")
    (tmp_path / ".cache").mkdir()
    data = load_data(f"folder:{tmp_path}")
    assert len(data.train) + len(data.validation) + len(data.test) == 10


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_broken_picture_is_named(tmp_path, content):
    fill(tmp_path)
    (tmp_path / "b" / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=r"broken image .*b.bad\.png: .*repair or remove") as caught:
        load_data(f"folder:{tmp_path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_picture_that_breaks_off_is_named(tmp_path, suffix):
    fill(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"whole.{suffix}")
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    (tmp_path / "b" / f"cut.{suffix}").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(DataError, match=rf"broken image .*cut\.{suffix}"):
        load_data(f"folder:{tmp_path}")


def test_float_pictures_are_refused(tmp_path):
    fill(tmp_path)
    Image.fromarray(np.zeros((4, 6), dtype=np.float32)).save(tmp_path / "a" / "float.tif")
    with pytest.raises(DataError, match=r"float\.tif: it has 32-bit pixels"):
        load_data(f"folder:{tmp_path}")


def test_folders_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        load_data(f"folder:{tmp_path / 'absent'}")
    with pytest.raises(DataError, match="has no sub-folders"):
        load_data(f"folder:{tmp_path}")
    fill(tmp_path, "a")
    with pytest.raises(DataError, match="only one class folder, 'a'"):
        load_data(f"folder:{tmp_path}")
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"class folder .*b has no images"):
        load_data(f"folder:{tmp_path}")
    with pytest.raises(DataError, match="is a file, not a folder"):
        load_data(f"folder:{tmp_path / 'a' / '0.png'}")


def test_a_test_class_that_training_has_not_is_refused(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", "abc", count=1)
    with pytest.raises(DataError, match=r"test.c is a class that the training part has not"):
        load_data(f"folder:{tmp_path}")
