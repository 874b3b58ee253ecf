"""A few units every few batches, by scores that gather on the training batches themselves (Molchanov et al. 2019)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..criteria.base import Criterion, Scores
from .base import Plan, Schedule, at_least, register_schedule


@register_schedule("iterative")
class Iterative(Schedule):
    """Remove `units` of the network every `every` batches until the target is met.

    Between two removals a criterion observes every training batch, in evaluation mode and before its gradients are
    taken; its scores I' then move the average `I <- ema * I + (1 - ema) * I'`. The first scores say how many units go
    in all, and so how many removals there are, each the same share of the way. Batches are counted afresh each epoch:
    those after the last removal of an epoch are not used, and no accumulator has to survive a kill.

    Args:
        every: batches from one removal to the next; of an epoch shorter than that, no batch is used.
        units: how many go at a time, on average; the paper advises at most 2 % of all. None for as few as it takes to
            be done after two thirds of the training, or 2 % of all where its length is not known.
        ema: the weight of the past, 0.9 in the paper.
    """

    def __init__(self, every: int = 30, units: int | None = None, ema: float = 0.9) -> None:
        at_least("every", every, 1)
        at_least("units", 1 if units is None else units, 1)
        at_least("ema", ema, 0)
        at_least("1 - ema", 1 - ema, 1e-6)
        self._every, self._units, self._ema = every, units, ema
        self._criterion: Criterion | None = None
        self._average: np.ndarray | None = None
        self._removals = 0
        self._kept: list[int] = []

    def begin(self, plan: Plan) -> None:
        super().begin(plan)
        self._criterion, self._average, self._removals, self._kept = None, None, 0, []

    @property
    def finished(self) -> bool:
        return 0 < self._removals == len(self._kept)

    def observe(self, inputs: Tensor, targets: Tensor, epoch: int, step: int) -> None:
        if self.finished:
            return
        masked = self.plan.masked
        training = masked.training
        masked.eval()
        if self._criterion is None or step % self._every == 0:
            self._criterion = self.plan.criterion()
            self._criterion.begin(self.plan.masked.gated())
        if self._criterion.uses_data:
            self._criterion.observe(inputs, targets)
            masked.zero_grad(set_to_none=True)  # a criterion may have left gradients
        masked.train(training)

    def after_step(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
        if self._criterion is not None and (step + 1) % self._every == 0:
            masked = self.plan.masked
            training = masked.training
            masked.eval()
            self._remove(self._criterion.finish())
            masked.train(training)
            self._criterion = None

    def complete(self) -> None:
        if not self.finished:
            scores = self._averaged(self.plan.scores())
            self._kept.append(self.plan.prune(scores, 1.0))
            self._removals = len(self._kept)

    def _remove(self, scores: Scores) -> None:
        scores = self._averaged(scores)
        if not self._removals:
            gone = int((~self.plan.choose(scores, 1.0)).sum())
            self._removals = self._pace(gone)
        self._kept.append(self.plan.prune(scores, (len(self._kept) + 1) / self._removals))

    def _pace(self, gone: int) -> int:
        """How many removals take away so many units."""
        room = self.plan.epochs * (self.plan.batches // self._every) * 2 // 3
        if self._units is None and room:
            return max(1, min(room, gone))
        return max(1, math.ceil(gone / (self._units or math.ceil(0.02 * self.plan.masked.coupling.count))))

    def _averaged(self, scores: Scores) -> Scores:
        if scores.units is None:
            return scores
        old = scores.units if self._average is None else self._average
        self._average = self._ema * old + (1 - self._ema) * scores.units
        return replace(scores, units=self._average)

    def report(self) -> dict[str, Any]:
        settings = {"every": self._every, "removals": self._removals, "ema": self._ema}
        return {**super().report(), **settings, "units": list(self._kept)}

    def state_dict(self) -> dict[str, Any]:
        average = None if self._average is None else torch.from_numpy(self._average)
        return {"average": average, "removals": self._removals, "kept": list(self._kept)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._average = None if state["average"] is None else state["average"].numpy()
        self._removals, self._kept = state["removals"], list(state["kept"])
