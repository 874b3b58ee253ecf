"""Training of stacked networks to rank, shared by the predictors that are networks.

All networks of an ensemble are one batched computation: weights are stacked, each product serves them all. Beside the
members proper, which see everything, one network a fold is trained without that fold, for what it says of members it
has not seen.

Shapes: M networks, B members of the space.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.errors import ConfigError

from .ranked import Ranking, RankPredictor, RankSettings
from .reading import Members

_FEWEST_STEPS = 200
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class TrainingSettings(RankSettings):
    """Settings of predictors that are networks.

    Attributes:
        members: networks whose mean is predicted.
        loss: `hinge` or `logistic` on score differences of pairs, or `mse`.
        margin: difference of ranking scores that the hinge asks for.
        epochs: passes over the data; at least 200 and at most `max_steps` optimiser steps are taken.
        max_steps: bounds the time of fits to thousands of architectures.
        batch: architectures a step; the loss runs over all their pairs.
        learning_rate: maximum of the one-cycle schedule (Smith and Topin 2018).
        weight_decay: of AdamW (Loshchilov and Hutter 2019), on matrices only.
    """

    members: int = 5
    loss: Literal["hinge", "logistic", "mse"] = "hinge"
    margin: float = 0.1
    epochs: int = 100
    max_steps: int = 1200
    batch: int = 64
    learning_rate: float = 1e-2
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_positive("members", "margin", "epochs", "max_steps", "batch", "learning_rate")
        if self.loss not in LOSSES:
            raise ConfigError(f"a predictor has no loss {self.loss!r}; choose one of: {', '.join(LOSSES)}")


class StackPredictor(RankPredictor, Generic[N]):
    """A stack of networks trained to rank; what its members disagree about is the ranking's uncertainty.

    A subclass implements `inputs`, `stack`, `forward`, `outputs` and `keep`, and names the last layer and the biases.

    Attributes:
        kept: the members of the ensemble, once fitted.
    """

    settings: TrainingSettings
    kept: N

    @abstractmethod
    def inputs(self, members: Members) -> Any:
        """What the networks read of members."""

    def lessons(self, seen: Members) -> Any:
        """What training reads of members, which `outputs` reads as well; by default what `inputs` gives."""
        return self.inputs(seen)

    @abstractmethod
    def stack(self, count: int, data: Any, generator: torch.Generator) -> N:
        """`count` fresh networks for the data they will learn from."""

    @abstractmethod
    def forward(self, networks: N, data: Any, which: Tensor, generator: torch.Generator) -> Tensor:
        """Ranking scores `(M, b)` in training, where network m reads the members `which[m]`; `which` is `(M, b)`."""

    def loss(self, networks: N, data: Any, which: Tensor, goal: Tensor, generator: torch.Generator) -> Tensor:
        """What a step of training reduces, summed over the networks; `goal` are the transformed scores `(n,)`."""
        s = self.settings
        return LOSSES[s.loss](self.forward(networks, data, which, generator), goal[which], s.margin)

    @abstractmethod
    def outputs(self, networks: N, data: Any) -> np.ndarray:
        """Ranking scores of all members, float64 `(M, B)`."""

    @abstractmethod
    def last_layer(self, networks: N) -> tuple[nn.Parameter, nn.Parameter]:
        """Weights and biases `(M, ?, 1)` that make the ranking scores."""

    @abstractmethod
    def biases(self, networks: N) -> Sequence[nn.Parameter]:
        """Parameters that do not decay."""

    @abstractmethod
    def keep(self, networks: N) -> None:
        """Keep the first `settings.members` of the stack, for `rank`."""

    def learn(self, seen: Members, target: np.ndarray, folds: np.ndarray) -> np.ndarray:
        data, members = self.lessons(seen), self.settings.members
        generator = torch.Generator().manual_seed(self.settings.seed)
        pools = [np.arange(len(seen))] * members + [np.flatnonzero(folds != f) for f in range(folds.max() + 1)]
        networks = self.stack(len(pools), data, generator)
        self._train(networks, data, torch.from_numpy(target).float(), pools, generator)
        ranking = self._standardise(networks, data)
        self.keep(networks)
        if (folds < 0).any():
            return ranking[:members].mean(0)
        return ranking[members + folds, np.arange(len(folds))]

    def rank(self, members: Members) -> Ranking:
        ranking = self.outputs(self.kept, self.inputs(members))
        return ranking.mean(0), ranking.std(0)

    def _train(
        self, networks: N, data: Any, goal: Tensor, pools: Sequence[np.ndarray], generator: torch.Generator
    ) -> None:
        """Train network m on the members in `pools[m]`."""
        s = self.settings
        steps = min(max(_FEWEST_STEPS, s.epochs * math.ceil(len(goal) / s.batch)), s.max_steps)
        optimizer, schedule = self._optimizer(networks, steps)
        for which in islice(batches(pools, s.batch, generator), steps):
            loss = self.loss(networks, data, which, goal, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(networks.parameters(), 2 * math.sqrt(len(pools)))
            optimizer.step()
            schedule.step()
        networks.eval()

    def _optimizer(self, networks: N, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """AdamW with decay on matrices only, under a one-cycle schedule."""
        biases, s = self.biases(networks), self.settings
        matrices = [p for p in networks.parameters() if all(p is not b for b in biases)]
        groups = [{"params": matrices, "weight_decay": s.weight_decay}, {"params": list(biases), "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=s.learning_rate)
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(
            optimizer, s.learning_rate, total_steps=steps, pct_start=0.1
        )

    def _standardise(self, networks: N, data: Any) -> np.ndarray:
        """Give each network mean 0 and deviation 1 over the data, by its last layer; returns what it says, `(M, n)`."""
        ranking = self.outputs(networks, data)
        mean, deviation = ranking.mean(1), ranking.std(1) + 1e-6
        shift, scale = (torch.from_numpy(v).float().view(-1, 1, 1) for v in (mean, deviation))
        weights, bias = self.last_layer(networks)
        with torch.no_grad():
            weights.div_(scale)
            bias.sub_(shift).div_(scale)
        return (ranking - mean[:, None]) / deviation[:, None]


# ---- losses: predicted and target `(M, B)`, target transformed; one number a network, summed -------------------


def _ranking(penalty: Callable[[Tensor], Tensor], predicted: Tensor, target: Tensor) -> Tensor:
    """Penalty of the difference of every pair, weighted by how far the targets lie apart, at most 1."""
    weight = (target.unsqueeze(-1) - target.unsqueeze(-2)).clamp(0, 1)
    losses = weight * penalty(predicted.unsqueeze(-1) - predicted.unsqueeze(-2))
    return (losses.sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-6)).sum()


def _hinge(predicted: Tensor, target: Tensor, margin: float) -> Tensor:
    return _ranking(lambda difference: F.relu(margin - difference), predicted, target)


def _logistic(predicted: Tensor, target: Tensor, margin: float) -> Tensor:
    return _ranking(lambda difference: F.softplus(-difference), predicted, target)


def _mse(predicted: Tensor, target: Tensor, margin: float) -> Tensor:
    return (predicted - target).square().mean(1).sum()


LOSSES = {"hinge": _hinge, "logistic": _logistic, "mse": _mse}


def batches(pools: Sequence[np.ndarray], size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches `(M, b)` of positions; each network walks its own pool in its own order, short ones again."""
    tensors = [torch.from_numpy(pool) for pool in pools]
    length = max(map(len, pools))
    size = min(size, length)

    def walk(pool: Tensor) -> Tensor:
        rounds = math.ceil(length / len(pool))
        return torch.cat([pool[torch.randperm(len(pool), generator=generator)] for _ in range(rounds)])[:length]

    while True:
        orders = torch.stack([walk(pool) for pool in tensors])
        for start in range(0, length - size + 1, size):
            yield orders[:, start : start + size]
