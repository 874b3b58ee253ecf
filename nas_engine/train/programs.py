"""What the loop trains: a network by its labels, a supernet by one of three samplings of its members."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import Architecture, SearchSpace, Stateful, Supernet
from search_spaces.errors import ConfigError, did_you_mean

from ..config import Supernet as SupernetSettings


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits `(B, V)` or `(B, T, V)` and classes `(B,)` or `(B, T)`, or such probabilities."""
    axes = logits.dim() - 1
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(0, axes - 1), label_smoothing=smoothing)


class NetworkProgram:
    """A network trained by cross-entropy."""

    def __init__(self, module: nn.Module, label_smoothing: float = 0.0) -> None:
        self.module = module
        self._smoothing = label_smoothing

    def backward(self, inputs: Tensor, targets: Tensor, epoch: int, step: int) -> Tensor:
        loss = cross_entropy(self.module(inputs), targets, self._smoothing)
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

    def backward(self, inputs: Tensor, targets: Tensor, epoch: int, step: int) -> Tensor:
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


class SupernetProgram:
    """A supernet trained by uniform single-path sampling (Guo et al. 2019): one random member a step."""

    def __init__(self, module: Supernet, seed: int, settings: SupernetSettings) -> None:
        self.module = module
        self.settings = settings
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
        """The members trained in a step; their gradients are averaged."""
        return [self.space.canonical(self.space.sample(self.rng(epoch, step)))]

    def outputs(self, inputs: Tensor, members: Sequence[Architecture]) -> Iterator[Tensor]:
        """Logits of one member after the other; all start from the state that the step before left, if any.

        The next step goes on from the state of the last member.
        """
        states = [part.state for part in self._stateful]
        for member in members:
            for part, state in zip(self._stateful, states, strict=True):
                part.state = state
            yield self.module(inputs, member)

    def backward(self, inputs: Tensor, targets: Tensor, epoch: int, step: int) -> Tensor:
        members = self.members(epoch, step)
        total = torch.zeros((), device=inputs.device)
        for logits in self.outputs(inputs, members):
            loss = cross_entropy(logits, targets, self._smoothing)
            (loss / len(members)).backward()
            total += loss.detach() / len(members)
        return total


class FairProgram(SupernetProgram):
    """Strict fairness (FairNAS, Chu et al. 2021): every option of every choice is trained equally often in each step.

    Each choice draws a permutation of its options; as many members as the longest choice has options are run
    and their gradients accumulated. A choice with fewer options repeats its permutation.
    """

    def members(self, epoch: int, step: int) -> list[Architecture]:
        rng = self.rng(epoch, step)
        counts = [len(c.options) for c in self.space.choices]
        orders = [rng.permutation(n) for n in counts]
        return [
            self.space.from_indices([int(order[i % n]) for order, n in zip(orders, counts, strict=True)])
            for i in range(max(counts))
        ]


class SandwichProgram(SupernetProgram):
    """Sandwich rule with in-place distillation (Yu et al. 2020): largest, smallest and some random members a step.

    The largest learns from the labels, the others from the largest's soft predictions.
    """

    def members(self, epoch: int, step: int) -> list[Architecture]:
        rng = self.rng(epoch, step)
        ends = [[len(c.options) - 1 for c in self.space.choices], [0] * len(self.space.choices)]
        drawn = [self.space.sample(rng) for _ in range(self.settings.random_members)]
        return [*(self.space.from_indices(e) for e in ends), *drawn]

    def backward(self, inputs: Tensor, targets: Tensor, epoch: int, step: int) -> Tensor:
        others = self.outputs(inputs, self.members(epoch, step))
        largest = next(others)
        loss = cross_entropy(largest, targets, self._smoothing)
        loss.backward()
        soft = largest.detach().softmax(-1)
        for logits in others:
            cross_entropy(logits, soft).backward()
        return loss.detach()


_PROGRAMS = {"uniform": SupernetProgram, "fair": FairProgram, "sandwich": SandwichProgram}


def supernet_program(supernet: Supernet, seed: int, settings: SupernetSettings) -> SupernetProgram:
    """The program of `settings.strategy`."""
    if settings.strategy not in _PROGRAMS:
        raise ConfigError(f"unknown strategy {settings.strategy!r}: {did_you_mean(settings.strategy, _PROGRAMS)}")
    return _PROGRAMS[settings.strategy](supernet, seed, settings)
