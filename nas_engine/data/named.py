"""torchvision's classification sets by name: `CIFAR10`, `fashion-mnist`, `torchvision:SVHN`.

One table says how each set is asked for its training and test parts; everything else is common. What is on
disk already is used without a network; otherwise torchvision downloads it, one process at a time.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.errors import DataError, did_you_mean

from .checks import one_line
from .pictures import GREY_MODES, pixels, stack
from .sources import SOURCES, RawImages, Request


@dataclass(frozen=True)
class Recipe:
    """How torchvision is asked for one set.

    Attributes:
        train, test: keyword arguments of the class for each part; test None where the set has no parts.
        download: whether torchvision can download the set.
        flip: whether a mirrored image keeps its class; None to go by colour.
        unused: an official part that is neither of the two.
    """

    train: Mapping[str, Any] = field(default_factory=lambda: {"split": "train"})
    test: Mapping[str, Any] | None = field(default_factory=lambda: {"split": "test"})
    download: bool = True
    flip: bool | None = None
    unused: str = ""


SILENCE_S = 30.0  # seconds without a byte after which a download is given up

FLAG: dict[str, Any] = {"train": {"train": True}, "test": {"train": False}}
VAL_AS_TEST: dict[str, Any] = {"test": {"split": "val"}}
TRAINVAL: dict[str, Any] = {"train": {"split": "trainval"}}
WHOLE: dict[str, Any] = {"train": {}, "test": None}

# Left out: Omniglot and LFWPeople (their parts share no class), CelebA (attributes), INaturalist (a hierarchy), videos.
RECIPES: dict[str, Recipe] = {
    "CIFAR10": Recipe(**FLAG),
    "CIFAR100": Recipe(**FLAG),
    "CLEVRClassification": Recipe(**VAL_AS_TEST),
    "Caltech101": Recipe(**WHOLE),
    "Caltech256": Recipe(**WHOLE),
    "Country211": Recipe(unused="valid"),
    "DTD": Recipe(unused="val"),
    "EMNIST": Recipe({"split": "balanced", "train": True}, {"split": "balanced", "train": False}, flip=False),
    "EuroSAT": Recipe(**WHOLE),
    "FER2013": Recipe(download=False, flip=True),
    "FGVCAircraft": Recipe(**TRAINVAL),
    "FashionMNIST": Recipe(**FLAG, flip=True),
    "Flowers102": Recipe(unused="val"),
    "Food101": Recipe(),
    "GTSRB": Recipe(flip=False),
    "ImageNet": Recipe(**VAL_AS_TEST, download=False),
    "Imagenette": Recipe({"split": "train", "size": "160px"}, {"split": "val", "size": "160px"}),
    "KMNIST": Recipe(**FLAG, flip=False),
    "MNIST": Recipe(**FLAG, flip=False),
    "OxfordIIITPet": Recipe(**TRAINVAL),
    "PCAM": Recipe(unused="val"),
    "Places365": Recipe({"split": "train-standard", "small": True}, {"split": "val", "small": True}),
    "QMNIST": Recipe(**FLAG, flip=False),
    "RenderedSST2": Recipe(flip=False, unused="val"),
    "SEMEION": Recipe(**WHOLE, flip=False),
    "STL10": Recipe(unused="unlabeled"),
    "SUN397": Recipe(**WHOLE),
    "SVHN": Recipe(flip=False, unused="extra"),
    "StanfordCars": Recipe(download=False),
    "USPS": Recipe(**FLAG, flip=False),
}


def dataset_names() -> list[str]:
    """The sets that `load_data` knows by name, sorted: scikit-learn's digits and torchvision's."""
    return sorted(["digits", *RECIPES], key=str.lower)


def find_name(name: str) -> str:
    """The set's own spelling of `name`, in which case, hyphens and underscores do not count.

    Raises:
        DataError: no set has that name.
    """
    spellings = {_plain(known): known for known in dataset_names()}
    found = spellings.get(_plain(name))
    if found is not None:
        return found
    near = difflib.get_close_matches(_plain(name), spellings, n=1, cutoff=0.5)
    hint = did_you_mean(spellings[near[0]] if near else name, spellings.values())
    raise DataError(f"unknown data set {name!r}: {hint}, or write npz:PATH or folder:PATH for data of your own")


@SOURCES.register("torchvision")
def read_named(request: Request) -> RawImages:
    """Reads the torchvision set called `request.argument`.

    Raises:
        DataError: an unknown name, a set that is not there and cannot be downloaded, or images of several sizes without
            an `image_size`.
    """
    name = find_name(request.argument)
    if name not in RECIPES:
        raise DataError(f"torchvision has no set {name!r}: write {name!r} alone")
    recipe = RECIPES[name]
    root = default_root() if request.root is None else Path(request.root).expanduser()
    train_x, train_y, names = _read_part(name, recipe, recipe.train, root, request.image_size)
    test_x, test_y = None, None
    if recipe.test is not None:
        test_x, test_y, _ = _read_part(name, recipe, recipe.test, root, request.image_size)
        train_x, test_x = _same_channels(train_x, test_x)
    train_y, test_y, classes = _from_zero(train_y, test_y, names)
    notes = (f"its official {recipe.unused!r} part is not used",) if recipe.unused else ()
    return RawImages(name, train_x, train_y, test_x, test_y, classes=classes, flip=recipe.flip, notes=notes)


def default_root() -> Path:
    """Where downloaded sets are kept: a folder in the user's cache directory."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("nas-engine")) / "datasets"


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def _read_part(
    name: str, recipe: Recipe, arguments: Mapping[str, Any], root: Path, image_size: int | None
) -> tuple[np.ndarray, np.ndarray, list[str] | None]:
    """Images (N, C, H, W), labels (N,) and class names, if the set has them, of one part."""
    part = _open(name, recipe, arguments, root)
    labels = np.empty(len(part), dtype=np.int64)
    images = _images(part, labels, f"{name} in {root}", image_size)
    return images, labels, _class_names(part)


def _open(name: str, recipe: Recipe, arguments: Mapping[str, Any], root: Path) -> Any:
    """The torchvision data set: from disk if it is there, else downloaded under a lock that other processes respect."""
    from filelock import FileLock
    from torchvision import datasets

    make = getattr(datasets, name)
    offline = {**arguments, "download": False} if recipe.download else dict(arguments)
    with contextlib.redirect_stdout(io.StringIO()):  # torchvision reports failed mirrors there
        try:
            return make(root, **offline)
        except Exception as problem:
            if not recipe.download:
                raise _by_hand(name, root, problem) from problem
        try:
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f".{name}.lock"), patience():
                with contextlib.suppress(Exception):  # another process may have brought it meanwhile
                    return make(root, **offline)
                return make(root, **{**arguments, "download": True})
        except Exception as problem:  # whatever torchvision and its servers raise
            raise _not_downloaded(name, arguments, root, problem) from problem


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """A time limit for silent servers: torchvision sets none, so a network that swallows packets would hang it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _by_hand(name: str, root: Path, problem: Exception) -> DataError:
    return DataError(
        f"{name} cannot be read from {root} ({one_line(problem)}), and torchvision cannot download it: put its "
        f"files there as the documentation of torchvision.datasets.{name} says, or write npz:PATH or folder:PATH"
    )


def _not_downloaded(name: str, arguments: Mapping[str, Any], root: Path, problem: Exception) -> DataError:
    given = "".join(f"{key}={value!r}, " for key, value in arguments.items())
    return DataError(
        f"{name} is not in {root} and could not be downloaded ({one_line(problem)}): on a connected machine run "
        f"torchvision.datasets.{name}('DIR', {given}download=True) and copy DIR there, or write npz:PATH or folder:PATH"
    )


def _images(part: Any, labels: np.ndarray, what: str, image_size: int | None) -> np.ndarray:
    """All images of a data set as one array; fills `labels` (N,) on the way, so that each item is read once."""
    first = _item(part, 0, what)[0]
    size = first.size if image_size is None else (image_size, image_size)
    grey = first.mode in GREY_MODES

    def get(index: int) -> np.ndarray:
        image, label = _item(part, index, what)
        if image_size is None and image.size != size:
            raise DataError(
                f"{what} has images of different sizes ({size[0]} x {size[1]} and {image.size[0]} x {image.size[1]} "
                "among them): give image_size, for example 64"
            )
        if grey and image.mode not in GREY_MODES:
            raise _ColourFoundError
        labels[index] = label
        return pixels(image, size, 1 if grey else 3)

    try:
        return stack(len(part), get, (1 if grey else 3, size[1], size[0]))
    except _ColourFoundError:
        grey = False
        return stack(len(part), get, (3, size[1], size[0]))


class _ColourFoundError(Exception):
    """A set that began with grey images has colour after all."""


def _item(part: Any, index: int, what: str) -> tuple[Any, int]:
    """Image and label number `index`; whatever a damaged file raises becomes a DataError."""
    try:
        image, label = part[index]
        return image, int(label)
    except Exception as problem:
        raise DataError(
            f"image {index} of {what} is broken ({one_line(problem)}): delete that copy and load it again"
        ) from problem


def _class_names(part: Any) -> list[str] | None:
    """The names a torchvision set gives its classes; ImageNet has tuples of synonyms."""
    names = getattr(part, "classes", None) or getattr(part, "categories", None)
    if not isinstance(names, Sequence) or isinstance(names, str):
        return None
    return [name if isinstance(name, str) else str(name[0]) for name in names]


def _same_channels(train_x: np.ndarray, test_x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grey repeated three times where the other part has colour."""
    if train_x.shape[1] < test_x.shape[1]:
        return np.repeat(train_x, 3, axis=1), test_x
    if test_x.shape[1] < train_x.shape[1]:
        return train_x, np.repeat(test_x, 3, axis=1)
    return train_x, test_x


def _from_zero(
    train_y: np.ndarray, test_y: np.ndarray | None, names: list[str] | None
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None]:
    """Labels numbered 0..C-1: some sets count from one or from three (CLEVR's numbers of objects)."""
    present = np.unique(train_y)
    contiguous = np.array_equal(present, np.arange(len(present)))
    if names is not None and len(names) == len(present) and contiguous:
        distinct = len(set(names)) == len(names)  # ImageNet has two cranes
        return (train_y, test_y, tuple(names if distinct else (f"{name} {i}" for i, name in enumerate(names))))
    called = [names[label] if names is not None and 0 <= label < len(names) else str(label) for label in present]
    if test_y is not None:
        strange = np.setdiff1d(test_y, present)
        if len(strange):
            raise DataError(f"a test image has class {strange[0]}, which no training image has: the set is damaged")
        test_y = np.searchsorted(present, test_y)
    return np.searchsorted(present, train_y), test_y, tuple(called)
