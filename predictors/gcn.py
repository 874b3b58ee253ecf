"""A graph convolutional predictor: message passing along and against the edges, trained to rank.

All networks of the ensemble are one batched computation: their weights are stacked and each matrix product serves them
all. Beside the members proper, one network a fold is trained without that fold, for what it says of members it has not
seen. Graph convolutions may be joined reversibly: training then keeps the nodes' features once, not once a layer.

Shapes: M networks, B graphs, N nodes, R unique nodes, F features, K totals, H hidden, C groups; P is 1 (the same graphs
for all networks) or M (graphs of their own).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.errors import ConfigError, did_you_mean
from search_spaces.reversible import Layers, Piece, reversible

from .base import register_predictor
from .encoding import PADDING, GraphBatch
from .reading import Members
from .training import StackPredictor, TrainingSettings

_PREDICTED_AT_ONCE = 64  # activations of these stay in the cache
_TRUNKS = ("plain", "reversible")
_GROUPS = 2


@dataclass(frozen=True)
class GCNSettings(TrainingSettings):
    """Settings of `GCNPredictor`, beside those of `TrainingSettings`.

    Attributes:
        hidden: width of the graph convolutions, H.
        layers: number of graph convolutions, or of reversible layers, of C convolutions of width H / C each.
        head: width of the layer after the read-out; a wide one ranks better and costs little, as it sees graphs only.
        trunk: how convolutions are joined: `plain` adds each to what it reads; `reversible` couples groups of features
            (Li et al. 2021), so that what is kept for the gradient does not grow with layers; a step takes 1.5 to 2
            times as long.
        groups: C, into which a reversible trunk cuts the features.
    """

    hidden: int = 32
    layers: int = 3
    head: int = 256
    trunk: Literal["plain", "reversible"] = "plain"
    groups: int = _GROUPS

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_positive("hidden", "layers", "head")
        if self.trunk not in _TRUNKS:
            raise ConfigError(f"a graph network has no trunk {self.trunk!r}: {did_you_mean(str(self.trunk), _TRUNKS)}")
        if self.trunk == "plain" and self.groups != _GROUPS:
            raise ConfigError(
                f"only a reversible trunk has groups; got groups={self.groups!r} with trunk='plain'; "
                f"set trunk='reversible' or leave groups out"
            )
        if self.trunk == "reversible" and (self.groups < 2 or self.hidden % self.groups or self.width < 2):
            raise ConfigError(
                f"a reversible trunk cuts its features into 2 groups or more, of one width, 2 at least; "
                f"got hidden={self.hidden!r} and groups={self.groups!r}; let groups divide hidden"
            )

    @property
    def width(self) -> int:
        """Features that a convolution reads and gives: H, or H / C in a reversible trunk."""
        return self.hidden // (self.groups if self.trunk == "reversible" else 1)


class Networks(nn.Module):
    """M graph networks of equal shape as one.

    Layer (both directions as in Wen et al. 2020, with a residual, LayerNorm and a self-weight):
    `h <- h + f(h)`, `f(h) = relu(A d + A' u + o)` with `[d, u, o] = LN(h) W + b`, A row-normalised over what a node
    reads, A' over its readers. In a reversible trunk a layer is a coupling of C such functions, each of a group of the
    features, with weights of its own (Li et al. 2021, section 3.2). The read-out is the mean of nodes beside the totals
    of the graph, then one hidden layer.
    """

    def __init__(
        self, networks: int, features: int, totals: int, settings: GCNSettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        hidden, head, width = settings.hidden, settings.head, settings.width
        self.groups = hidden // width
        convolutions = range(settings.layers * self.groups)

        def weights(*shape: int, fan: float) -> nn.Parameter:
            uniform = torch.rand(networks, *shape, generator=generator) * 2 - 1
            return nn.Parameter(uniform * math.sqrt(3 / fan))

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(networks, *shape))

        self.enter, self.enter_bias = weights(features, hidden, fan=features / 3), zeros(1, hidden)
        self.depth = zeros(1, 1, hidden)
        self.mix = nn.ParameterList([weights(width, 3 * width, fan=2 * width) for _ in convolutions])
        self.mix_bias = nn.ParameterList([zeros(1, 3 * width) for _ in convolutions])
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
        h = self._through(self.trunk(reads, readers), h)
        x = F.layer_norm(h, (hidden,)).view(m * b, n, hidden)
        real = self._stacked(_row_normalised((rows > PADDING).to(x.dtype).unsqueeze(-2)), m)
        x = torch.cat([torch.bmm(real, x).view(m, b, hidden), totals.expand(m, -1, -1)], dim=-1)
        x = torch.baddbmm(self.head_bias, x, self.head).relu_()
        return torch.baddbmm(self.out_bias, x, self.out).squeeze(-1)

    def trunk(self, reads: Tensor, readers: Tensor) -> Layers:
        """The convolutions, by layer and group, over normalised adjacencies `(M * B, N, N)`."""
        weights = zip(self.mix, self.mix_bias, strict=True)
        pieces = [Piece(partial(_convolution, mix, bias, reads, readers), (mix, bias)) for mix, bias in weights]
        return [pieces[i : i + self.groups] for i in range(0, len(pieces), self.groups)]

    def _through(self, layers: Layers, h: Tensor) -> Tensor:
        """Features `(M, B, N, H)` through the trunk."""
        if self.groups > 1:
            with torch.random.fork_rng(devices=()):  # nothing here is random: the caller's numbers go on undisturbed
                return reversible(layers, h)
        for (piece,) in layers:
            h = h + piece.call(h)
        return h

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


def _convolution(mix: Tensor, bias: Tensor, reads: Tensor, readers: Tensor, h: Tensor) -> Tensor:
    """Messages along and against the edges: features `(M, B, N, W)` to as many."""
    m, b, n, width = h.shape
    x = F.layer_norm(h, (width,)).view(m, b * n, width)
    down, up, own = torch.baddbmm(bias, x, mix).view(m * b, n, 3 * width).split(width, dim=-1)
    return torch.baddbmm(torch.baddbmm(own, reads, down), readers, up).relu_().view(m, b, n, width)


def _row_normalised(matrix: Tensor) -> Tensor:
    return matrix / matrix.sum(-1, keepdim=True).clamp_(min=1)


@dataclass(frozen=True)
class _Inputs:
    """Features of unique nodes `(R, F)`, and graphs, whose totals end with the further inputs."""

    table: Tensor
    graphs: GraphBatch

    @cached_property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return _tensors(self.graphs)


@register_predictor("gcn")
class GCNPredictor(StackPredictor[Networks]):
    """Graph convolutional network ensemble, trained on pairs. Further inputs enter beside the totals of the graph."""

    Settings = GCNSettings
    settings: GCNSettings

    def inputs(self, members: Members) -> _Inputs:
        graphs = members.graphs
        totals = np.concatenate([graphs.totals, members.extra.astype(np.float32)], axis=1)
        return _Inputs(torch.from_numpy(self.reader.encoder.table), replace(graphs, totals=totals))

    def stack(self, count: int, data: _Inputs, generator: torch.Generator) -> Networks:
        table, graphs = data.table, data.graphs
        networks = Networks(count, table.shape[1], graphs.totals.shape[1], self.settings, generator)
        used = table[torch.from_numpy(graphs.rows).flatten()].any(0)
        with torch.no_grad():
            networks.enter[:, ~used] = 0  # what training never shows must not speak later
        return networks

    def forward(self, networks: Networks, data: _Inputs, which: Tensor, generator: torch.Generator) -> Tensor:
        scores: Tensor = networks(data.table, *(part[which] for part in data.tensors))
        return scores

    @torch.inference_mode()
    def outputs(self, networks: Networks, data: _Inputs) -> np.ndarray:
        """Ranking scores float64 `(M, B)`; graphs of like size go together, so that little is padded."""
        order = np.argsort(data.graphs.sizes, kind="stable")
        parts = []
        for start in range(0, len(order), _PREDICTED_AT_ONCE):
            graphs = _tensors(data.graphs.select(order[start : start + _PREDICTED_AT_ONCE]))
            parts.append(networks(data.table, *(part.unsqueeze(0) for part in graphs)).numpy())
        ranking = np.empty((len(networks.enter), len(order)))
        ranking[:, order] = np.concatenate(parts, axis=1)
        return ranking

    def last_layer(self, networks: Networks) -> tuple[nn.Parameter, nn.Parameter]:
        return networks.out, networks.out_bias

    def biases(self, networks: Networks) -> list[nn.Parameter]:
        n = networks
        return [n.enter_bias, n.depth, *n.mix_bias, n.head_bias, n.out_bias]

    def keep(self, networks: Networks) -> None:
        for parameter in networks.parameters():
            parameter.data = parameter.data[: self.settings.members].clone()
            parameter.grad = None
            parameter.requires_grad_(False)
        self.kept = networks

    # ---- keeping -----------------------------------------------------------------------------------------

    def learned(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {k: v.numpy() for k, v in self.kept.state_dict().items()}, {}

    def recall(self, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        members, features, _ = tensors["enter"].shape
        totals = tensors["head"].shape[1] - self.settings.hidden
        networks = Networks(members, features, totals, self.settings, torch.Generator().manual_seed(0))
        weights = {k: torch.from_numpy(v.copy()) for k, v in tensors.items()}
        try:
            networks.load_state_dict(weights)
        except RuntimeError as e:
            raise ValueError(str(e)) from None
        self.kept = networks.eval()


def _tensors(data: GraphBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows, adjacency (float), depth and totals of a batch."""
    return (
        torch.from_numpy(data.rows),
        torch.from_numpy(data.adjacency).float(),
        torch.from_numpy(data.depth),
        torch.from_numpy(data.totals),
    )
