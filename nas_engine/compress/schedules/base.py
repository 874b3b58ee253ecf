"""The contract of pruning schedules, their registry, and the program that lets the training loop drive them.

A schedule decides when units go and how much of the way to the target is gone by then. Which units is said by a
criterion's scores and an allocator; units are masked, and surgery comes when the training is over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.errors import ConfigError
from search_spaces.registry import Registry

from ...train import Program
from ..criteria.base import Criterion, Scores, score
from ..masked import Masked

Choose = Callable[[Scores, float], np.ndarray]
"""`choose(scores, share) -> keep`: an allocator bound to a target, asked for a share in (0, 1] of the way to it.

keep is bool `(units,)`."""


@dataclass(frozen=True)
class Plan:
    """What a schedule works with.

    Attributes:
        masked: the network, on the device that it trains on.
        choose: which units are kept at a share of the way to the target.
        criterion: makes a fresh criterion; schedules score again and again.
        calibration: gives the batches to score by where a schedule does not use those that it trains on; normalised
            inputs and targets, on the device.
        epochs, batches: of the training, and in each epoch, so that schedules can find their pace; 0 if not known.
    """

    masked: Masked
    choose: Choose
    criterion: Callable[[], Criterion]
    calibration: Callable[[], Iterable[tuple[Tensor, Tensor]]] = tuple
    epochs: int = 0
    batches: int = 0

    def scores(self) -> Scores:
        """Scores of the masked network as it is now."""
        return score(self.criterion(), self.masked.gated(), self.calibration())

    def prune(self, scores: Scores, share: float) -> int:
        """Mask what goes at a share of the way; what is gone never comes back. Returns how many units are left.

        A unit that is gone scores minus infinity, so that it is the first that allocators choose again.
        """
        before = self.masked.kept
        if scores.units is not None and not before.all():
            scores = replace(scores, units=np.where(before, scores.units, -np.inf))
        self.masked.mask(before & self.choose(scores, share))
        return int(self.masked.kept.sum())


class Schedule(ABC):
    """One way to prune while a network trains.

    `begin` is called once before the training, also when the training goes on after a kill (its effects must be the
    same then); `observe` before the gradients of each batch; `before_step` and `after_step` around each step of the
    optimiser; `complete` when the training is over, so that the target is met in any case.

    Class attributes:
        name: registered name.
        masks: "units" of the coupling, to be cut by `Masked.operate`, or "columns" of weights; see `columns`.
    """

    name: ClassVar[str] = ""
    masks: ClassVar[str] = "units"

    def begin(self, plan: Plan) -> None:
        self.plan = plan

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether the target is met; training goes on without pruning from here."""

    def observe(self, inputs: Tensor, targets: Tensor, epoch: int, step: int) -> None:  # noqa: B027
        """See a training batch; `epoch` and `step` count from 0."""

    def before_step(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:  # noqa: B027
        """The gradients are formed."""

    def after_step(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:  # noqa: B027
        """The weights are moved."""

    def complete(self) -> None:  # noqa: B027
        """Go what is left of the way at once, if any."""

    def report(self) -> dict[str, Any]:
        """What it did, in plain values."""
        return {"name": self.name, "finished": self.finished}

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on after a kill besides the module's own state: plain values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Go on from such a state; `begin` was called before."""


schedules: Registry[type[Schedule]] = Registry("schedule", ConfigError)
register_schedule = schedules.named
"""Class decorator: files a `Schedule` under `name`."""


class ScheduledProgram:
    """A program whose network is pruned by a schedule while it trains; the loop keeps the schedule's state.

    Args:
        program: trains `plan.masked`, by labels alone or with a teacher.
        schedule: `begin` is called here.
    """

    def __init__(self, program: Program, schedule: Schedule, plan: Plan) -> None:
        self._program, self.schedule = program, schedule
        schedule.begin(plan)

    @property
    def module(self) -> nn.Module:
        return self._program.module

    def backward(self, inputs: Tensor, targets: Tensor, epoch: int, step: int) -> Tensor:
        return self._program.backward(inputs, targets, epoch, step)

    def observe(self, inputs: Tensor, targets: Tensor, epoch: int, step: int) -> None:
        self.schedule.observe(inputs, targets, epoch, step)

    def before_step(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
        self.schedule.before_step(optimizer, epoch, step)

    def after_step(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
        self.schedule.after_step(optimizer, epoch, step)

    def state_dict(self) -> dict[str, Any]:
        return self.schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.schedule.load_state_dict(state)


def at_least(name: str, value: float, least: float) -> None:
    """Raises: ConfigError where a setting is below what it may be."""
    if not value >= least:
        raise ConfigError(f"{name} must be {least} or more; got {value}")
