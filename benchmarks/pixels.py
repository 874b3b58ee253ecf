"""Labelled pixels for benchmarks: CamVid, generated images of shapes in noise, what trains on them, mean IoU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_engine.data import Augment, Batches, DataSplits, ImageSet
from nas_engine.data.batches import batch_count, epoch_generator
from nas_engine.data.splits import channel_statistics, fingerprint
from search_spaces.errors import DataError

IGNORED = 255
"""Class of pixels that do not count."""
CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
SHAPES = ("background", "square", "hollow square", "disc", "ring")
_TRIES = 1000


class PixelSplits(DataSplits):
    """Images `(N, C, H, W)` with a class for each pixel, `(N, H, W)` uint8; training images are mirrored at random."""

    def epoch(
        self, batch_size: int, *, seed: int, epoch: int, augment: Augment | None = None, device: str | None = None
    ) -> Batches:
        """The training images in an order, and mirrored, as follows from (seed, epoch); no smaller last batch."""
        size = min(batch_size, len(self.train))
        count = batch_count(len(self.train), size, drop_last=True)

        def walk() -> Any:
            generator = epoch_generator(seed, epoch)
            order = torch.randperm(len(self.train), generator=generator)
            mirrored = torch.rand(len(self.train), generator=generator) < 0.5
            for rows in order.split(size)[:count]:
                x, y = self.train.images[rows], self.train.labels[rows]
                turn = mirrored[rows]
                x[turn], y[turn] = x[turn].flip(-1), y[turn].flip(-1)
                yield self.normaliser(x.to(device), channels_last=True), y.to(device)

        return Batches(count, walk)


class PixelProgram:
    """A network trained by the mean cross-entropy of pixels."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def backward(self, inputs: Tensor, targets: Tensor, epoch: int, step: int) -> Tensor:
        loss = F.cross_entropy(self.module(inputs), targets.long(), ignore_index=IGNORED)
        loss.backward()
        return loss.detach()


def mean_iou(module: nn.Module, data: PixelSplits, part: ImageSet, batch_size: int = 16) -> dict[str, float]:
    """Mean over classes of intersection over union, and the share of pixels that are right, in evaluation mode.

    Classes that neither the labels nor the network have are left out of the mean.
    """
    classes = len(data.classes)
    counts = torch.zeros(classes * classes, dtype=torch.long)
    training = module.training
    module.eval()
    with torch.inference_mode():
        for inputs, targets in data.walk(part, batch_size):
            found, wanted = module(inputs).argmax(1).flatten(), targets.long().flatten()
            valid = wanted != IGNORED
            counts += torch.bincount(wanted[valid] * classes + found[valid], minlength=classes * classes)
    module.train(training)
    table = counts.reshape(classes, classes).double()
    both = table.diag()
    either = table.sum(0) + table.sum(1) - both
    return {
        "miou": float((both / either)[either > 0].mean()),
        "pixel_accuracy": float(both.sum() / table.sum()),
    }


# ---- data --------------------------------------------------------------------------------------------------


def camvid(path: Path) -> PixelSplits:
    """CamVid from an npz with `train_x` `(n, H, W, 3)` and `train_y` `(n, H, W)`, the same of `val` and `test`.

    Raises:
        DataError: there is no such file.
    """
    if not path.exists():
        raise DataError(f"no CamVid at {path}; give an npz with train_x, train_y, val_x, val_y, test_x and test_y")
    with np.load(path) as arrays:
        images = [arrays[f"{part}_x"].transpose(0, 3, 1, 2) for part in ("train", "val", "test")]
        labels = [arrays[f"{part}_y"].astype(np.uint8) for part in ("train", "val", "test")]
    for y in labels:
        y[y >= len(CAMVID)] = IGNORED
    return _splits(images, labels, CAMVID, "camvid")


def circles(counts: tuple[int, int, int] = (500, 100, 100), size: int = 64, seed: int = 12345) -> PixelSplits:
    """Squares, hollow squares, discs and rings of a quarter of the image's side in Gaussian noise of deviation 1.

    As the Circle-Square data of LEAN but smaller: shapes do not overlap and cover the same share of the image (bounding
    boxes of 6 on an image; there 24 of an eighth), grey levels are uniform in 0.2 to 1, hollow shapes count as filled.
    """
    rng = np.random.default_rng(seed)
    parts = [[_drawn(rng, size) for _ in range(count)] for count in counts]
    images = [np.stack([image for image, _ in part])[:, None] for part in parts]
    return _splits(images, [np.stack([label for _, label in part]) for part in parts], SHAPES, f"circles:{size}")


def _drawn(rng: np.random.Generator, size: int, shapes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """One image `(size, size)` and its labels."""
    side = size // 4
    image, labels = np.zeros((size, size), dtype=np.float32), np.zeros((size, size), dtype=np.uint8)
    for row, column in _places(rng, size, side, shapes):
        kind = int(rng.integers(1, len(SHAPES)))
        drawn, outline = _shape(SHAPES[kind], side)
        box = slice(row, row + side), slice(column, column + side)
        image[box] += rng.uniform(0.2, 1) * drawn
        labels[box] = np.where(outline, kind, labels[box])
    return image + rng.standard_normal(image.shape).astype(np.float32), labels


def _places(rng: np.random.Generator, size: int, side: int, count: int) -> list[tuple[int, int]]:
    """Corners of squares that do not overlap; begun anew where they do not fit."""
    found: list[tuple[int, int]] = []
    for _ in range(_TRIES * count):
        row, column = (int(v) for v in rng.integers(0, size - side + 1, 2))
        if all(max(abs(row - r), abs(column - c)) >= side for r, c in found):
            found.append((row, column))
            if len(found) == count:
                return found
        elif len(found) > 3 and rng.random() < 1 / 50:
            found = []
    raise DataError(f"{count} squares of {side} pixels do not fit into {size} x {size}; ask for larger images")


def _shape(kind: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    """What is drawn, and its filled outline, `(side, side)` bool."""
    axis = np.abs(np.arange(side) - (side - 1) / 2)
    distance = np.hypot(axis[:, None], axis) if kind in ("disc", "ring") else np.maximum(axis[:, None], axis)
    outline = distance <= side / 2
    return (outline & (distance > side / 4) if kind in ("hollow square", "ring") else outline), outline


def _splits(images: list[np.ndarray], labels: list[np.ndarray], classes: tuple[str, ...], source: str) -> PixelSplits:
    mean, std = channel_statistics(images[0])
    sets = [
        ImageSet(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y))
        for x, y in zip(images, labels, strict=True)
    ]
    return PixelSplits(
        *sets,
        classes=classes,
        input_shape=sets[0].shape,
        mean=mean,
        std=std,
        augment=Augment(),
        fingerprint=fingerprint(classes, [*images, *labels]),
        description=f"{source}: {', '.join(str(len(s)) for s in sets)} images of {sets[0].shape}",
        source=source,
    )


def shortened(data: PixelSplits, count: int | None) -> PixelSplits:
    """The same with at most so many training images."""
    if count is None or count >= len(data.train):
        return data
    return replace(data, train=data.train.take(torch.arange(count)))
