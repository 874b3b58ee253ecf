"""The one training loop. It trains a `Program` epoch by epoch and yields after each, once the epoch is on the disk.

Everything random in an epoch follows from the seed and the epoch's number, and a checkpoint holds weights and
optimiser: a training killed at any moment and started again gives what an undisturbed one gives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from search_spaces import carrying
from search_spaces.errors import ConfigError, EngineError

from ..config import Optimizer
from ..data import Augment, Splits
from ..data.containers import Batches
from ..files import read_torch, write_torch
from .parallel import Alone
from .parts import Parts, accumulated
from .precision import mixed, working_type

_SECOND_MOMENT = 0.999  # of Adam, as proposed (Kingma and Ba 2015)


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
        """Add the gradients of a batch's mean loss to the parameters; returns the loss, detached.

        It may see a part of the batch, and then be called for the others in the same step. Anything random must
        follow from the seed, `epoch` and `step`.
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


@runtime_checkable
class Observing(Protocol):
    """What a program may do besides: see each batch whole, before its gradients are formed."""

    def observe(self, inputs: Tensor, targets: Tensor, epoch: int, step: int) -> None:
        """Called once a step."""


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
    team: Alone | None = None,
) -> Iterator[Epoch]:
    """Train on `data.train`, yielding each epoch; epochs found in the checkpoint are not repeated or yielded.

    Modules with a state carry it from batch to batch, and begin each epoch afresh. A program that is `Stepped` acts
    around each step, and its state goes into the checkpoint.

    `notes` are plain values of the caller's; a checkpoint keeps them as they are at the end of its epoch, see `noted`.

    With a `team` all of its processes call this alike, and each goes through its share of every batch. Rank 0 reads
    and writes the checkpoint; its weights are what all begin with.

    The module is left in the state of the last epoch yielded (or found), on `device`, in training mode.

    Raises:
        ConfigError: a precision that the device has not.
        ConnectionLostError: a process of the team is gone.
        DivergedError: the loss became NaN or infinite.
    """
    steps = Steps(program, settings, team or Alone(), device)
    history = steps.begin(checkpoint)
    for epoch in range(len(history), epochs):
        started = time.perf_counter()
        walk = data.epoch(settings.batch_size, seed=seed, epoch=epoch, augment=augment, device=device)
        loss = steps.epoch(walk, epoch, epochs, seed)
        if not math.isfinite(loss):
            raise DivergedError(f"the training loss became {loss} in epoch {epoch + 1}; lower the learning rate")
        finished = Epoch(epoch + 1, loss, time.perf_counter() - started)
        if checkpoint is not None:
            history.append(finished)
            if steps.team.leads:
                write_torch(checkpoint, {**snapshot(program, steps.optimizer, history), "notes": list(notes)})
        yield finished


class Steps:
    """The steps of one training: gradients part by part and process by process, then the optimiser.

    Args:
        program: its module is moved to the device.
        team: the processes that train together.

    Raises:
        ConfigError: a precision that the device has not.
    """

    def __init__(self, program: Program, settings: Optimizer, team: Alone, device: str) -> None:
        self.team = team
        self._program, self._settings, self._device = program, settings, device
        self._module = program.module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._type = working_type(settings.precision, device)
        self.optimizer = make_optimizer(self._module, settings)

    def begin(self, checkpoint: Path | None) -> list[Epoch]:
        """Start from a checkpoint if there is one, all processes alike; the epochs that it holds."""
        history = resume(self._program, self.optimizer, checkpoint) if self.team.leads else []
        if self.team.size > 1:
            state = self.team.given(lambda: snapshot(self._program, self.optimizer, history))
            history = history if self.team.leads else restore(self._program, self.optimizer, state)
        return history

    def epoch(self, walk: Batches, epoch: int, epochs: int, seed: int) -> float:
        """Train on the batches of one epoch; their mean loss, on all processes."""
        rank = (self.team.rank,) if self.team.rank else ()  # each its own dropout
        torch.manual_seed(hash((seed, epoch, *rank)) % 2**31)
        self._module.train()
        total = torch.zeros((), device=self._device)
        parts = Parts(self._module, self._settings.accumulate)
        with carrying(self._module):
            for step, (inputs, targets) in enumerate(walk):
                rate = learning_rate(self._settings, epoch + step / len(walk), epochs)
                total += self._step(parts, rate, inputs, targets, epoch, step)
        self._settle()
        return float(self.team.add(total)) / len(walk)

    def _step(
        self, parts: Parts, rate: float, inputs: Tensor, targets: Tensor, epoch: int, step: int
    ) -> Tensor | float:
        """One step at a learning rate; this process's part of the loss as a tensor: a GPU is not waited for."""
        program, optimizer, settings = self._program, self.optimizer, self._settings
        if len(inputs) < self.team.size:  # a process without a share would not see what its program does in a step
            raise ConfigError(f"a batch of {len(inputs)} leaves nothing for some of {self.team.size} processes")
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        if isinstance(program, Observing):
            program.observe(inputs, targets, epoch, step)
        with mixed(self._module, self._type, self._device):
            loss = accumulated(
                lambda x, y: program.backward(x, y, epoch, step),
                parts.of(*self.team.share(inputs, targets)),
                self._module.parameters,
                len(inputs),
            )
        self.team.add_gradients(self._module.parameters())
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._module.parameters(), settings.clip_norm)
        if not isinstance(program, Stepped):
            optimizer.step()
        else:
            program.before_step(optimizer, epoch, step)
            optimizer.step()
            program.after_step(optimizer, epoch, step)
        return 0.0 if loss is None else loss

    def _settle(self) -> None:
        """What processes hold of their own, statistics of their shares, becomes one before it is written down."""
        self.team.settle(self._module)
        program = self._program
        if self.team.size > 1 and isinstance(program, Stepped):
            state = self.team.given(program.state_dict)
            if not self.team.leads:
                program.load_state_dict(state)


def make_optimizer(module: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """The optimiser of a module; weight decay on matrices and kernels only (biases and norms are left alone)."""
    decayed = [p for p in module.parameters() if p.ndim > 1]
    free = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": free, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    rate, momentum = settings.learning_rate, settings.momentum
    if settings.name == "adam":
        return torch.optim.Adam(groups, lr=rate, betas=(momentum, _SECOND_MOMENT))
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0)


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
    return restore(program, optimizer, read_torch(checkpoint))


def snapshot(program: Program, optimizer: torch.optim.Optimizer, history: Sequence[Epoch]) -> dict[str, Any]:
    """What a training is resumed from: plain values and tensors."""
    state = {"module": program.module.state_dict(), "optimizer": optimizer.state_dict()}
    if isinstance(program, Stepped):
        state["program"] = program.state_dict()
    return {**state, "history": [asdict(e) for e in history]}


def restore(program: Program, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> list[Epoch]:
    """Go on from a snapshot; the epochs it holds."""
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
