"""A graph convolutional predictor: message passing along and against the edges, trained to rank.

All networks of the ensemble are one batched computation: their weights are stacked and each matrix product serves them
all. Beside the members proper, one network a fold is trained without that fold; what these say of members they have
not seen turns ranking scores into the unit of the scores and sets the uncertainty.

Shapes: M networks, B graphs, N nodes, R unique nodes, F features, K totals, H hidden; P is 1 (the same graphs for all
networks) or M (graphs of their own).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.errors import ConfigError
from search_spaces.graph import Graph

from .base import Predictor, Seeded, register_predictor
from .calibration import Calibration
from .encoding import PADDING, Encoder, GraphBatch
from .ranking import trust

if TYPE_CHECKING:
    from search_spaces.space import Architecture

_ENCODED_AT_ONCE = 4096
_PREDICTED_AT_ONCE = 64  # activations of these stay in the cache
_PROBES = 256
_FEWEST_STEPS = 200


@dataclass(frozen=True)
class GCNSettings(Seeded):
    """Settings of `GCNPredictor`.

    Attributes:
        hidden: width of the graph convolutions, H.
        layers: number of graph convolutions.
        head: width of the layer after the read-out; a wide one ranks better and costs little, as it sees graphs only.
        members: networks whose mean is predicted.
        folds: networks trained without one fold each, for calibration.
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
    folds: int = 5
    loss: Literal["hinge", "logistic", "mse"] = "hinge"
    margin: float = 0.1
    epochs: int = 100
    max_steps: int = 1200
    batch: int = 64
    learning_rate: float = 1e-2
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "head", "members", "epochs", "max_steps", "batch", "learning_rate", "margin"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"predictor 'gcn' needs {name} > 0; got {getattr(self, name)!r}")
        if self.folds < 2:
            raise ConfigError(
                f"predictor 'gcn' needs 2 folds or more, so that there are held-out members; got {self.folds}"
            )
        if self.loss not in _LOSSES:
            raise ConfigError(f"predictor 'gcn' has no loss {self.loss!r}; choose one of: {', '.join(_LOSSES)}")


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


# ---- losses: predicted and target `(M, B)`, target in normal scores; one number a network, summed -------------------


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


_LOSSES = {"hinge": _hinge, "logistic": _logistic, "mse": _mse}


@register_predictor("gcn")
class GCNPredictor(Predictor):
    """Graph convolutional network ensemble, trained on pairs, calibrated on held-out folds.

    Scores are learned as normal scores of their ranks, so neither their unit nor failed networks at chance matter.
    The standard deviation joins what members disagree about with the error on held-out folds; on average over the
    space it is that error.
    """

    Settings = GCNSettings
    settings: GCNSettings
    _encoder: Encoder
    _networks: Networks
    _calibration: Calibration
    _noise: float

    # ---- learning ----------------------------------------------------------------------------------------

    def _fit(self, architectures: Sequence[Architecture], scores: np.ndarray, groups: np.ndarray) -> None:
        generator = torch.Generator().manual_seed(self.settings.seed)
        self._encoder = Encoder(self.space)
        data = self._encoder.encode(self.space.sketch(a) for a in architectures)
        rng = np.random.default_rng(self.settings.seed)
        folds = _folds(groups, self.settings.folds, rng)
        networks = self._train(data, _normal_scores(scores), folds, generator)
        ranking = self._standardise(networks, data)
        held_out = folds >= 0
        if held_out.any():
            unseen = ranking[self.settings.members + folds, np.arange(len(folds))]
            self.held_out = trust(scores, unseen, rng=rng)
        else:
            unseen, self.held_out = ranking[: self.settings.members].mean(0), None
        self._calibration = Calibration.fit(unseen, scores)
        self._networks = _first(networks, self.settings.members)
        self._noise = self._unexplained(rng)

    def _train(self, data: GraphBatch, target: np.ndarray, folds: np.ndarray, generator: torch.Generator) -> Networks:
        """Members see everything; network `members + f` everything but fold f."""
        s = self.settings
        pools = [np.arange(len(data))] * s.members + [np.flatnonzero(folds != f) for f in range(folds.max() + 1)]
        table, graphs = torch.from_numpy(self._encoder.table), _tensors(data)
        networks = Networks(len(pools), table.shape[1], data.totals.shape[1], s, generator)
        used = table[graphs[0].flatten()].any(0)
        with torch.no_grad():
            networks.enter[:, ~used] = 0  # what training never shows must not speak later
        steps = max(_FEWEST_STEPS, s.epochs * math.ceil(len(data) / s.batch))
        steps = min(steps, s.max_steps)
        optimizer, schedule = _optimizer(networks, s, steps)
        goal = torch.from_numpy(target).float()
        for which in islice(_batches(pools, s.batch, generator), steps):
            predicted = networks(table, *(part[which] for part in graphs))
            loss = _LOSSES[s.loss](predicted, goal[which], s.margin)
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

    def _unexplained(self, rng: np.random.Generator) -> float:
        """Share of the held-out error's variance that members of the space do not already disagree by, at least 1/4."""
        probes = [self.space.sample(rng) for _ in range(_PROBES)]
        ranking = self._rank(self._networks, self._encoder.encode(map(self.space.sketch, probes)))
        disagreement = self._calibration(ranking).var(0)
        return max(0.25, 1 - float(np.mean(disagreement / self._calibration.error(ranking.mean(0)) ** 2)))

    # ---- predicting --------------------------------------------------------------------------------------

    def _predict(
        self, architectures: Sequence[Architecture], sketches: Sequence[Graph] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        graphs = iter(sketches) if sketches is not None else map(self.space.sketch, architectures)
        ranking = np.concatenate([self._rank(self._networks, data) for data in self._encoded(graphs)], axis=1)
        centre = ranking.mean(0)
        disagreement = self._calibration(ranking).var(0)
        return self._calibration(centre), np.sqrt(disagreement + self._noise * self._calibration.error(centre) ** 2)

    def _encoded(self, graphs: Iterator[Graph]) -> Iterator[GraphBatch]:
        while chunk := list(islice(graphs, _ENCODED_AT_ONCE)):
            yield self._encoder.encode(chunk)

    @torch.inference_mode()
    def _rank(self, networks: Networks, data: GraphBatch) -> np.ndarray:
        """Ranking scores float64 `(M, B)`; graphs of like size go together, so that little is padded."""
        table = torch.from_numpy(self._encoder.table)
        order = np.argsort(data.sizes, kind="stable")
        parts = []
        for start in range(0, len(order), _PREDICTED_AT_ONCE):
            graphs = _tensors(data.select(order[start : start + _PREDICTED_AT_ONCE]))
            parts.append(networks(table, *(part.unsqueeze(0) for part in graphs)).numpy())
        ranking = np.empty((len(networks.enter), len(order)))
        ranking[:, order] = np.concatenate(parts, axis=1)
        return ranking

    # ---- keeping -----------------------------------------------------------------------------------------

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        tensors = {k: v.numpy() for k, v in self._networks.state_dict().items()}
        facts = {"vocabulary": self._encoder.vocabulary, "noise": self._noise}
        return {**tensors, **self._calibration.state()}, facts

    def _restore(self, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        self._encoder = Encoder(self.space, facts["vocabulary"])
        self._calibration = Calibration.restore(tensors)
        self._noise = float(facts["noise"])
        members, features, _ = tensors["enter"].shape
        totals = tensors["head"].shape[1] - self.settings.hidden
        networks = Networks(members, features, totals, self.settings, torch.Generator().manual_seed(0))
        weights = {k: torch.from_numpy(v.copy()) for k, v in tensors.items() if not k.startswith("calibration.")}
        try:
            networks.load_state_dict(weights)
        except RuntimeError as e:
            raise ValueError(str(e)) from None
        self._networks = networks.eval()


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


def _batches(pools: Sequence[np.ndarray], size: int, generator: torch.Generator) -> Iterator[Tensor]:
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


def _folds(groups: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """A fold number each, int64 `(n,)`; groups stay whole and folds about equal. -1 where there is one group only."""
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) < 2:
        return np.full(len(groups), -1)
    filled = np.zeros(min(count, len(names)), dtype=np.int64)
    fold_of = np.zeros(len(names), dtype=np.int64)
    shuffled = rng.permutation(len(names))
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    return fold_of[np.searchsorted(names, groups)]


def _normal_scores(scores: np.ndarray) -> np.ndarray:
    """Normal quantiles of the ranks (van der Waerden 1952), which no outlier can bend; ties share their mean rank."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    return ndtri(rankdata(scores) / (len(scores) + 1))
