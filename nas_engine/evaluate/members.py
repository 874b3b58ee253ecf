"""Scores of supernet members: batch norms recalibrated on training images, judged on validation images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import torch

from search_spaces import Architecture, Supernet

from ..data import DataSplits, batches
from .accuracy import measure


@dataclass(frozen=True, slots=True)
class MemberScore:
    """What the supernet says of a member on validation images; accuracies are fractions.

    The halves are every other validation image: how well they agree over members tells how noisy the scores are.
    """

    accuracy: float
    loss: float
    first_half: float
    second_half: float


class MemberScorer:
    """Holds a supernet and its calibration and validation batches, so that a member costs forward passes only.

    Args:
        supernet: trained shared weights.
        data: where calibration batches (training part) and judged images (validation part) come from.
        batch_size: images in a forward pass.
        recalibration_batches: training batches that set the batch-norm statistics.
        images: how many validation images to judge on; None for all.
        seed: which training images calibrate.
    """

    def __init__(
        self,
        supernet: Supernet,
        data: DataSplits,
        *,
        batch_size: int = 256,
        recalibration_batches: int = 4,
        images: int | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self._supernet = supernet.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        train = batches(data.train, batch_size, normaliser=data.normaliser, seed=seed, device=device)
        self._calibration = [x for x, _ in islice(train, recalibration_batches)]
        held = data.validation
        if images is not None and images < len(held):
            # validation images lie in the order of their source, often sorted: an even stride covers all classes
            held = held.take(torch.linspace(0, len(held) - 1, images).long())
        self._halves = [
            list(
                batches(held.take(torch.arange(i, len(held), 2)), batch_size, normaliser=data.normaliser, device=device)
            )
            for i in (0, 1)
        ]

    def score(self, architecture: Architecture) -> MemberScore:
        """Recalibrate and judge one member."""
        self._supernet.recalibrate(architecture, self._calibration)
        a, b = (measure(self._supernet.subnet(architecture), half) for half in self._halves)
        count = a.images + b.images
        accuracy = (a.accuracy * a.images + b.accuracy * b.images) / count
        return MemberScore(accuracy, (a.loss * a.images + b.loss * b.images) / count, a.accuracy, b.accuracy)
