"""A folder of pictures: `folder:PATH`, one sub-folder a class, optionally under PATH/train and PATH/test.

Headers are read first, to settle size and colour for all; then each file is decoded once, straight into its
place in one array. Classes are numbered in the order of their names, as torchvision's ImageFolder does.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from search_spaces.errors import DataError

from .pictures import SUFFIXES, THREADS, Header, read_header, read_pixels, stack
from .sources import SOURCES, RawImages, Request


class Listing(NamedTuple):
    """The picture files of one part, and the class number of each."""

    files: list[Path]
    labels: np.ndarray


@SOURCES.register("folder")
def read_folder(request: Request) -> RawImages:
    """Reads the pictures of `request.argument`, a path, resized to `image_size` or to their most common size.

    Raises:
        DataError: no such folder, no or only one class, a class without images, or a broken image.
    """
    if not request.argument:
        raise DataError("'folder:' names no folder: write folder:PATH")
    path = Path(request.argument).expanduser()
    train_root, test_root, notes = _layout(path)
    classes = tuple(folder.name for folder in _subfolders(train_root))
    _check_class_count(train_root, classes)
    train = _list(train_root, classes)
    test = _list(test_root, classes) if test_root is not None else None
    everything = train.files + (test.files if test is not None else [])
    with ThreadPoolExecutor(THREADS) as pool:
        headers = list(pool.map(read_header, everything))
    size, channels, sized = _common_form(headers, request.image_size)
    notes += sized
    return RawImages(
        title=f"folder {path.name or path}",
        train_x=_decode(train, size, channels),
        train_y=train.labels,
        test_x=_decode(test, size, channels) if test is not None else None,
        test_y=test.labels if test is not None else None,
        classes=classes,
        notes=notes,
    )


def _layout(path: Path) -> tuple[Path, Path | None, tuple[str, ...]]:
    """Training folder, test folder or None, and notes. PATH/train counts only with class folders inside it."""
    if path.is_file():
        hint = f"npz:{path}" if path.suffix == ".npz" else "folder:PATH"
        raise DataError(f"{path} is a file, not a folder of class sub-folders: write {hint}")
    if not path.is_dir():
        raise DataError(f"there is no folder {path}: check the path")
    train, test = path / "train", path / "test"
    if not (train.is_dir() and _subfolders(train)):
        return path, None, ()
    has_test = test.is_dir() and bool(_subfolders(test))
    unused = [folder.name for folder in _subfolders(path) if folder != train and not (has_test and folder == test)]
    notes = (f"beside train{' and test' if has_test else ''} lies {', '.join(unused)}, which is not used",)
    return train, test if has_test else None, notes if unused else ()


def _subfolders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _check_class_count(path: Path, classes: tuple[str, ...]) -> None:
    if not classes:
        raise DataError(f"{path} has no sub-folders: one folder of images for each class is needed, PATH/CLASS/*.png")
    if len(classes) == 1:
        raise DataError(f"{path} has only one class folder, {classes[0]!r}: a classifier needs two or more")


def _list(root: Path, classes: tuple[str, ...]) -> Listing:
    """All pictures below each class folder, in a fixed order; files of other kinds are passed over.

    Raises:
        DataError: a class folder without pictures, or one that the training part has not.
    """
    files: list[Path] = []
    labels: list[int] = []
    for folder in _subfolders(root):
        if folder.name not in classes:
            raise DataError(
                f"{folder} is a class that the training part has not ({', '.join(classes[:10])}): remove or rename it"
            )
        found = sorted(
            Path(base, name)
            for base, _, names in os.walk(folder)
            for name in names
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        )
        if not found:
            raise DataError(
                f"class folder {folder} has no images ({', '.join(sorted(SUFFIXES))}): add some or remove the folder"
            )
        files += found
        labels += [classes.index(folder.name)] * len(found)
    return Listing(files, np.array(labels, dtype=np.int64))


def _common_form(headers: list[Header], image_size: int | None) -> tuple[tuple[int, int], int, tuple[str, ...]]:
    """(width, height), channels and notes that suit all images; of equally common sizes the smallest wins."""
    sizes = Counter((header.width, header.height) for header in headers)
    common = min(sizes, key=lambda size: (-sizes[size], size))
    size = common if image_size is None else (image_size, image_size)
    channels = 1 if all(header.grey for header in headers) else 3
    notes = []
    resized = len(headers) - sizes[size]
    if resized:
        notes.append(f"{resized:,} of {len(headers):,} images were resized to {size[0]} x {size[1]} (width x height)")
    grey = sum(header.grey for header in headers)
    if channels == 3 and grey:
        notes.append(f"{grey:,} grey images were made RGB like the others")
    return size, channels, tuple(notes)


def _decode(listing: Listing, size: tuple[int, int], channels: int) -> np.ndarray:
    width, height = size
    files = listing.files
    return stack(len(files), lambda index: read_pixels(files[index], size, channels), (channels, height, width))
