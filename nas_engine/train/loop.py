"""The one training loop. It trains a `Program` epoch by epoch and yields after each, once the epoch is on the disk.

Everything random in an epoch follows from the seed and the epoch's number, and a checkpoint holds weights and
optimiser: a training killed at any moment and started again gives what an undisturbed one gives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from search_spaces import carrying
from search_spaces.errors import EngineError

from ..config import Optimizer
from ..data import Augment, Splits
from ..files import read_torch, write_torch


class DivergedError(EngineError):
    """A training whose loss is no longer a number."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One finished epoch. `epoch` counts from 1; `loss` is the mean training loss; `seconds` of this epoch alone."""

    epoch: int
    loss: float
    seconds: float


class Program(Protocol):
    """What the loop trains: a module, and how a batch becomes gradients."""

    @property
    def module(self) -> nn.Module:
        """The weights."""

    def backward(self, inputs: Tensor, targets: Tensor, epoch: int, step: int) -> Tensor:
        """Add this batch's gradients to the parameters; returns the loss, detached.

        Anything random must follow from the seed, `epoch` and `step`.
        """


@runtime_checkable
class Stepped(Protocol):
    """What a program may do besides: act around each optimiser step, and have a state that checkpoints keep.

    A schedule that prunes while the loop trains is one; `before_step` finds the gradients formed and clipped.
    """

    def before_step(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
        """Called just before the optimiser moves the weights."""

    def after_step(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
        """Called when it has moved them."""

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on after a kill besides the weights: plain values and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""


def train(
    program: Program,
    data: Splits,
    settings: Optimizer,
    *,
    epochs: int,
    seed: int,
    augment: Augment | None = None,
    checkpoint: Path | None = None,
    notes: Sequence[dict[str, Any]] = (),
    device: str = "cpu",
) -> Iterator[Epoch]:
    """Train on `data.train`, yielding each epoch; epochs found in the checkpoint are not repeated or yielded.

    Modules with a state carry it from batch to batch, and begin each epoch afresh. A program that is `Stepped` acts
    around each step, and its state goes into the checkpoint.

    `notes` are plain values of the caller's; a checkpoint keeps them as they are at the end of its epoch, see `noted`.

    The module is left in the state of the last epoch yielded (or found), on `device`, in training mode.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    module = program.module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(module, settings)
    history = resume(program, optimizer, checkpoint)
    for epoch in range(len(history), epochs):
        started = time.perf_counter()
        torch.manual_seed(hash((seed, epoch)) % 2**31)
        module.train()
        walk = data.epoch(settings.batch_size, seed=seed, epoch=epoch, augment=augment, device=device)
        total = torch.zeros((), device=device)
        with carrying(module):
            for step, (inputs, targets) in enumerate(walk):
                rate = learning_rate(settings, epoch + step / len(walk), epochs)
                total += take_step(program, optimizer, settings, rate, inputs, targets, epoch, step)
        loss = float(total) / len(walk)
        if not math.isfinite(loss):
            raise DivergedError(f"the training loss became {loss} in epoch {epoch + 1}; lower the learning rate")
        finished = Epoch(epoch + 1, loss, time.perf_counter() - started)
        if checkpoint is not None:
            history.append(finished)
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "notes": list(notes)}
            if isinstance(program, Stepped):
                state["program"] = program.state_dict()
            write_torch(checkpoint, {**state, "history": [asdict(e) for e in history]})
        yield finished


def take_step(
    program: Program,
    optimizer: torch.optim.Optimizer,
    settings: Optimizer,
    rate: float,
    inputs: Tensor,
    targets: Tensor,
    epoch: int,
    step: int,
) -> Tensor:
    """One optimiser step at a learning rate; returns the loss as a tensor, so that a GPU is not waited for."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss = program.backward(inputs, targets, epoch, step)
    if settings.clip_norm is not None:
        nn.utils.clip_grad_norm_(program.module.parameters(), settings.clip_norm)
    if not isinstance(program, Stepped):
        optimizer.step()
        return loss
    program.before_step(optimizer, epoch, step)
    optimizer.step()
    program.after_step(optimizer, epoch, step)
    return loss


def make_optimizer(module: nn.Module, settings: Optimizer) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay on matrices and kernels only (biases and norms are left alone)."""
    decayed = [p for p in module.parameters() if p.ndim > 1]
    free = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.SGD(
        [g for g in groups if g["params"]],
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
    )


def learning_rate(settings: Optimizer, epoch: float, epochs: int) -> float:
    """Linear warm-up, then a cosine to zero, at a fractional epoch."""
    warmup = min(settings.warmup_epochs, epochs / 4)
    if epoch < warmup:
        return settings.learning_rate * (epoch + 1e-2) / (warmup + 1e-2)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(epochs - warmup, 1e-9)))


def resume(program: Program, optimizer: torch.optim.Optimizer, checkpoint: Path | None) -> list[Epoch]:
    """Load a checkpoint if there is one; the epochs it holds."""
    if checkpoint is None or not checkpoint.exists():
        return []
    state = read_torch(checkpoint)
    program.module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    if isinstance(program, Stepped):
        program.load_state_dict(state["program"])
    return [Epoch(**e) for e in state["history"]]


def noted(checkpoint: Path) -> list[dict[str, Any]]:
    """What the caller of `train` had noted when the checkpoint was written."""
    return list(read_torch(checkpoint)["notes"])


def finished_epochs(checkpoint: Path) -> list[Epoch]:
    """The epochs a checkpoint holds."""
    return [Epoch(**e) for e in read_torch(checkpoint)["history"]]
