"""Batches by direct tensor indexing.

Everything is in memory already, so an epoch is a permutation and a row of `index_select`: several times faster than a
`DataLoader`, with no worker processes. Order and augmentation follow from `(seed, epoch)` alone, so a
training resumed at any epoch sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from search_spaces.errors import ConfigError

from .augment import Augment, EpochAugmentation

if TYPE_CHECKING:
    import torch

    from .containers import ImageSet, Normaliser


def batches(
    images: ImageSet,
    batch_size: int,
    *,
    normaliser: Normaliser,
    seed: int | None = None,
    epoch: int = 0,
    augment: Augment | None = None,
    drop_last: bool = False,
    device: str | torch.device | None = None,
    resolution: int | None = None,
    channels_last: bool = True,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch of `(x, y)`.

    Args:
        images: the part to walk through.
        batch_size: B; the last batch may be smaller, see `drop_last`.
        normaliser: `DataSplits.normaliser`.
        seed: None walks in stored order (evaluation); a number shuffles by (seed, epoch).
        epoch: which epoch of that seed, from 0.
        augment: random changes; needs a seed.
        drop_last: leave out a smaller last batch.
        device: where the batches go; None leaves them where the images are.
        resolution: resize to a square of this side, in pixels.
        channels_last: memory order of x; faster for convolutions on CPU and GPU.

    Shapes:
        x: (B, C, H, W) float32, normalised; y: (B,) int64.

    Raises:
        ConfigError: at the call, for an argument that cannot be used.
    """
    _check(images, batch_size, seed, epoch, augment, drop_last, resolution)
    return _walk(images, batch_size, normaliser, seed, epoch, augment, drop_last, device, resolution, channels_last)


def batch_count(count: int, batch_size: int, drop_last: bool = False) -> int:
    """How many batches `batches` makes of `count` images."""
    return count // batch_size if drop_last else -(-count // batch_size)


def resize(x: torch.Tensor, resolution: int) -> torch.Tensor:
    """x (N, C, H, W) float to (N, C, resolution, resolution): bilinear, antialiased; x itself where it fits already."""
    from torch.nn.functional import interpolate

    if x.shape[-2:] == (resolution, resolution):
        return x
    return interpolate(x, size=(resolution, resolution), mode="bilinear", antialias=True, align_corners=False)


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """CPU generator of one epoch; numpy's SeedSequence keeps (seed, epoch) and (seed + 1, epoch - 1) apart."""
    import numpy as np
    import torch

    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


def _check(
    images: ImageSet,
    batch_size: int,
    seed: int | None,
    epoch: int,
    augment: Augment | None,
    drop_last: bool,
    resolution: int | None,
) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size must be 1 or more, but is {batch_size}")
    if drop_last and len(images) < batch_size:
        raise ConfigError(
            f"batch_size {batch_size} leaves no whole batch of {len(images)} images: choose a smaller one, "
            "or keep the last batch"
        )
    if resolution is not None and resolution < 1:
        raise ConfigError(f"resolution must be 1 pixel or more, but is {resolution}")
    if epoch < 0 or (seed is not None and seed < 0):
        raise ConfigError(f"seed and epoch must be 0 or more, but are {seed} and {epoch}")
    if augment is not None and seed is None:
        raise ConfigError("augmentation is random and needs a seed: pass seed=, or augment=None for evaluation")


def _walk(
    images: ImageSet,
    batch_size: int,
    normaliser: Normaliser,
    seed: int | None,
    epoch: int,
    augment: Augment | None,
    drop_last: bool,
    device: str | torch.device | None,
    resolution: int | None,
    channels_last: bool,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    import torch

    home = images.labels.device
    order, changes = None, None
    if seed is not None:
        generator = epoch_generator(seed, epoch)
        order = torch.randperm(len(images), generator=generator).to(home)
        if augment is not None:
            changes = EpochAugmentation(augment, len(images), images.shape, generator, home)
    for number in range(batch_count(len(images), batch_size, drop_last)):
        start, stop = number * batch_size, (number + 1) * batch_size
        if order is None:
            x, y = images.images[start:stop], images.labels[start:stop].clone()
        else:
            rows = order[start:stop]
            x, y = (images.images.index_select(0, rows), images.labels.index_select(0, rows))
        if changes is not None:
            x = changes.move(x, start)
        # uint8 crosses to the device, not float32: a quarter of the bytes
        x = normaliser(x if device is None else x.to(device), channels_last)
        if changes is not None:
            x = changes.cut(x, start)
        if resolution is not None:
            x = resize(x, resolution)
        yield x, (y if device is None else y.to(device))
