"""A graph convolutional predictor: message passing along and against the edges, trained to rank.

All networks of the ensemble are one batched computation: their weights are stacked and each matrix product serves them
all. Beside the members proper, one network a fold is trained without that fold, for what it says of members it has not
seen.

Shapes: M networks, B graphs, N nodes, R unique nodes, F features, K totals, H hidden; P is 1 (the same graphs for all
networks) or M (graphs of their own).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.errors import ConfigError

from .base import register_predictor
from .encoding import PADDING, GraphBatch
from .ranked import Ranking, RankPredictor, RankSettings
from .reading import Members

_PREDICTED_AT_ONCE = 64  # activations of these stay in the cache
_FEWEST_STEPS = 200


@dataclass(frozen=True)
class GCNSettings(RankSettings):
    """Settings of `GCNPredictor`.

    Attributes:
        hidden: width of the graph convolutions, H.
        layers: number of graph convolutions.
        head: width of the layer after the read-out; a wide one ranks better and costs little, as it sees graphs only.
        members: networks whose mean is predicted.
        loss: `hinge` or `logistic` on score differences of pairs, or `mse`.
        margin: difference of ranking scores that the hinge asks for.
        epochs: passes over the data; at least 200 and at most `max_steps` optimiser steps are taken.
        max_steps: bounds the time of fits to thousands of architectures.
        batch: graphs a step; the loss runs over all their pairs.
        learning_rate: maximum of the one-cycle schedule (Smith and Topin 2018).
        weight_decay: of AdamW (Loshchilov and Hutter 2019), on matrices only.
    """

    hidden: int = 32
    layers: int = 3
    head: int = 256
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
        self.need_positive(
            "hidden", "layers", "head", "members", "margin", "epochs", "max_steps", "batch", "learning_rate"
        )
        if self.loss not in LOSSES:
            raise ConfigError(f"predictor 'gcn' has no loss {self.loss!r}; choose one of: {', '.join(LOSSES)}")


class Networks(nn.Module):
    """M graph networks of equal shape as one.

    Layer (both directions as in Wen et al. 2020, with a residual, LayerNorm and a self-weight):
    `h <- h + relu(A d + A' u + o)` with `[d, u, o] = LN(h) W + b`, A row-normalised over what a node reads, A' over its
    readers. The read-out is the mean of nodes beside the totals of the graph, then one hidden layer.
    """

    def __init__(
        self, networks: int, features: int, totals: int, settings: GCNSettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        hidden, head = settings.hidden, settings.head

        def weights(*shape: int, fan: float) -> nn.Parameter:
            uniform = torch.rand(networks, *shape, generator=generator) * 2 - 1
            return nn.Parameter(uniform * math.sqrt(3 / fan))

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(networks, *shape))

        self.enter, self.enter_bias = weights(features, hidden, fan=features / 3), zeros(1, hidden)
        self.depth = zeros(1, 1, hidden)
        self.mix = nn.ParameterList([weights(hidden, 3 * hidden, fan=2 * hidden) for _ in range(settings.layers)])
        self.mix_bias = nn.ParameterList([zeros(1, 3 * hidden) for _ in range(settings.layers)])
        self.head, self.head_bias = weights(hidden + totals, head, fan=(hidden + totals) / 2), zeros(1, head)
        self.out, self.out_bias = weights(head, 1, fan=head), zeros(1, 1)

    def forward(self, table: Tensor, rows: Tensor, adjacency: Tensor, depth: Tensor, totals: Tensor) -> Tensor:
        """Ranking scores `(M, B)`.

        Args:
            table: `(R, F)`, features of unique nodes.
            rows, adjacency, depth, totals: `(P, B, N)`, `(P, B, N, N)` as float, `(P, B, N)`, `(P, B, K)`.
        """
        (m, _, hidden), (b, n) = self.enter.shape, rows.shape[1:]
        reads, readers = (self._stacked(_row_normalised(a), m) for a in (adjacency, adjacency.mT))
        h = self._entered(table, rows) + depth.unsqueeze(-1) * self.depth
        for mix, bias in zip(self.mix, self.mix_bias, strict=True):
            x = F.layer_norm(h, (hidden,)).view(m, b * n, hidden)
            down, up, own = torch.baddbmm(bias, x, mix).view(m * b, n, 3 * hidden).split(hidden, dim=-1)
            h = h + torch.baddbmm(torch.baddbmm(own, reads, down), readers, up).relu_().view(m, b, n, hidden)
        x = F.layer_norm(h, (hidden,)).view(m * b, n, hidden)
        real = self._stacked(_row_normalised((rows > PADDING).to(x.dtype).unsqueeze(-2)), m)
        x = torch.cat([torch.bmm(real, x).view(m, b, hidden), totals.expand(m, -1, -1)], dim=-1)
        x = torch.baddbmm(self.head_bias, x, self.head).relu_()
        return torch.baddbmm(self.out_bias, x, self.out).squeeze(-1)

    def _entered(self, table: Tensor, rows: Tensor) -> Tensor:
        """The first layer: applied to unique nodes, then gathered; `(M, B, N, H)`."""
        (m, _, hidden), (p, b, n) = self.enter.shape, rows.shape
        unique = torch.baddbmm(self.enter_bias, table.expand(m, -1, -1), self.enter)
        if p == 1:
            return unique.index_select(1, rows.flatten()).view(m, b, n, hidden)
        index = rows + torch.arange(m).view(-1, 1, 1) * len(table)
        return unique.flatten(0, 1).index_select(0, index.flatten()).view(m, b, n, hidden)

    @staticmethod
    def _stacked(matrices: Tensor, networks: int) -> Tensor:
        """`(P, B, *, N)` as `(M * B, *, N)`."""
        return matrices.expand(networks, -1, -1, -1).flatten(0, 1)


def _row_normalised(matrix: Tensor) -> Tensor:
    return matrix / matrix.sum(-1, keepdim=True).clamp_(min=1)


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


@register_predictor("gcn")
class GCNPredictor(RankPredictor):
    """Graph convolutional network ensemble, trained on pairs.

    Beside the members, which see everything, one network a fold is trained without it; the members' disagreement is
    the ranking's uncertainty. Further inputs enter beside the totals of the graph.
    """

    Settings = GCNSettings
    settings: GCNSettings
    _networks: Networks

    # ---- learning ----------------------------------------------------------------------------------------

    def learn(self, seen: Members, target: np.ndarray, folds: np.ndarray) -> np.ndarray:
        data, members = _with_extra(seen), self.settings.members
        networks = self._train(data, target, folds, torch.Generator().manual_seed(self.settings.seed))
        ranking = self._standardise(networks, data)
        self._networks = _first(networks, members)
        if (folds < 0).any():
            return ranking[:members].mean(0)
        return ranking[members + folds, np.arange(len(folds))]

    def _train(self, data: GraphBatch, target: np.ndarray, folds: np.ndarray, generator: torch.Generator) -> Networks:
        """Members see everything; network `members + f` everything but fold f."""
        s = self.settings
        pools = [np.arange(len(data))] * s.members + [np.flatnonzero(folds != f) for f in range(folds.max() + 1)]
        table, graphs = torch.from_numpy(self.reader.encoder.table), _tensors(data)
        networks = Networks(len(pools), table.shape[1], data.totals.shape[1], s, generator)
        used = table[graphs[0].flatten()].any(0)
        with torch.no_grad():
            networks.enter[:, ~used] = 0  # what training never shows must not speak later
        steps = max(_FEWEST_STEPS, s.epochs * math.ceil(len(data) / s.batch))
        steps = min(steps, s.max_steps)
        optimizer, schedule = _optimizer(networks, s, steps)
        goal = torch.from_numpy(target).float()
        for which in islice(batches(pools, s.batch, generator), steps):
            predicted = networks(table, *(part[which] for part in graphs))
            loss = LOSSES[s.loss](predicted, goal[which], s.margin)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(networks.parameters(), 2 * math.sqrt(len(pools)))
            optimizer.step()
            schedule.step()
        return networks.eval()

    def _standardise(self, networks: Networks, data: GraphBatch) -> np.ndarray:
        """Give each network mean 0 and deviation 1 over the data, by its last layer; returns what it says, `(M, n)`."""
        ranking = self._rank(networks, data)
        mean, deviation = ranking.mean(1), ranking.std(1) + 1e-6
        with torch.no_grad():
            shift, scale = (torch.from_numpy(v).float().view(-1, 1, 1) for v in (mean, deviation))
            networks.out.div_(scale)
            networks.out_bias.sub_(shift).div_(scale)
        return (ranking - mean[:, None]) / deviation[:, None]

    # ---- predicting --------------------------------------------------------------------------------------

    def rank(self, members: Members) -> Ranking:
        ranking = self._rank(self._networks, _with_extra(members))
        return ranking.mean(0), ranking.std(0)

    @torch.inference_mode()
    def _rank(self, networks: Networks, data: GraphBatch) -> np.ndarray:
        """Ranking scores float64 `(M, B)`; graphs of like size go together, so that little is padded."""
        table = torch.from_numpy(self.reader.encoder.table)
        order = np.argsort(data.sizes, kind="stable")
        parts = []
        for start in range(0, len(order), _PREDICTED_AT_ONCE):
            graphs = _tensors(data.select(order[start : start + _PREDICTED_AT_ONCE]))
            parts.append(networks(table, *(part.unsqueeze(0) for part in graphs)).numpy())
        ranking = np.empty((len(networks.enter), len(order)))
        ranking[:, order] = np.concatenate(parts, axis=1)
        return ranking

    # ---- keeping -----------------------------------------------------------------------------------------

    def learned(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {k: v.numpy() for k, v in self._networks.state_dict().items()}, {}

    def recall(self, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        members, features, _ = tensors["enter"].shape
        totals = tensors["head"].shape[1] - self.settings.hidden
        networks = Networks(members, features, totals, self.settings, torch.Generator().manual_seed(0))
        weights = {k: torch.from_numpy(v.copy()) for k, v in tensors.items()}
        try:
            networks.load_state_dict(weights)
        except RuntimeError as e:
            raise ValueError(str(e)) from None
        self._networks = networks.eval()


def _with_extra(members: Members) -> GraphBatch:
    """The graphs, with further inputs among their totals."""
    graphs = members.graphs
    totals = np.concatenate([graphs.totals, members.extra.astype(np.float32)], axis=1)
    return replace(graphs, totals=totals)


def _tensors(data: GraphBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows, adjacency (float), depth and totals of a batch."""
    return (
        torch.from_numpy(data.rows),
        torch.from_numpy(data.adjacency).float(),
        torch.from_numpy(data.depth),
        torch.from_numpy(data.totals),
    )


def _first(networks: Networks, count: int) -> Networks:
    """The first networks of a stack."""
    for parameter in networks.parameters():
        parameter.data = parameter.data[:count].clone()
        parameter.grad = None
        parameter.requires_grad_(False)
    return networks


def _optimizer(
    networks: Networks, settings: GCNSettings, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with decay on matrices only, under a one-cycle schedule."""
    matrices = [networks.enter, *networks.mix, networks.head, networks.out]
    others = [networks.enter_bias, networks.depth, *networks.mix_bias, networks.head_bias, networks.out_bias]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps, pct_start=0.1)
    return optimizer, schedule


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
