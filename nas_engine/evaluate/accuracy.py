"""Quality and loss of a network on a part of some data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import carrying

from ..data import ImageSet, Normaliser, Splits, batches
from ..quality import ACCURACY, Quality


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What a network does on cases it was not trained on.

    Attributes:
        accuracy: the share of images classified rightly; of texts `1 / perplexity`.
        loss: the mean cross-entropy in nats.
        images: how many images, or predicted tokens.
    """

    accuracy: float
    loss: float
    images: int


def accuracy(
    model: nn.Module, images: ImageSet, normaliser: Normaliser, *, batch_size: int = 512, device: str = "cpu"
) -> Accuracy:
    """Evaluate a classifier of images in evaluation mode; its mode is restored."""
    return _judged(model, batches(images, batch_size, normaliser=normaliser, device=device), ACCURACY)


def judge(model: nn.Module, data: Splits, part: Any, *, batch_size: int = 512, device: str = "cpu") -> Accuracy:
    """Evaluate a network on a part of some data in evaluation mode; its mode is restored.

    A text is judged as one: the state is carried from window to window, so that the length of windows means nothing.
    With a `batch_size` of 1 every token is predicted from all the text before it; else the text is cut into as many
    streams, each led in by a window that does not count.
    """
    return _judged(model, data.walk(part, batch_size, device=device), data.quality)


def _judged(model: nn.Module, walk: Iterable[tuple[Tensor, Tensor]], quality: Quality) -> Accuracy:
    training = model.training
    model.eval()
    try:
        with carrying(model):
            return measure(model, walk, quality)
    finally:
        model.train(training)


def measure(
    call: Callable[[Tensor], Tensor], walk: Iterable[tuple[Tensor, Tensor]], quality: Quality = ACCURACY
) -> Accuracy:
    """Accuracy of a function from inputs to logits over batches of (inputs, targets); targets below 0 do not count."""
    right = loss = 0.0
    count = 0
    with torch.inference_mode():
        for inputs, targets in walk:
            logits, wanted = call(inputs).flatten(0, -2), targets.flatten()
            loss += float(F.cross_entropy(logits, wanted, reduction="sum", ignore_index=-100))
            right += int((logits.argmax(-1) == wanted).sum())
            count += int((wanted >= 0).sum())
    return Accuracy(quality.score(right / count, loss / count), loss / count, count)
