"""torchvision's sets: the table against the installed torchvision, and what lies on disk; no network is used."""

from __future__ import annotations

import inspect
import struct
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas_engine.data import dataset_names, load_data, named
from search_spaces.errors import DataError


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise urllib.error.URLError("the network is down")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def write_mnist(root: Path, name: str = "MNIST", count: int = 40) -> None:
    """Random images in MNIST's own files."""
    random = np.random.default_rng(0)
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for part, size in (("train", count), ("t10k", count // 2)):
        images = random.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        labels = (np.arange(size) % 10).astype(np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, size, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, size) + labels.tobytes())


def write_eurosat(
    root: Path, sizes: tuple[tuple[int, int], ...] = ((8, 8),), modes: tuple[str, ...] = ("RGB",)
) -> None:
    for position, name in enumerate(("Forest", "River")):
        folder = root / "eurosat" / "2750" / name
        folder.mkdir(parents=True)
        for index in range(6):
            mode, level = modes[index % len(modes)], 10 + 100 * position
            image = Image.new(mode, sizes[index % len(sizes)], level if mode == "L" else (level,) * 3)
            image.save(folder / f"{index}.jpg")


@pytest.mark.parametrize("name", sorted(named.RECIPES))
def test_the_table_fits_the_installed_torchvision(name):
    from torchvision import datasets

    recipe = named.RECIPES[name]
    signature = inspect.signature(getattr(datasets, name))
    for arguments in filter(None, (recipe.train, recipe.test)):
        signature.bind("root", **arguments, **({"download": False} if recipe.download else {}))


def test_names_are_listed_and_found_in_any_spelling():
    assert {"digits", "CIFAR10", "FashionMNIST", "SVHN"} <= set(dataset_names())
    for spelling in ("CIFAR10", "cifar10", "cifar-10", "CIFAR_10"):
        assert named.find_name(spelling) == "CIFAR10"


def test_a_set_on_disk_needs_no_network(tmp_path):
    write_mnist(tmp_path)
    data = load_data("mnist", root=tmp_path)
    assert data.source == "torchvision:MNIST" == load_data("torchvision:MNIST", root=tmp_path).source
    assert data.input_shape == (1, 28, 28)
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 20)
    assert data.classes[0] == "0 - zero"
    raw = (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert data.test.images.numpy().tobytes() == raw
    assert not data.augment.flip


def test_fashion_is_flipped_though_it_is_grey(tmp_path):
    write_mnist(tmp_path, "FashionMNIST")
    data = load_data("fashion_mnist", root=tmp_path)
    assert data.augment.flip
    assert data.classes[9] == "Ankle boot"


def test_sets_without_parts_get_a_test_part(tmp_path):
    write_eurosat(tmp_path)
    data = load_data("EuroSAT", root=tmp_path)
    assert data.classes == ("Forest", "River")
    assert data.input_shape == (3, 8, 8)
    assert "no test part" in data.description
    assert data.augment.flip


def test_several_sizes_need_an_image_size(tmp_path):
    write_eurosat(tmp_path, sizes=((8, 8), (9, 8)))
    with pytest.raises(DataError, match=r"different sizes .*give image_size"):
        load_data("EuroSAT", root=tmp_path)
    assert load_data("EuroSAT", root=tmp_path, image_size=5).input_shape == (3, 5, 5)


def test_colour_after_grey_makes_all_rgb():
    pictures = [(Image.new(mode, (4, 4)), 0) for mode in ("L", "L", "RGB", "L")]
    images = named._images(pictures, np.empty(4, dtype=np.int64), "pictures", None)
    assert images.shape == (4, 3, 4, 4)


def test_a_damaged_picture_names_set_and_place(tmp_path):
    write_eurosat(tmp_path)
    (tmp_path / "eurosat" / "2750" / "River" / "3.jpg").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"image 9 of EuroSAT in .* is broken .*delete that copy"):
        load_data("EuroSAT", root=tmp_path)


def test_offline_the_message_says_how_to_get_it(tmp_path, capsys):
    with pytest.raises(DataError, match=r"MNIST is not in .* could not be downloaded .*down") as caught:
        load_data("MNIST", root=tmp_path / "new")
    message = str(caught.value)
    assert "\n" not in message
    assert "torchvision.datasets.MNIST('DIR', train=True, download=True)" in message
    assert "npz:PATH" in message
    assert capsys.readouterr().out == ""


def test_a_set_that_torchvision_cannot_download_says_so(tmp_path):
    with pytest.raises(DataError, match=r"ImageNet cannot be read from .*torchvision cannot download it"):
        load_data("ImageNet", root=tmp_path)


def test_labels_are_renumbered_from_zero():
    train, test, names = named._from_zero(np.array([3, 5, 4, 3]), np.array([5, 3]), None)
    assert train.tolist() == [0, 2, 1, 0]
    assert test is not None
    assert test.tolist() == [2, 0]
    assert names == ("3", "4", "5")
    _, _, cranes = named._from_zero(np.array([0, 1]), None, ["crane", "crane"])
    assert cranes == ("crane 0", "crane 1")
    with pytest.raises(DataError, match="class 7"):
        named._from_zero(np.array([3, 5]), np.array([7]), None)


def test_the_cache_directory_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert named.default_root().name == "datasets"
    assert "nas-engine" in str(named.default_root())
