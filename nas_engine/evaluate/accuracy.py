"""Quality and loss of a network on a part of some data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import carrying

from ..data import GraphWalk, ImageSet, Normaliser, Splits, batches
from ..quality import ACCURACY, Quality


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What a network does on cases it was not trained on.

    Attributes:
        accuracy: the share of images or nodes classified rightly; of texts `1 / perplexity`; of nodes that may have
            several labels the area under the ROC curve.
        loss: the mean cross-entropy in nats, where there are several labels of each of them.
        images: how many images, predicted tokens or nodes.
    """

    accuracy: float
    loss: float
    images: int


class Tally:
    """Counts up what a network says of cases; two of them make one of all their cases.

    Args:
        quality: what the figure is to be.
    """

    def __init__(self, quality: Quality) -> None:
        self._quality = quality
        self._right = self._loss = 0.0
        self._count = self._judged = 0
        self._labels: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Logits `(..., C)` with class numbers `(...)`, of which those below 0 do not count, or labels `(..., C)`, of
        which NaN do not."""
        logits = logits.flatten(0, -2)
        if targets.is_floating_point():
            self._add_labels(logits, targets.flatten(0, -2))
            return
        wanted = targets.flatten()
        self._loss += float(F.cross_entropy(logits, wanted, reduction="sum", ignore_index=-100))
        self._right += int((logits.argmax(-1) == wanted).sum())
        counted = int((wanted >= 0).sum())
        self._count += counted
        self._judged += counted

    def _add_labels(self, logits: Tensor, targets: Tensor) -> None:
        known = ~targets.isnan()
        rows = known.any(-1)
        logits, targets, known = logits[rows].float(), targets[rows], known[rows]
        losses = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(), reduction="none")
        self._loss += float(losses[known].sum())
        self._count += int(rows.sum())
        self._judged += int(known.sum())
        self._labels.append((logits.cpu().numpy(), targets.cpu().numpy()))

    def __add__(self, other: Tally) -> Tally:
        both = Tally(self._quality)
        both._right, both._loss = self._right + other._right, self._loss + other._loss
        both._count, both._judged = self._count + other._count, self._judged + other._judged
        both._labels = self._labels + other._labels
        return both

    def result(self) -> Accuracy:
        loss = self._loss / self._judged
        if self._labels:
            logits, targets = (np.concatenate(arrays) for arrays in zip(*self._labels, strict=True))
            figure = roc_auc(logits, targets)
        else:
            figure = self._right / self._count
        return Accuracy(self._quality.score(figure, loss), loss, self._count)


def roc_auc(scores: np.ndarray, targets: np.ndarray) -> float:
    """Area under the ROC curve, the mean over the labels that are there in some cases and not in others.

    It is 0.5, what chance gives, where no label varies.

    Shapes:
        scores, targets: (N, C); targets 0 and 1, NaN where nothing is known.
    """
    from sklearn.metrics import roc_auc_score

    scores = np.nan_to_num(scores)
    areas = []
    for said, wanted in zip(scores.T, targets.T, strict=True):
        known = ~np.isnan(wanted)
        if 0 < wanted[known].sum() < known.sum():
            areas.append(float(roc_auc_score(wanted[known], said[known])))
    return sum(areas) / len(areas) if areas else 0.5


def accuracy(
    model: nn.Module, images: ImageSet, normaliser: Normaliser, *, batch_size: int = 512, device: str = "cpu"
) -> Accuracy:
    """Evaluate a classifier of images in evaluation mode; its mode is restored."""
    return _judged(model, batches(images, batch_size, normaliser=normaliser, device=device), ACCURACY)


def judge(model: nn.Module, data: Splits, part: Any, *, batch_size: int = 512, device: str = "cpu") -> Accuracy:
    """Evaluate a network on a part of some data in evaluation mode; its mode is restored.

    A text is judged as one: the state is carried from window to window, so that the length of windows means nothing.
    With a `batch_size` of 1 every token is predicted from all the text before it; else the text is cut into as many
    streams, each led in by a window that does not count. A node of a graph is judged by the mean of its logits over
    the views of the data.
    """
    return _judged(model, data.walk(part, batch_size, device=device), data.quality)


def _judged(model: nn.Module, walk: Iterable[tuple[Any, Tensor]], quality: Quality) -> Accuracy:
    training = model.training
    model.eval()
    try:
        with carrying(model):
            return measure(model, walk, quality)
    finally:
        model.train(training)


def measure(call: Callable[[Any], Tensor], walk: Iterable[tuple[Any, Tensor]], quality: Quality = ACCURACY) -> Accuracy:
    """Accuracy of a function from inputs to logits over batches of (inputs, targets); targets below 0 do not count."""
    return tally(call, walk, quality).result()


def tally(call: Callable[[Any], Tensor], walk: Iterable[tuple[Any, Tensor]], quality: Quality) -> Tally:
    """What a function from inputs to logits says over batches of (inputs, targets)."""
    counted = Tally(quality)
    with torch.inference_mode():
        for logits, targets in outputs(call, walk):
            counted.add(logits, targets)
    return counted


def outputs(call: Callable[[Any], Tensor], walk: Iterable[tuple[Any, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and targets batch by batch; of a graph at once, as a node may come in several batches."""
    if isinstance(walk, GraphWalk):
        yield walk.outputs(call)
        return
    for inputs, targets in walk:
        yield call(inputs), targets


def remembering(call: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """The function, which is not run again for the very inputs that it was run for last."""
    last: list[Any] = [None, None]

    def remembered(inputs: Any) -> Tensor:
        if last[0] is not inputs:
            last[:] = inputs, call(inputs)
        result: Tensor = last[1]
        return result

    return remembered
