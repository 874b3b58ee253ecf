"""Checks of arrays that came from outside: each failure is one line that says what came and what would do.

The same checks serve all sources, so a custom source needs none of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from search_spaces.errors import DataError


def one_line(problem: BaseException) -> str:
    """What an exception of another library says, fit for the middle of a message of ours."""
    text = " ".join(str(problem).split()).rstrip(". ") or type(problem).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def check_images(images: np.ndarray, what: str) -> np.ndarray:
    """uint8 or finite float32 images; wider floats are narrowed.

    Raises:
        DataError: no images, axes other than (N, C, H, W), another type, or values that are not finite.
    """
    if images.ndim != 4:
        raise DataError(f"{what} has shape {images.shape}, but a source must return N x C x H x W")
    if 0 in images.shape:
        raise DataError(f"{what} is empty (shape {images.shape}): at least one image of one pixel is needed")
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise DataError(
            f"{what} has type {images.dtype}, but images are uint8 (0..255) or float: save them with .astype('uint8')"
        )
    with np.errstate(over="ignore"):
        narrowed = images.astype(np.float32, copy=False)
    finite = np.isfinite(narrowed.reshape(len(narrowed), -1)).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise DataError(
            f"{what} has NaN or infinite values in {len(bad):,} of {len(images):,} images, first in number {bad[0]}: "
            "repair or leave out those images"
        )
    return narrowed


def channels_first(images: np.ndarray, what: str) -> np.ndarray:
    """(N, H, W) or (N, H, W, C) to (N, C, H, W).

    Raises:
        DataError: another number of axes, or axes that look like (N, C, H, W).
    """
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        raise DataError(f"{what} has shape {images.shape}, but N x H x W (grey) or N x H x W x C is needed")
    if images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise DataError(
            f"{what} has shape {images.shape}, which looks like N x C x H x W: "
            "save it as N x H x W x C with .transpose(0, 2, 3, 1)"
        )
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def check_labels(labels: np.ndarray, count: int, what: str) -> np.ndarray:
    """(N,) or (N, 1) integers of 0 or more as (N,) int64.

    Raises:
        DataError: another shape or type, another length than the `count` images, or a negative label.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(
            f"{what} has shape {labels.shape}, but one class number an image is needed: one-hot rows become numbers "
            "with .argmax(1)"
        )
    if labels.dtype.kind not in "iu":
        raise DataError(f"{what} has type {labels.dtype}, but class numbers are integers: save them with dtype int64")
    if len(labels) != count:
        raise DataError(f"{what} has {len(labels):,} labels for {count:,} images: each image needs one label")
    if len(labels) and labels.min() < 0:
        raise DataError(f"{what} has the negative label {labels.min()}: classes are numbered 0, 1, 2, ...")
    return labels.astype(np.int64)


def check_classes(train_y: np.ndarray, names: Sequence[str] | None) -> tuple[str, ...]:
    """The class names, given or made from the numbers 0..C-1, once every class has training images.

    Raises:
        DataError: fewer than two classes, a gap in the numbers, or more numbers than names.
    """
    present = {int(label) for label in np.unique(train_y)}
    count = max(present) + 1 if names is None else len(names)
    if max(present) >= count:
        raise DataError(
            f"the training labels go up to {max(present)}, but there are {count} class names: name them all"
        )
    if count < 2:
        raise DataError("the data has only one class: a classifier needs two or more")
    if len(present) < count:
        absent = list(islice((label for label in range(count) if label not in present), 5))
        listed = ", ".join(str(label) if names is None else f"{names[label]} ({label})" for label in absent)
        more = ", ..." if count - len(present) > len(absent) else ""
        raise DataError(
            f"no training image has class {listed}{more} ({count - len(present):,} of {count:,} classes are missing): "
            f"number the classes 0..{len(present) - 1} without gaps, or add images"
        )
    given = tuple(names) if names is not None else tuple(str(label) for label in range(count))
    if len(set(given)) < count:
        raise DataError("two classes bear the same name: class names must differ")
    return given


def check_test(train_x: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, classes: Sequence[str]) -> None:
    """The test part must have the shape, the type and only classes of the training part.

    Raises:
        DataError: where it has not.
    """
    if train_x.shape[1:] != test_x.shape[1:]:
        shapes = (" x ".join(map(str, part.shape[1:])) for part in (train_x, test_x))
        raise DataError("training images are {} (C x H x W) but test images are {}: they must agree".format(*shapes))
    if train_x.dtype != test_x.dtype:
        raise DataError(f"training images are {train_x.dtype} but test images are {test_x.dtype}: they must agree")
    if test_y.max() >= len(classes):
        raise DataError(
            f"a test image has class {test_y.max()}, but the training images have the classes 0..{len(classes) - 1}: "
            "the test part may have no class of its own"
        )
