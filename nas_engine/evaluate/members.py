"""Scores of supernet members: batch norms, if any, recalibrated on the training part, judged on the validation part."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Architecture, Supernet, carrying

from ..data import GraphWalk, Splits
from .accuracy import Tally, remembering, tally


@dataclass(frozen=True, slots=True)
class MemberScore:
    """What the supernet says of a member on the validation part; accuracies are fractions.

    The halves are every other validation image or node, or the halves of a text: how well they agree over members tells
    how noisy the scores are.
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
        images: how many validation images or nodes, or windows of a text, to judge on; None for all.
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
        self._calibration: list[Any] = []
        if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in supernet.modules()):
            train = data.walk(data.train, batch_size, seed=seed, device=device)
            self._calibration = [x for x, _ in islice(train, recalibration_batches)]
        held = data.validation.halves(images)
        walks = [data.walk(half, batch_size, device=device) for half in held]
        self._halves = [walk if isinstance(walk, GraphWalk) else list(walk) for walk in walks]
        self._quality = data.quality

    def score(self, architecture: Architecture) -> MemberScore:
        """Recalibrate and judge one member."""
        if self._calibration:
            self._supernet.recalibrate(architecture, self._calibration)
        # the halves of a graph are judged by one run, as both need all of it
        call = remembering(self._supernet.subnet(architecture))
        a, b = (self._half(call, half) for half in self._halves)
        both, first, second = (a + b).result(), a.result(), b.result()
        return MemberScore(both.accuracy, both.loss, first.accuracy, second.accuracy)

    def _half(self, call: Callable[[Any], Tensor], half: Iterable[tuple[Any, Tensor]]) -> Tally:
        with carrying(self._supernet):
            return tally(call, half, self._quality)
