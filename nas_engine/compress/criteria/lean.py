"""LEAN: keep the kernels of the strongest chains (Schoonhoven et al. 2020, arXiv 2011.06923).

A kernel matters as part of a chain of kernels from channel to channel: the chain whose product of operator norms is the
largest is taken out of the graph of channels, then the next, until enough kernels are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from search_spaces.coupling import NONE, Coupling
from search_spaces.errors import ConfigError

from .base import Criterion, Scores, register_criterion
from .lean_chains import PATIENCE, Extraction
from .lean_graph import ChannelGraph, channel_graph, prunable
from .lean_norms import GRID, node_kernels

if TYPE_CHECKING:
    from search_spaces import Network
    from search_spaces.graph import Graph


@register_criterion("lean")
class Lean(Criterion):
    """Scores kernels by the order in which chains take them; the top share of all scores is LEAN's choice.

    Biases and activations are ignored, batch norms are folded into the norms. Kernels of `nn.Linear`, and those of a
    module that is called twice, are no part of the graph.

    Args:
        grid: pixels along each axis of the image that norms are taken on; 16 in the paper's U-Nets, 128 where kernels
            are dilated.
        scale: norms are divided by the median of all ("network") or of their layer ("layer"), or left as they are, as
            published ("none"). Kernels of wide layers with batch norms have norms below 1: chains of several then have
            no value above 1, and what is left is `operator_norm`. `extraction` tells how many kernels came in chains.
        heads: whether kernels that make the network's outputs are judged.
        share: up to which share of all kernels chains are looked for; the rest follows by norm. Large networks that
            are to keep few kernels are scored faster with less.
        patience: after so many chains of one kernel in a row the rest follows by norm.
    """

    def __init__(
        self,
        grid: int = GRID,
        scale: str = "network",
        heads: bool = False,
        share: float = 1.0,
        patience: int = PATIENCE,
    ) -> None:
        if not 0 < share <= 1:
            raise ConfigError(f"share {share} of the kernels; more than 0 and at most 1 is allowed")
        self.grid, self.scale, self.heads, self.share, self.patience = grid, scale, heads, share, patience
        self.extraction: Extraction | None = None

    def finish(self) -> Scores:
        channels = channel_graph(self.gated.coupling.graph, self.gated.network, grid=self.grid, heads=self.heads)
        wanted = int(np.ceil(self.share * channels.kernels))
        self.extraction = channels.scaled(self.scale).extract(wanted, self.patience)
        kernels = ranked(channels, self.extraction.order)
        return Scores(units=best_kernels(self.gated.coupling, kernels), kernels=kernels)


def ranked(channels: ChannelGraph, order: np.ndarray) -> dict[str, np.ndarray]:
    """Scores in (0, 1], evenly spaced, from the order in which kernels were taken; those not taken follow by norm."""
    count = channels.kernels
    norms = np.concatenate([np.zeros(0), *(n.ravel() for n in channels.norms().values())])
    place = np.full(count, len(order))
    place[order] = np.arange(len(order))
    rank = np.empty(count, dtype=np.int64)
    rank[np.lexsort((-norms, place))] = np.arange(count)
    return channels.parts((count - rank) / max(count, 1))


@register_criterion("operator_norm")
class OperatorNorm(Criterion):
    """The operator norm of each kernel by itself, batch norm folded in: what LEAN is to be compared with.

    Args:
        grid, heads: as of `Lean`.
    """

    def __init__(self, grid: int = GRID, heads: bool = False) -> None:
        self.grid, self.heads = grid, heads

    def finish(self) -> Scores:
        graph = self.gated.coupling.graph
        kernels = channel_graph(graph, self.gated.network, grid=self.grid, heads=self.heads).norms()
        return Scores(units=best_kernels(self.gated.coupling, kernels), kernels=kernels)


def best_kernels(coupling: Coupling, kernels: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Scores `(units,)` of units by the best kernel that leads to one of their channels.

    With LEAN's scores units are ranked by the first chain that goes through them. None if no kernels lead to some of
    the units, as where linear layers make them.
    """
    scores = np.full(coupling.count, -np.inf)
    for name, values in kernels.items():
        axes = coupling.values.get(name, ())
        if axes and axes[0] is not None:
            made = axes[0] != NONE
            np.maximum.at(scores, axes[0][made], values.max(1)[made])
    return None if np.isneginf(scores).any() else scores


def kernel_l1(graph: Graph, network: Network, heads: bool = False) -> dict[str, np.ndarray]:
    """Sum of the magnitudes of each kernel, `(out, in / groups)` for each convolution that may be cut."""
    found = {}
    for node in prunable(graph, heads):
        kernels = np.abs(node_kernels(network, node).astype(np.float64))
        found[node.name] = kernels.reshape(*kernels.shape[:2], -1).sum(-1)
    return found


def strongest(kernels: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Masks of the `count` kernels of the highest scores over all layers, exactly so many.

    Of equal scores those of earlier layers, and earlier rows, are taken first.

    Raises:
        ConfigError: more than there are, or fewer than none.
    """
    total = sum(scores.size for scores in kernels.values())
    if not 0 <= count <= total:
        raise ConfigError(f"{count} kernels to keep; 0 to {total} are allowed")
    flat = np.concatenate([np.zeros(0), *(scores.ravel() for scores in kernels.values())])
    mask = np.zeros(total, dtype=bool)
    mask[np.argsort(-flat, kind="stable")[:count]] = True
    ends = np.cumsum([scores.size for scores in kernels.values()])[:-1]
    pieces = np.split(mask, ends) if kernels else []
    return {name: piece.reshape(kernels[name].shape) for name, piece in zip(kernels, pieces, strict=True)}
