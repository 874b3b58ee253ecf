"""What the loop trains where it is one network: by its labels, or by these and a teacher. Supernets: `elastic.py`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.errors import ConfigError


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits `(B, V)` or `(B, T, V)` and classes `(B,)` or `(B, T)`, or such probabilities."""
    axes = logits.dim() - 1
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(0, axes - 1), label_smoothing=smoothing)


def loss_of(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean loss of logits `(..., C)` by what the data give: class numbers `(...)`, or labels `(..., C)`.

    Classes are learned by cross-entropy, those of `IGNORED` left out. Several labels, floats of 0 and 1, are each
    learned by binary cross-entropy; where they are NaN nothing is known, and nothing counts.

    Raises:
        ConfigError: labels are to be smoothed that are not classes.
    """
    if not targets.is_floating_point():
        return cross_entropy(logits, targets, smoothing)
    if smoothing:
        raise ConfigError("label_smoothing is for one class a case, and these have several labels; leave it out")
    known = ~targets.isnan()
    return F.binary_cross_entropy_with_logits(logits[known], targets[known])


def softened_answer(logits: Tensor, targets: Tensor) -> Tensor:
    """What a network says, for another one to learn from: probabilities of classes, or of each of several labels."""
    return logits.detach().sigmoid() if targets.is_floating_point() else logits.detach().softmax(-1)


def loss_by_answer(logits: Tensor, answer: Tensor, targets: Tensor) -> Tensor:
    """Mean loss of logits by a `softened_answer`, on all cases: also those whose targets are not known."""
    if targets.is_floating_point():
        return F.binary_cross_entropy_with_logits(logits, answer)
    return cross_entropy(logits, answer)


class NetworkProgram:
    """A network trained by cross-entropy, see `loss_of`."""

    def __init__(self, module: nn.Module, label_smoothing: float = 0.0) -> None:
        self.module = module
        self._smoothing = label_smoothing

    def backward(self, inputs: Any, targets: Tensor, epoch: int, step: int) -> Tensor:
        loss = loss_of(self.module(inputs), targets, self._smoothing)
        loss.backward()
        return loss.detach()


class DistilledProgram(NetworkProgram):
    """A network that learns from the labels and from a teacher's softened outputs (Hinton et al. 2015).

    The loss is `(1 - alpha) * CE(z, y) + alpha * T^2 * KL(softmax(t / T) || softmax(z / T))` for logits z of the
    network and t of the teacher; the square of the temperature keeps the gradients' size. A pruned network learns so
    from the one that it was.

    Args:
        teacher: run in evaluation mode, which it is put into, without gradients; no part of checkpoints.
        alpha: the teacher's share, 0 to 1.
        temperature: above 0.

    Raises:
        ConfigError: a share or temperature out of its range.
    """

    def __init__(
        self,
        module: nn.Module,
        teacher: nn.Module,
        alpha: float = 0.5,
        temperature: float = 4.0,
        label_smoothing: float = 0.0,
    ) -> None:
        if not 0 <= alpha <= 1:
            raise ConfigError(f"alpha is the teacher's share of the loss, from 0 to 1; got {alpha}")
        if not temperature > 0:
            raise ConfigError(f"the temperature of a distillation must be above 0; got {temperature}")
        super().__init__(module, label_smoothing)
        self._teacher = teacher.eval()
        self._alpha, self._temperature = alpha, temperature

    def backward(self, inputs: Any, targets: Tensor, epoch: int, step: int) -> Tensor:
        if targets.is_floating_point():
            raise ConfigError("a teacher's softened outputs are of one class a case, and these have several labels")
        self._teacher.to(inputs.device)
        with torch.no_grad():
            wanted = self._teacher(inputs)
        logits = self.module(inputs)
        hard = cross_entropy(logits, targets, self._smoothing)
        loss = (1 - self._alpha) * hard + self._alpha * softened(logits, wanted, self._temperature)
        loss.backward()
        return loss.detach()


def softened(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """`T^2 * KL(softmax(wanted / T) || softmax(logits / T))`, the mean over examples; logits `(..., V)`."""
    ours, theirs = ((z.flatten(0, -2) / temperature).log_softmax(-1) for z in (logits, wanted))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
