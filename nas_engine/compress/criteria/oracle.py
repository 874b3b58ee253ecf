"""What the other criteria estimate: each unit is taken out and the change of the loss is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from search_spaces.errors import ConfigError, did_you_mean

from .base import Criterion, Scores, register_criterion
from .gates import ones
from .losses import losses

if TYPE_CHECKING:
    from search_spaces.coupling import Gated

OVER = ("set", "batch", "example")


@register_criterion("oracle")
class Oracle(Criterion):
    """The change of the loss when a unit, or a removable block, is taken out alone: `|E - E without it| ^ power`.

    Args:
        over: what E is the mean loss of: the calibration "set", as in the definition, where changes of single images
            cancel; each mini-"batch", or each "example", as estimates by gradients have it. Powers are averaged.
        power: 2 as in the definition of importance, or 1.
        rows: images that are run at once at most: copies of a batch, each with one unit less, are stacked.

    Raises:
        ConfigError: settings that are not known.
    """

    needs = frozenset({"ablation", "labels"})
    additive = True

    def __init__(self, over: str = "set", power: int = 2, rows: int = 512) -> None:
        if over not in OVER:
            raise ConfigError(f"unknown 'over' of the oracle {over!r}: {did_you_mean(over, OVER)}")
        if power not in (1, 2):
            raise ConfigError(f"the oracle takes power 1 or 2, not {power!r}: 2 is that of the definition")
        if rows < 1:
            raise ConfigError(f"rows must be 1 or more, but is {rows}: a few hundred suit most machines")
        self.over, self.power, self.rows = over, power, rows

    def begin(self, gated: Gated) -> None:
        super().begin(gated)
        self._changes: list[np.ndarray] = []

    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        units = np.arange(self.gated.coupling.count)
        found = unit_changes(self.gated, inputs, targets, units, self.rows)
        self._changes.append(np.concatenate([found, block_changes(self.gated, inputs, targets)], axis=1))

    def finish(self) -> Scores:
        scores = importance(self._changes, self.over, self.power)
        units, blocks = np.split(scores, [self.gated.coupling.count])
        return Scores(units=units, blocks=blocks)


def importance(changes: Sequence[np.ndarray], over: str = "set", power: int = 2) -> np.ndarray:
    """(n,) importance by the changes of the loss of each image, `(B, n)` for each batch; see `Oracle`."""
    if over == "batch":
        means = np.stack([batch.mean(0) for batch in changes])
    else:
        means = np.concatenate(changes)
        means = means.mean(0, keepdims=True) if over == "set" else means
    return np.asarray((np.abs(means) ** power).mean(0))


@torch.no_grad()
def unit_changes(gated: Gated, inputs: Tensor, targets: Tensor, units: np.ndarray, rows: int = 512) -> np.ndarray:
    """(B, n) by how much the loss of each image rises when each of these units is taken out alone.

    Only what lies behind the first reader of a unit's group is run again, `rows` images at a time.
    """
    whole = losses(gated(inputs), targets).double()
    copies = max(1, rows // len(inputs))
    changes = np.zeros((len(inputs), len(units)))
    group_of = gated.coupling.group_of[units]
    for group in np.unique(group_of).tolist():
        run = gated.tail(inputs, group)
        places = np.flatnonzero(group_of == group)
        for start in range(0, len(places), copies):
            some = places[start : start + copies]
            gates = ones(gated, inputs, len(some), len(inputs), gated.coupling.count)
            gates[torch.arange(len(some)), :, torch.from_numpy(units[some])] = 0
            repeated = targets.repeat(len(some), *(1,) * (targets.dim() - 1))
            each = losses(run(gates.flatten(0, 1)), repeated).double().unflatten(0, (len(some), -1))
            changes[:, some] = (each - whole).T.cpu().numpy()
    return changes


@torch.no_grad()
def block_changes(gated: Gated, inputs: Tensor, targets: Tensor) -> np.ndarray:
    """(B, blocks) by how much the loss of each image rises when each removable block is left out."""
    whole = losses(gated(inputs), targets).double()
    changes = np.zeros((len(inputs), len(gated.coupling.blocks)))
    for i in range(changes.shape[1]):
        mask = ones(gated, inputs, changes.shape[1])
        mask[i] = 0
        changes[:, i] = (losses(gated(inputs, blocks=mask), targets).double() - whole).cpu().numpy()
    return changes
