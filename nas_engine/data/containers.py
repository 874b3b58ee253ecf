"""What the data package hands out: images with labels, the three parts of a data set, and how to normalise them.

Images stay in the type they came in (uint8 wherever possible) and become float32 one batch at a time,
so CIFAR-10 costs 184 MB of memory and not 737.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from ..quality import ACCURACY, Quality
from .augment import Augment

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Batches:
    """One epoch of `(inputs, targets)`; inputs are a tensor, or a `GraphInput`.

    Attributes:
        count: how many batches there are.
        make: begins the walk.
    """

    count: int
    make: Callable[[], Iterator[tuple[Any, torch.Tensor]]]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Any, torch.Tensor]]:
        return self.make()


class Splits(Protocol):
    """What training, judging and the stages of a run need of data, whatever they hold: see `DataSplits`,
    `TextSplits`, `GraphSplits`.

    Parts have a length, the number of cases that are judged, and `halves(count)`: two parts to compare scores on, of
    at most `count` images, windows or nodes together.
    """

    @property
    def train(self) -> Any: ...
    @property
    def validation(self) -> Any: ...
    @property
    def test(self) -> Any: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def input_shape(self) -> tuple[int, ...]: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def augment(self) -> Augment | None: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def quality(self) -> Quality: ...

    def epoch(
        self, batch_size: int, *, seed: int, epoch: int, augment: Augment | None = None, device: str | None = None
    ) -> Batches:
        """The training batches of an epoch, in an order that follows from seed and epoch."""

    def walk(
        self, part: Any, batch_size: int, *, seed: int | None = None, device: str | None = None
    ) -> Iterable[tuple[Any, torch.Tensor]]:
        """All of a part in stored order, or in a random one where there is a seed and order means nothing."""

    def beginning(self, batch_size: int, steps: int) -> Splits:
        """The same with a training part for so many steps, or for as many as there are."""

    def samples(self, count: int) -> Any:
        """At most `count` inputs of the validation part, as networks take them; of a graph, which is one, all."""

    def to(self, device: str | torch.device) -> Splits:
        """The same data on a device."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their class numbers.

    Shapes:
        images: (N, C, H, W), uint8 in 0..255 or float32 as the source gave it.
        labels: (N,), int64 in 0..classes-1.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return int(channels), int(height), int(width)

    def to(self, device: str | torch.device) -> ImageSet:
        """The same images on another device; a set that fits on a GPU is best moved there once, before training."""
        return ImageSet(self.images.to(device), self.labels.to(device))

    def take(self, indices: torch.Tensor) -> ImageSet:
        """The images at `indices` (M,), in that order, as a set of its own."""
        indices = indices.to(self.labels.device)
        return ImageSet(self.images.index_select(0, indices), self.labels.index_select(0, indices))

    def halves(self, count: int | None = None) -> tuple[ImageSet, ImageSet]:
        """Every other image, and the rest; of at most `count` images together."""
        import torch

        held = self
        if count is not None and count < len(self):
            # images lie in the order of their source, often sorted: an even stride covers all classes
            held = self.take(torch.linspace(0, len(self) - 1, count).long())
        return held.take(torch.arange(0, len(held), 2)), held.take(torch.arange(1, len(held), 2))


@dataclass(frozen=True)
class Normaliser:
    """Takes pixels to zero mean and unit deviation, channel by channel: `(pixel - mean) / std`.

    `mean` and `std` are those of the pixel values as a network would see them unnormalised: uint8 counts as
    value / 255, float32 as it is.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: torch.Tensor, channels_last: bool = False) -> torch.Tensor:
        """float32 normalised copy of `images` (N, C, H, W), uint8 or float; in channels-last memory order if asked."""
        import torch

        scale, offset = _affine(self, images.device)
        if images.dtype == torch.uint8:
            scale = scale / 255
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return images.to(torch.float32, memory_format=layout, copy=True).mul_(scale).add_(offset)


@lru_cache(maxsize=16)
def _affine(normaliser: Normaliser, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(C, 1, 1) scale and offset with `pixel * scale + offset` normalised; kept so that no batch waits for a copy."""
    import torch

    std = torch.tensor(normaliser.std, dtype=torch.float64)
    offset = -torch.tensor(normaliser.mean, dtype=torch.float64) / std
    return (1 / std).float().view(-1, 1, 1).to(device), offset.float().view(-1, 1, 1).to(device)


@dataclass(frozen=True, eq=False)
class DataSplits:
    """A data set in three parts that share no image, with what a search needs to know about it.

    Attributes:
        train, validation, test: the parts; `validation` was split off the source's training part.
        classes: the class names, in label order.
        input_shape: (C, H, W).
        mean, std: per channel, of `train` only, in the units of `Normaliser`.
        augment: the augmentation that suits this source unless the user says otherwise.
        fingerprint: sha256 in hex of classes, images and labels of all three parts: same content, same split.
        description: what was loaded and how it was split, for people.
        source: the specification it was loaded by.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment
    fingerprint: str
    description: str
    source: str

    @property
    def normaliser(self) -> Normaliser:
        return Normaliser(self.mean, self.std)

    @property
    def quality(self) -> Quality:
        return ACCURACY

    def epoch(
        self, batch_size: int, *, seed: int, epoch: int, augment: Augment | None = None, device: str | None = None
    ) -> Batches:
        """The training images in an order that follows from (seed, epoch), without a smaller last batch."""
        from .batches import batch_count, batches

        size = min(batch_size, len(self.train))
        settings = {"seed": seed, "epoch": epoch, "augment": augment, "device": device}
        return Batches(
            batch_count(len(self.train), size, drop_last=True),
            lambda: batches(self.train, size, normaliser=self.normaliser, drop_last=True, **settings),  # type: ignore[arg-type]
        )

    def walk(
        self, part: ImageSet, batch_size: int, *, seed: int | None = None, device: str | None = None
    ) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        """All images of a part, in stored order or shuffled by a seed."""
        from .batches import batches

        return batches(part, batch_size, normaliser=self.normaliser, seed=seed, device=device)

    def beginning(self, batch_size: int, steps: int) -> DataSplits:
        """The same with the first training images, for so many steps."""
        import torch

        return replace(self, train=self.train.take(torch.arange(min(len(self.train), batch_size * steps))))

    def samples(self, count: int) -> torch.Tensor:
        """(N, C, H, W) validation images spread over the part, normalised; at most `count`."""
        import torch

        some = torch.linspace(0, len(self.validation) - 1, min(count, len(self.validation))).long()
        return self.normaliser(self.validation.take(some).images)

    def to(self, device: str | torch.device) -> DataSplits:
        """The same splits with all three parts on `device`."""
        parts = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **parts)
