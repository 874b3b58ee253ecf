"""What the loop trains where it is a supernet: who is trained, from what the others learn, what is open when.

Who: a `Sampling`. From what: the labels, or for all but the largest member what that one says in the same step. When:
`Phases`, at whose beginning channels may be sorted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from search_spaces import Architecture, SearchSpace, Stateful, Supernet

from ..config import Supernet as SupernetSettings
from . import attentive  # noqa: F401  (it files itself in samplings)
from .phases import Phases
from .programs import loss_by_answer, loss_of, softened_answer
from .sampling import Listening, Sampling, samplings

if TYPE_CHECKING:
    from .sorting import ChannelSorter


class SupernetProgram:
    """A supernet trained by some of its members in each step.

    With distillation in place (Yu et al. 2018) the largest member is trained in each step by the labels, the others by
    its softened outputs alone; only the largest drops out, where the space does.

    Args:
        seed: of all that is drawn.
        sampling: who is trained; by default the one that the settings name.

    Attributes:
        distils: whether members learn from the largest one.
        phases: what is open when.
    """

    def __init__(
        self, module: Supernet, seed: int, settings: SupernetSettings, sampling: Sampling | None = None
    ) -> None:
        self.module = module
        self.settings = settings
        self.phases = Phases(module.space, settings.shrinking, settings.epochs)
        self.sampling = sampling or samplings[settings.strategy](module.space, settings, seed)
        self.distils = self.sampling.distils if settings.distill is None else settings.distill
        self._seed = seed
        self._smoothing = settings.optimizer.label_smoothing
        self._stateful = [part for part in module.modules() if isinstance(part, Stateful)]

    @property
    def space(self) -> SearchSpace:
        return self.module.space

    def rng(self, epoch: int, step: int) -> np.random.Generator:
        """The generator of one step."""
        return np.random.default_rng([self._seed, epoch, step])

    def members(self, epoch: int, step: int) -> list[Architecture]:
        """The members trained in a step; the largest comes first where the others learn from it."""
        opened = self.phases.at(epoch)
        drawn = self.sampling.members(opened, self.rng(epoch, step), epoch)
        if not self.distils or drawn[0] == opened.largest:
            return drawn
        return [opened.largest, *(m for m in drawn if m != opened.largest)]

    def outputs(self, inputs: Any, members: Sequence[Architecture]) -> Iterator[Tensor]:
        """Logits of one member after the other; all start from the state that the step before left, if any.

        The next step goes on from the state of the last member.
        """
        states = [part.state for part in self._stateful]
        for place, member in enumerate(members):
            for part, state in zip(self._stateful, states, strict=True):
                part.state = state
            yield self.module(inputs, member, regularised=not (self.distils and place))

    def backward(self, inputs: Any, targets: Tensor, epoch: int, step: int) -> Tensor:
        members = self.members(epoch, step)
        share = 1.0 if self.distils or self.sampling.summed else 1 / len(members)
        soft, losses = None, []
        for logits in self.outputs(inputs, members):
            if soft is None:
                loss = hard = loss_of(logits, targets, self._smoothing)
            else:
                loss, hard = loss_by_answer(logits, soft, targets), self._heard(logits, targets)
            (share * loss).backward()
            losses.append(hard.detach())
            if self.distils and soft is None:
                soft = softened_answer(logits, targets)
        told = torch.stack(losses)
        if isinstance(self.sampling, Listening):
            self.sampling.observe(members, told)
        return told[0] if self.distils else told.mean()

    def _heard(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What a member that learned from another one would have lost on the labels, where anybody wants to know."""
        if not isinstance(self.sampling, Listening):
            return logits.new_zeros(())
        return loss_of(logits.detach(), targets, self._smoothing)


class SteppedSupernetProgram(SupernetProgram):
    """A supernet's program whose parts do something around steps, or have a state: attention, sorted channels."""

    def __init__(
        self, module: Supernet, seed: int, settings: SupernetSettings, sampling: Sampling | None = None
    ) -> None:
        super().__init__(module, seed, settings, sampling)
        self._sorter = _sorter(module, self.phases) if sorts(settings) else None
        self._sorted = 0  # the last phase whose channels are in order
        self._moved: np.ndarray | None = None

    def backward(self, inputs: Any, targets: Tensor, epoch: int, step: int) -> Tensor:
        self._begin(epoch)
        return super().backward(inputs, targets, epoch, step)

    def _begin(self, epoch: int) -> None:
        """Sort channels in the first step of a phase; a checkpoint of a later epoch has them in order."""
        phase = self.phases.index(epoch)
        if self._sorter is None or phase <= self._sorted:
            return
        self._sorted = phase
        if epoch == self.phases.starts[phase]:
            self._moved = self._sorter.order(phase)
            if self._moved is not None:
                self._sorter.sort(self._moved)

    def before_step(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
        """What the optimiser knows of channels goes where they went; gradients are of the new order already."""
        if self._sorter is not None and self._moved is not None:
            self._sorter.sort_momenta(self._moved, optimizer)
            self._moved = None

    def after_step(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
        """Nothing is to be done."""

    def state_dict(self) -> dict[str, Any]:
        return {"sampling": self.sampling.state_dict() if isinstance(self.sampling, Listening) else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if isinstance(self.sampling, Listening):
            self.sampling.load_state_dict(state["sampling"])


def _sorter(supernet: Supernet, phases: Phases) -> ChannelSorter:
    from .sorting import ChannelSorter  # what finds the channels is slow to import

    return ChannelSorter(supernet, phases)


def sorts(settings: SupernetSettings) -> bool:
    """Whether a training sorts channels when phases open widths."""
    return settings.sort_channels and len(settings.shrinking) > 1


def supernet_program(
    supernet: Supernet, seed: int, settings: SupernetSettings, sampling: Sampling | None = None
) -> SupernetProgram:
    """The program of these settings, or of these with a sampling of one's own.

    Raises:
        ConfigError: phases that open unknown choices; an unknown predictor; channels that cannot be sorted.
    """
    listens = issubclass(samplings[settings.strategy] if sampling is None else type(sampling), Listening)
    kind = SteppedSupernetProgram if listens or sorts(settings) else SupernetProgram
    return kind(supernet, seed, settings, sampling)
