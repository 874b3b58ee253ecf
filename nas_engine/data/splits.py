"""Stratified splits, statistics and the fingerprint of a data set.

A split ranks the images of each class by a random key and takes the first so many of each; the keys come
from the raw stream of a bit generator, which numpy keeps unchanged between versions. Unlike
scikit-learn's splitter it promises every class at least one image on either side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from search_spaces.errors import DataError

CHUNK = 1024  # images that are widened to float64 at a time


def stratified(
    labels: np.ndarray, count: int, *, key: Sequence[int], take: int = 1, leave: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of about `count` images in the proportions of the classes, and of the rest; both ascending.

    Args:
        labels: (N,) class numbers 0..C-1, each with at least `take + leave` images.
        count: images to take; moved into the range that `take` and `leave` allow.
        key: the seed; equal keys give equal splits.
        take, leave: images of each class that are at least taken, and left.

    Shapes:
        returns (count,) and (N - count,) int64.
    """
    sizes = np.bincount(labels)
    shares = _shares(sizes, count, take, leave)
    keys = np.random.PCG64(np.random.SeedSequence(list(key))).random_raw(len(labels))
    order = np.lexsort((keys, labels))
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    taken = rank < shares[labels]
    return np.flatnonzero(taken), np.flatnonzero(~taken)


def _shares(sizes: np.ndarray, count: int, take: int, leave: int) -> np.ndarray:
    """How many to take of each class: proportional, rounded by the largest remainder within the limits."""
    low, high = np.full_like(sizes, take), sizes - leave
    count = int(np.clip(count, low.sum(), high.sum()))
    quota = sizes * count / sizes.sum()
    shares = np.clip(np.floor(quota).astype(np.int64), low, high)
    while (gap := count - int(shares.sum())) != 0:
        step = 1 if gap > 0 else -1
        free = shares < high if step > 0 else shares > low
        shares[np.argmax(np.where(free, step * (quota - shares), -np.inf))] += step
    return shares


def require_per_class(labels: np.ndarray, classes: Sequence[str], needed: int, why: str) -> None:
    """Every class must have at least `needed` images.

    Raises:
        DataError: naming the classes that have fewer.
    """
    sizes = np.bincount(labels, minlength=len(classes))
    small = np.flatnonzero(sizes < needed)
    if len(small):
        listed = ", ".join(f"{classes[index]} ({sizes[index]})" for index in small[:5])
        more = ", ..." if len(small) > 5 else ""
        raise DataError(
            f"too few training images of class {listed}{more}: at least {needed} of each are needed {why}: "
            "add images or leave the class out"
        )


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation of each channel of (N, C, H, W); uint8 counts as value / 255.

    The deviation of a constant channel is given as 1, so that normalising it gives zeros.

    Raises:
        DataError: every channel is constant, so there is nothing to learn from.
    """
    per_channel = images.size // images.shape[1]
    chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    mean = sum(chunk.sum(axis=(0, 2, 3), dtype=np.float64) for chunk in chunks) / per_channel
    centre = mean.reshape(-1, 1, 1)
    variance = sum(np.square(chunk - centre).sum(axis=(0, 2, 3)) for chunk in chunks) / per_channel
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    # rounding leaves about 1e-16 of the mean squared where nothing varies
    constant = variance <= 1e-14 * np.square(mean)
    if constant.all():
        raise DataError("all training images are one and the same constant: check how the file was made")
    std = np.where(constant, 1.0, np.sqrt(variance) / scale)
    return tuple(float(value) for value in mean / scale), tuple(float(value) for value in std)


def fingerprint(classes: Sequence[str], parts: Sequence[np.ndarray]) -> str:
    """sha256 in hex of the class names and of shape, type and content of each array."""
    digest = hashlib.sha256("\0".join(classes).encode())
    for part in parts:
        little = np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<"))
        digest.update(f"{little.dtype.str}{little.shape}".encode())
        digest.update(little.reshape(-1).data)
    return digest.hexdigest()
