"""How good a criterion is: whether it ranks units as true ablation does, and what its order of removal costs.

The two are different tests: good correlation with the oracle does not imply the best curve, as units are ablated one by
one and removed together.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from search_spaces.errors import ConfigError

from .losses import hits, losses

if TYPE_CHECKING:
    from search_spaces.coupling import Coupling, Gated

Batches = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Correlation:
    """Correlations of two scores of `count` units; not a number where one of the two is constant."""

    pearson: float
    spearman: float
    kendall: float
    count: int


@dataclass(frozen=True)
class Agreement:
    """Correlations of scores with the oracle's: over all units, and within each group by its name."""

    overall: Correlation
    groups: dict[str, Correlation]

    @property
    def within(self) -> Correlation:
        """The mean over the groups in which there is a correlation; not a number if there is none."""
        held = [c for c in self.groups.values() if not np.isnan([c.pearson, c.spearman, c.kendall]).any()]
        if not held:
            return Correlation(float("nan"), float("nan"), float("nan"), 0)
        pearson, spearman, kendall = np.mean([(c.pearson, c.spearman, c.kendall) for c in held], axis=0).tolist()
        return Correlation(pearson, spearman, kendall, sum(c.count for c in held))


def correlate(scores: np.ndarray, truth: np.ndarray) -> Correlation:
    """Pearson's, Spearman's and Kendall's (tau-b) correlation of two vectors `(n,)`.

    >>> correlate(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0])).spearman
    1.0
    """
    from scipy.stats import kendalltau, pearsonr, spearmanr

    nan = float("nan")
    if len(scores) < 2 or np.ptp(scores) == 0 or np.ptp(truth) == 0:
        return Correlation(nan, nan, nan, len(scores))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nearly constant input: the number is what it is
        found = [float(f(scores, truth).statistic) for f in (pearsonr, spearmanr, kendalltau)]
    return Correlation(found[0], found[1], found[2], len(scores))


def agree(scores: np.ndarray, truth: np.ndarray, coupling: Coupling, units: np.ndarray | None = None) -> Agreement:
    """How scores `(units,)` agree with the oracle's `(units,)`.

    Args:
        units: look at these units only, where the oracle was not asked for all; `truth` of the others is not read.
    """
    chosen = np.arange(coupling.count) if units is None else np.asarray(units)
    groups = {}
    for group in coupling.groups:
        some = np.intersect1d(group.units, chosen)
        if len(some) > 1:
            groups[group.name] = correlate(scores[some], truth[some])
    return Agreement(correlate(scores[chosen], truth[chosen]), groups)


@dataclass(frozen=True, eq=False)
class Curve:
    """Loss and accuracy while units are removed in increasing order of their scores.

    Shapes:
        removed, loss, accuracy: (points,); `removed` is the share of the units that is gone, from 0 to 1.
    """

    removed: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray

    @property
    def area(self) -> float:
        """The area under the accuracy, the mean accuracy on the way from all units to none; higher is better."""
        return float(np.trapezoid(self.accuracy, self.removed))

    @property
    def loss_area(self) -> float:
        """The area under the loss up to half of the units, as a mean; lower is better.

        Behind that networks without training are mostly lost, and the size of the loss says nothing.
        """
        half = np.append(self.removed[self.removed < 0.5], 0.5)
        return float(np.trapezoid(np.interp(half, self.removed, self.loss), half) / 0.5)


def removal_order(scores: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
    """Units (all, or these) in the order they are removed: lowest score first, ties in the order of the units."""
    chosen = np.arange(len(scores)) if units is None else np.sort(units)
    return np.asarray(chosen[np.argsort(scores[chosen], kind="stable")])


def ablation(
    gated: Gated, scores: np.ndarray, batches: Batches, *, group: int | None = None, points: int = 11
) -> Curve:
    """The curve of removing units, of all groups together or of one, by their scores `(units,)`.

    Nothing is trained in between. Whether batches are of training or held-out images is the caller's choice.

    Args:
        batches: images and classes, walked through once.
        group: position in `coupling.groups`; None for all units.
        points: how many shares to look at, from none to all, evenly spaced.

    Raises:
        ConfigError: fewer than two points, or no batches.
    """
    if points < 2:
        raise ConfigError(f"a curve needs two points or more, not {points}")
    if not batches:
        raise ConfigError("an ablation curve needs images and got none; give batches")
    units = None if group is None else gated.coupling.groups[group].units
    order = removal_order(scores, units)
    counts = np.unique(np.rint(np.linspace(0, len(order), points)).astype(int))
    masks = np.ones((len(counts), gated.coupling.count), dtype=np.float32)
    for row, n in zip(masks, counts.tolist(), strict=True):
        row[order[:n]] = 0
    loss, right, seen = np.zeros(len(counts)), np.zeros(len(counts)), 0
    for inputs, targets in batches:
        found = _judge(gated, inputs, targets, torch.from_numpy(masks).to(inputs.device), group)
        loss += found[0]
        right += found[1]
        seen += len(inputs)
    return Curve(counts / len(order), loss / seen, right / seen)


def layerwise(gated: Gated, scores: np.ndarray, batches: Batches, points: int = 11) -> dict[str, Curve]:
    """The curve of each group alone, by the name of the group."""
    groups = enumerate(gated.coupling.groups)
    return {g.name: ablation(gated, scores, batches, group=i, points=points) for i, g in groups}


@torch.no_grad()
def _judge(
    gated: Gated, inputs: Tensor, targets: Tensor, masks: Tensor, group: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over a batch of loss and hits under each mask `(points, units)`."""
    run = None if group is None else gated.tail(inputs, group)
    loss, right = [], []
    for mask in masks:
        logits = gated(inputs, mask) if run is None else run(mask)
        loss.append(float(losses(logits, targets).double().sum()))
        right.append(float(hits(logits, targets).double().sum()))
    return np.array(loss), np.array(right)
