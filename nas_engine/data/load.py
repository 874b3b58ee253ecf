"""`load_data`: specification to `DataSplits`.

Read, check, split, measure: the same four steps whatever the source. The test part never depends on the seed; the
validation part does, and is taken from the training part after `limit` has cut that down.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.errors import ConfigError, DataError, did_you_mean

from . import folder, npz  # noqa: F401  (they file themselves in SOURCES)
from .augment import default_augment
from .checks import check_classes, check_images, check_labels, check_test
from .containers import DataSplits, ImageSet
from .named import find_name
from .normalisation import normalisation
from .sources import GRAPH_SOURCES, SOURCES, TEXT_SOURCES, RawImages, Request
from .splits import CHUNK, channel_statistics, fingerprint, require_per_class, stratified

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TEST_FRACTION = 0.2  # where a source has no test part
TEST_KEY, LIMIT_KEY, VALIDATION_KEY = 1, 2, 3  # keep the three draws apart


def load_data(
    spec: str,
    *,
    validation: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
    root: Path | None = None,
    image_size: int | None = None,
    normalise: str | Mapping[str, Any] = "data",
) -> DataSplits:
    """Loads a data set and splits it.

    Args:
        spec: `digits`; `npz:PATH`; `folder:PATH`; or a torchvision classification set, `CIFAR10` or
            `torchvision:CIFAR10` (see `dataset_names`).
        validation: fraction of the training part that becomes the validation part, in the proportions of the classes.
        seed: draws the validation part and the limited training part; never the test part.
        limit: use only so many training images (validation included), in the proportions of the classes; the test part
            stays whole.
        root: folder of downloaded sets; None for the user's cache directory.
        image_size: resize all images to a square of this side in pixels.
        normalise: "data" for the statistics of the training images; else what a trained network expects, by name or as
            mean and std; see `normalisation`.

    Raises:
        ConfigError: an argument out of its range.
        DataError: an unknown source, or data that is missing, broken or inconsistent.

    >>> data = load_data("digits")
    >>> data.input_shape, len(data.train), len(data.validation), len(data.test)
    ((1, 8, 8), 1150, 288, 359)
    """
    _check_arguments(validation, seed, limit, image_size)
    source, raw = _read(spec, root, image_size)
    raw, classes = _checked(raw, image_size)
    raw = _with_test(raw, classes)
    raw = _limited(raw, classes, limit, seed)
    return _normalised(_split(raw, classes, source, validation, seed), normalise)


def _check_arguments(validation: float, seed: int, limit: int | None, image_size: int | None) -> None:
    if not 0 < validation < 1:
        raise ConfigError(f"validation must be a fraction between 0 and 1, but is {validation}: 0.2 is usual")
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, but is {seed}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be a number of training images, 1 or more, but is {limit}")
    if image_size is not None and image_size < 1:
        raise ConfigError(f"image_size must be 1 pixel or more, but is {image_size}")


def resolve(spec: str) -> tuple[str, str]:
    """Kind and argument of a specification, in the set's own spelling; nothing is read.

    Raises:
        DataError: an unknown kind or set.

    >>> resolve("cifar10")
    ('torchvision', 'CIFAR10')
    """
    kind, colon, argument = spec.strip().partition(":")
    known = [*SOURCES, *TEXT_SOURCES, *GRAPH_SOURCES]
    if not colon and kind not in known:
        kind, argument = _bare(spec.strip())
    if kind not in known:
        raise DataError(f"unknown kind of data source {kind!r}: {did_you_mean(kind, known)}")
    return kind, find_name(argument) if kind == "torchvision" else argument


def _read(spec: str, root: Path | None, image_size: int | None) -> tuple[str, RawImages]:
    """The normalised specification and what its source gives."""
    kind, argument = resolve(spec)
    source = f"{kind}:{argument}" if argument else kind
    if kind in TEXT_SOURCES:
        raise DataError(f"{source} is a text, and images were asked for; read it with load_text")
    if kind in GRAPH_SOURCES:
        raise DataError(f"{source} is a graph, and images were asked for; read it with load_graph")
    try:
        return source, SOURCES[kind](Request(argument, root, image_size))
    except OSError as problem:  # permissions, a disk that fails; the sources name what they expect themselves
        raise DataError(f"{source} cannot be read: {problem}") from problem


def _bare(name: str) -> tuple[str, str]:
    """Kind and argument of a specification without a colon: a set's name. A path gets told how to write it."""
    path = Path(name).expanduser()
    if name and (path.is_dir() or path.is_file()) and not _is_name(name):
        kind = "folder" if path.is_dir() else "text" if name.endswith((".txt", ".txt.gz")) else "npz"
        raise DataError(f"{name!r} is a path: write {kind}:{name}")
    return ("digits", "") if find_name(name) == "digits" else ("torchvision", name)


def _is_name(name: str) -> bool:
    try:
        find_name(name)
    except DataError:
        return False
    return True


def _checked(raw: RawImages, image_size: int | None) -> tuple[RawImages, tuple[str, ...]]:
    """The same data with checked arrays, resized, and its class names."""
    train_x = _resized(check_images(raw.train_x, f"{raw.title} train_x"), image_size)
    train_y = check_labels(raw.train_y, len(train_x), f"{raw.title} train_y")
    classes = check_classes(train_y, raw.classes)
    if raw.test_x is None or raw.test_y is None:
        return replace(raw, train_x=train_x, train_y=train_y), classes
    test_x = _resized(check_images(raw.test_x, f"{raw.title} test_x"), image_size)
    test_y = check_labels(raw.test_y, len(test_x), f"{raw.title} test_y")
    check_test(train_x, test_x, test_y, classes)
    absent = np.setdiff1d(np.arange(len(classes)), test_y)
    notes = raw.notes
    if len(absent):
        notes += (f"the test part has no image of class {', '.join(classes[index] for index in absent[:5])}",)
    return replace(raw, train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y, notes=notes), classes


def _resized(images: np.ndarray, size: int | None) -> np.ndarray:
    """(N, C, H, W) to (N, C, size, size) of the same type, a chunk at a time."""
    if size is None or images.shape[2:] == (size, size):
        return images
    import torch

    from .batches import resize

    resized = np.empty((*images.shape[:2], size, size), dtype=images.dtype)
    for start in range(0, len(images), CHUNK):
        chunk = resize(torch.from_numpy(images[start : start + CHUNK]).float(), size).numpy()
        whole = images.dtype == np.uint8
        resized[start : start + CHUNK] = np.rint(chunk).clip(0, 255) if whole else chunk
    return resized


def _with_test(raw: RawImages, classes: Sequence[str]) -> RawImages:
    """The data with a test part: the source's own, or a fixed stratified one."""
    if raw.test_x is not None:
        return raw
    require_per_class(raw.train_y, classes, 3, "for training, validation and test")
    count = round(TEST_FRACTION * len(raw.train_y))
    taken, rest = stratified(raw.train_y, count, key=(TEST_KEY,), leave=2)
    note = f"the source has no test part, so a fixed stratified {TEST_FRACTION:.0%} was split off as one"
    return replace(
        raw,
        train_x=raw.train_x[rest],
        train_y=raw.train_y[rest],
        test_x=raw.train_x[taken],
        test_y=raw.train_y[taken],
        notes=(*raw.notes, note),
    )


def _limited(raw: RawImages, classes: Sequence[str], limit: int | None, seed: int) -> RawImages:
    """The data with at most `limit` training images."""
    require_per_class(raw.train_y, classes, 2, "for training and validation")
    total = len(raw.train_y)
    if limit is None or limit >= total:
        return raw
    if limit < 2 * len(classes):
        raise ConfigError(
            f"limit {limit} is too small for {len(classes)} classes: at least {2 * len(classes)} images are needed, "
            "one of each class for training and one for validation"
        )
    taken, _ = stratified(raw.train_y, limit, key=(LIMIT_KEY, seed), take=2, leave=0)
    note = f"training and validation are limited to {limit:,} of {total:,} images"
    return replace(raw, train_x=raw.train_x[taken], train_y=raw.train_y[taken], notes=(*raw.notes, note))


def _split(raw: RawImages, classes: tuple[str, ...], source: str, validation: float, seed: int) -> DataSplits:
    """Splits validation off and gathers everything that is known about the parts."""
    count = round(validation * len(raw.train_y))
    held, kept = stratified(raw.train_y, count, key=(VALIDATION_KEY, seed))
    arrays = [(raw.train_x[kept], raw.train_y[kept]), (raw.train_x[held], raw.train_y[held])]
    if raw.test_x is not None and raw.test_y is not None:
        arrays.append((raw.test_x, raw.test_y))
    train, held_out, test = (_image_set(*pair) for pair in arrays)
    mean, std = channel_statistics(arrays[0][0])
    return DataSplits(
        train=train,
        validation=held_out,
        test=test,
        classes=classes,
        input_shape=train.shape,
        mean=mean,
        std=std,
        augment=default_augment(train.shape, raw.flip),
        fingerprint=fingerprint(classes, [array for pair in arrays for array in pair]),
        description=_describe(raw, classes, train, held_out, test, seed),
        source=source,
    )


def _normalised(data: DataSplits, asked: str | Mapping[str, Any]) -> DataSplits:
    mean, std = normalisation(asked, data.input_shape[0], (data.mean, data.std))
    return replace(data, mean=mean, std=std)


def _image_set(images: np.ndarray, labels: np.ndarray) -> ImageSet:
    import torch

    return ImageSet(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(np.ascontiguousarray(labels)))


def _describe(
    raw: RawImages, classes: Sequence[str], train: ImageSet, held_out: ImageSet, test: ImageSet, seed: int
) -> str:
    shape = " x ".join(str(size) for size in train.shape)
    head = (
        f"{raw.title}: {len(classes):,} classes, images {shape} (channels x height x width); "
        f"{len(train):,} for training, {len(held_out):,} for validation (split off training, stratified, seed {seed}), "
        f"{len(test):,} for test"
    )
    return "; ".join((head, *raw.notes)) + "."
