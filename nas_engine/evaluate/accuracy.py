"""Accuracy and loss of a classifier on a set of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import ImageSet, Normaliser, batches


@dataclass(frozen=True, slots=True)
class Accuracy:
    """`accuracy` is the share of images classified rightly, `loss` the mean cross-entropy, `images` how many."""

    accuracy: float
    loss: float
    images: int


def accuracy(
    model: nn.Module, images: ImageSet, normaliser: Normaliser, *, batch_size: int = 512, device: str = "cpu"
) -> Accuracy:
    """Evaluate a module in evaluation mode; its mode is restored."""
    training = model.training
    model.eval()
    try:
        return measure(model, batches(images, batch_size, normaliser=normaliser, device=device))
    finally:
        model.train(training)


def measure(call: Callable[[Tensor], Tensor], walk: Iterable[tuple[Tensor, Tensor]]) -> Accuracy:
    """Accuracy of a function from images to logits over an iterable of (images, labels)."""
    right = loss = 0.0
    count = 0
    with torch.inference_mode():
        for images, labels in walk:
            logits = call(images)
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(-1) == labels).sum())
            count += len(labels)
    return Accuracy(right / count, loss / count, count)
