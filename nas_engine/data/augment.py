"""Augmentation of whole batches by index arithmetic.

Shift, padding and flip of a batch are one `gather`: each output pixel names the input pixel it copies, so every image
gets its own displacement without a loop. All random numbers of an epoch are drawn at its start, on the CPU: they depend
neither on the batch size nor on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_spaces.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import torch

PADDINGS = ("reflect", "zero")


@dataclass(frozen=True)
class Augment:
    """What is done to training images at random.

    Attributes:
        shift: largest displacement along each axis, in pixels; 0 for none.
        flip: mirror left to right with probability one half.
        cutout: side of the square that is set to the mean colour, in pixels, centred anywhere in the image and clipped
            at its border (DeVries and Taylor 2017, arXiv 1708.04552); 0 for none.
        padding: what a shift moves in: "zero" (black) or "reflect" (the image mirrored at its border).
    """

    shift: int = 0
    flip: bool = False
    cutout: int = 0
    padding: str = "zero"

    def __post_init__(self) -> None:
        for name in ("shift", "cutout"):
            pixels = getattr(self, name)
            if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels < 0:
                raise ConfigError(f"augmentation {name} must be a whole number of pixels, 0 or more, but is {pixels!r}")
        if self.padding not in PADDINGS:
            raise ConfigError(f"unknown padding {self.padding!r}: {did_you_mean(self.padding, PADDINGS)}")


def default_augment(input_shape: tuple[int, int, int], flip: bool | None = None) -> Augment:
    """Shift by an eighth of the shorter side; flip where `flip` says so, or (None) where the images have colour."""
    channels, height, width = input_shape
    return Augment(shift=min(height, width) // 8, flip=channels >= 3 if flip is None else flip)


class EpochAugmentation:
    """The random decisions of one epoch, and their application batch by batch.

    Args:
        augment: what to do.
        count: images in the epoch, N.
        input_shape: (C, H, W).
        generator: CPU generator that all decisions are drawn from.
        device: where the batches will be.

    Raises:
        ConfigError: a shift that is not smaller than the image.
    """

    def __init__(
        self,
        augment: Augment,
        count: int,
        input_shape: tuple[int, int, int],
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        import torch

        _, height, width = input_shape
        if augment.shift >= min(height, width):
            raise ConfigError(
                f"augmentation shift {augment.shift} must be smaller than the image, {height} x {width} pixels"
            )
        self.augment = augment
        moves = torch.randint(-augment.shift, augment.shift + 1, (2, count), generator=generator)
        flips = torch.rand(count, generator=generator) < (0.5 if augment.flip else 0.0)
        centres = torch.rand((2, count), generator=generator) * torch.tensor([[height], [width]])
        self._moves, self._flips, self._centres = (moves.to(device), flips.to(device), centres.long().to(device))

    def move(self, images: torch.Tensor, start: int) -> torch.Tensor:
        """Shifts and flips the images (B, C, H, W) that are number `start` and following of the epoch; any type."""
        if not (self.augment.shift or self.augment.flip):
            return images
        batch, channels, height, width = images.shape
        stop = start + batch
        rows = _displaced(height, self._moves[0, start:stop])
        columns = _displaced(width, self._moves[1, start:stop])
        columns = columns.where(~self._flips[start:stop, None], columns.flip(1))
        row_from, column_from = _inside(rows, height), _inside(columns, width)
        source = (row_from[:, :, None] * width + column_from[:, None, :]).flatten(1)
        moved = images.flatten(2).gather(2, source[:, None, :].expand(batch, channels, -1)).view_as(images)
        if self.augment.shift and self.augment.padding == "zero":
            moved.mul_(((rows == row_from)[:, :, None] & (columns == column_from)[:, None, :])[:, None])
        return moved

    def cut(self, images: torch.Tensor, start: int) -> torch.Tensor:
        """Sets a square of normalised images (B, C, H, W) to 0, the mean, in place; `start` as for `move`."""
        side = self.augment.cutout
        if not side:
            return images
        batch, _, height, width = images.shape
        centres = self._centres[:, start : start + batch].to(images.device)
        rows, columns = (_within(size, centres[axis] - side // 2, side) for axis, size in enumerate((height, width)))
        return images.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def _displaced(size: int, shift: torch.Tensor) -> torch.Tensor:
    """(B, size): the source position of each output position, which may lie outside 0..size-1."""
    import torch

    return torch.arange(size, device=shift.device) + shift[:, None]


def _inside(positions: torch.Tensor, size: int) -> torch.Tensor:
    """Positions mirrored at the borders of 0..size-1 (the border pixel is not repeated)."""
    last = size - 1
    return last - (last - positions.abs()).abs()


def _within(size: int, first: torch.Tensor, side: int) -> torch.Tensor:
    """(B, size): True for the positions first .. first+side-1."""
    import torch

    positions = torch.arange(size, device=first.device) - first[:, None]
    return (positions >= 0) & (positions < side)
