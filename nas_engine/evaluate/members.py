"""Scores of supernet members: batch norms, if any, recalibrated on the training part, judged on the validation part."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from search_spaces import Architecture, Supernet, carrying

from ..data import Splits
from .accuracy import Accuracy, measure


@dataclass(frozen=True, slots=True)
class MemberScore:
    """What the supernet says of a member on the validation part; accuracies are fractions.

    The halves are every other validation image, or the halves of a text: how well they agree over members tells how
    noisy the scores are.
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
        batch_size: images in a forward pass, or streams of a text.
        recalibration_batches: training batches that set the batch-norm statistics.
        images: how many validation images, or windows of a text, to judge on; None for all.
        seed: which training images calibrate.
    """

    def __init__(
        self,
        supernet: Supernet,
        data: Splits,
        *,
        batch_size: int = 256,
        recalibration_batches: int = 4,
        images: int | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self._supernet = supernet.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._calibration: list[Tensor] = []
        if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in supernet.modules()):
            train = data.walk(data.train, batch_size, seed=seed, device=device)
            self._calibration = [x for x, _ in islice(train, recalibration_batches)]
        held = data.validation.halves(images)
        self._halves = [list(data.walk(half, batch_size, device=device)) for half in held]
        self._quality = data.quality

    def score(self, architecture: Architecture) -> MemberScore:
        """Recalibrate and judge one member."""
        if self._calibration:
            self._supernet.recalibrate(architecture, self._calibration)
        a, b = (self._half(architecture, half) for half in self._halves)
        share = a.images / (a.images + b.images)
        right = share * a.accuracy + (1 - share) * b.accuracy
        loss = share * a.loss + (1 - share) * b.loss
        return MemberScore(self._quality.score(right, loss), loss, a.accuracy, b.accuracy)

    def _half(self, architecture: Architecture, half: list[tuple[Tensor, Tensor]]) -> Accuracy:
        with carrying(self._supernet):
            return measure(self._supernet.subnet(architecture), half, self._quality)
