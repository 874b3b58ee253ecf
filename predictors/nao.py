"""The encoder and predictor of NAO (Luo et al. 2018): an LSTM reads a member token by token, a small network scores it.

Every step's output is normalised to length 1 and their mean, normalised again, is the member's embedding, a point on a
sphere where a search may walk by gradients. All networks of the ensemble are one batched computation, as in `gcn`.

Shapes: M networks, B members, L tokens, V vocabulary, U option values, E token embedding, D directions (1 or 2), H
outputs of a step (both directions together), W = H / D, C context (properties of the graph and further inputs); P is 1
(the same members for all networks) or M (members of their own).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.errors import ConfigError

from .base import register_predictor
from .reading import Members, Reader
from .tokens import Tokens
from .training import StackPredictor, TrainingSettings

_PREDICTED_AT_ONCE = 1024  # the more, the more beginnings are shared; the fewer, the more stays in the cache
_CONSTANT = 1e-6
_CLIP = 5.0  # standard deviations


@dataclass(frozen=True)
class NAOSettings(TrainingSettings):
    """Settings of `NAOPredictor`, beside those of `TrainingSettings`; the paper's loss is `mse`.

    Attributes:
        hidden: outputs of the LSTM at each step, H; both directions together.
        embedding: width of the token embedding, E.
        bidirectional: whether a second LSTM reads from the end, as in SemiNAS (Luo et al. 2020).
        mlp_layers, mlp_width: hidden layers of the network that scores an embedding.
        context: what the scorer reads of the graph beside the embedding: all its `features`, which ranks best but
            leaves little to the embedding, or its `totals` with the mean features of its nodes, which is faster and
            what a search that moves in the embedding needs.
        dropout: share of the token embeddings and of the scoring network's activations dropped in training.
    """

    hidden: int = 64
    embedding: int = 32
    bidirectional: bool = True
    mlp_layers: int = 1
    mlp_width: int = 64
    context: Literal["features", "totals"] = "totals"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_positive("hidden", "embedding", "mlp_width")
        if self.bidirectional and self.hidden % 2:
            raise ConfigError(f"predictor 'nao' with two directions needs an even hidden; got {self.hidden}")
        if self.mlp_layers < 0:
            raise ConfigError(f"predictor 'nao' needs mlp_layers >= 0; got {self.mlp_layers}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"predictor 'nao' needs a dropout from 0 to below 1; got {self.dropout}")
        if self.context not in ("features", "totals"):
            raise ConfigError(f"predictor 'nao' has no context {self.context!r}; choose one of: features, totals")


def _weights(*shape: int, fan: float, generator: torch.Generator) -> nn.Parameter:
    """Uniform weights whose outputs have variance 1 for inputs with sum of squares `fan`."""
    return nn.Parameter((torch.rand(shape, generator=generator) * 2 - 1) * math.sqrt(3 / fan))


def _drop(x: Tensor, share: float, dice: torch.Generator | None) -> Tensor:
    """Dropout by a generator of its own; nothing is dropped without one."""
    if dice is None or share == 0:
        return x
    return x * (torch.rand(x.shape, generator=dice) >= share).to(x.dtype).div_(1 - share)


class SequenceEncoder(nn.Module):
    """M LSTM encoders of equal shape as one: tokens to step outputs and an embedding, all of length 1.

    A token enters as the sum of an embedding of its own and one of its option value, which choices with equal options
    share: what an operator is worth need not be learned at every place anew. Of two directions each makes half of a
    step's output.

    Args:
        networks: M.
        values: int64 `(V,)`, option value of each token.
    """

    values: Tensor

    def __init__(self, networks: int, values: Tensor, settings: NAOSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.directions = 2 if settings.bidirectional else 1
        self.dropout = settings.dropout
        width, inner, stack = settings.embedding, settings.hidden // self.directions, self.directions * networks
        self.register_buffer("values", values, persistent=False)
        self.token = _weights(networks, len(values), width, fan=2, generator=generator)
        self.value = _weights(networks, int(values.max()) + 1, width, fan=2, generator=generator)
        self.enter = _weights(stack, width, 4 * inner, fan=width * 3, generator=generator)
        self.recur = _weights(stack, inner, 4 * inner, fan=inner * 3, generator=generator)
        self.bias = nn.Parameter(torch.zeros(stack, 1, 4 * inner))
        with torch.no_grad():
            self.bias[..., inner : 2 * inner] = 1  # remember at first (Jozefowicz et al. 2015)

    def forget_unseen(self, tokens: Tensor) -> None:
        """Tokens and values that do not occur in `tokens` add nothing: what training never shows must not speak."""
        seen = torch.zeros(len(self.values), dtype=torch.bool)
        seen[tokens.flatten()] = True
        with torch.no_grad():
            self.token[:, ~seen] = 0
            known = torch.zeros(self.value.shape[1], dtype=torch.bool)
            known[self.values[seen]] = True
            self.value[:, ~known] = 0

    def forward(self, tokens: Tensor, dice: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Step outputs `(M, B, L, H)` and embeddings `(M, B, H)` of tokens `(P, B, L)`; `dice` draws the dropout."""
        m, (b, n) = len(self.token), tokens.shape[1:]
        table = self.token + self.value[:, self.values]
        index = tokens.expand(m, b, n) + torch.arange(m).view(-1, 1, 1) * table.shape[1]
        x = table.flatten(0, 1).index_select(0, index.flatten()).view(m, b, n, -1)
        x = self._both_ways(_drop(x, self.dropout, dice)).flatten(1, 2)
        gates = torch.baddbmm(self.bias, x, self.enter).view(len(self.enter), b, n, -1)
        hidden = cell = None
        steps = []
        for now in gates.unbind(2):
            hidden, cell = _step(now if hidden is None else torch.baddbmm(now, hidden, self.recur), cell)
            steps.append(hidden)
        outputs = F.normalize(torch.stack(steps, dim=2), dim=-1)
        if self.directions == 2:
            ahead, back = outputs.chunk(2)
            outputs = torch.cat([ahead, back.flip(2)], dim=-1) / math.sqrt(2)
        return outputs, F.normalize(outputs.mean(2), dim=-1)

    def _both_ways(self, x: Tensor) -> Tensor:
        """`(M, B, L, *)` as `(D M, B, L, *)`, for the second direction from the end."""
        return x if self.directions == 1 else torch.cat([x, x.flip(2)])

    @torch.inference_mode()
    def embeddings(self, tokens: Tensor) -> Tensor:
        """The embeddings that `forward` gives for `(B, L)`, faster: what members have in common is computed once."""
        m = len(self.token)
        table = self.token + self.value[:, self.values]
        sums = []
        for i in range(self.directions):
            own = slice(i * m, (i + 1) * m)
            gates = torch.baddbmm(self.bias[own], table, self.enter[own])
            sums.append(_summed_outputs(gates, self.recur[own], tokens if i == 0 else tokens.flip(1)))
        return F.normalize(torch.cat(sums, dim=-1), dim=-1)


def _step(gates: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output and cell `(*, W)` of an LSTM (Hochreiter and Schmidhuber 1997) from its gates `(*, 4 W)`.

    tanh(x) is had from the logistic function as 2 s(2 x) - 1, which torch computes several times faster; for the new
    content the factor 2 is left to the weights.
    """
    enter, keep, leave, new = torch.sigmoid(gates).chunk(4, dim=-1)
    new = enter * (2 * new - 1)
    cell = new if cell is None else torch.addcmul(new, keep, cell)
    return leave * (2 * torch.sigmoid(2 * cell) - 1), cell


def _summed_outputs(table: Tensor, recur: Tensor, tokens: Tensor) -> Tensor:
    """Sum over the steps of the outputs of length 1, `(M, B, W)`, with one step for each distinct beginning.

    Args:
        table: gates of each token, `(M, V, 4 W)`.
        recur: `(M, W, 4 W)`.
        tokens: `(B, L)`.
    """
    vocabulary = table.shape[1]
    hidden = cell = total = table[:, :1, :0]
    place = tokens.new_zeros(len(tokens))  # of each member's beginning among the distinct ones
    for step, column in enumerate(tokens.unbind(1)):
        beginnings, place = torch.unique(place * vocabulary + column, return_inverse=True)
        before, gates = beginnings // vocabulary, table[:, beginnings % vocabulary]
        if step == 0:
            hidden, cell = _step(gates, None)
            total = F.normalize(hidden, dim=-1)
        else:
            hidden, cell = _step(torch.baddbmm(gates, hidden[:, before], recur), cell[:, before])
            total = total[:, before] + F.normalize(hidden, dim=-1)
    return total[:, place]


class Scorer(nn.Module):
    """M multi-layer perceptrons from an embedding and the member's context to a ranking score.

    Args:
        networks: M.
        seen: context `(n, C)` of the members learned from, by which context is standardised; what is the same in all
            of them is not read.
    """

    mean: Tensor
    gain: Tensor

    def __init__(self, networks: int, seen: Tensor, settings: NAOSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.dropout = settings.dropout
        context, deviation = seen.shape[1], seen.std(0, correction=0)
        self.register_buffer("mean", seen.mean(0))
        self.register_buffer("gain", torch.where(deviation > _CONSTANT, 1 / deviation, 0))
        widths = [settings.hidden + context, *[settings.mlp_width] * settings.mlp_layers, 1]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for i, (n, out) in enumerate(pairwise(widths)):
            fan = (1 + context if i == 0 else n) / 2  # an embedding has length 1
            self.weights.append(_weights(networks, n, out, fan=fan, generator=generator))
            self.biases.append(nn.Parameter(torch.zeros(networks, 1, out)))

    def forward(self, embedding: Tensor, context: Tensor, dice: torch.Generator | None = None) -> Tensor:
        """Ranking scores `(M, B)` of embeddings `(M, B, H)` and context `(P, B, C)`."""
        context = ((context - self.mean) * self.gain).clamp(-_CLIP, _CLIP)
        x = torch.cat([embedding, context.expand(len(embedding), -1, -1)], dim=-1)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if i < last:
                x = _drop(x.relu_(), self.dropout, dice)
        return x.squeeze(-1)


class Networks(nn.Module):
    """M encoders with their scorers."""

    def __init__(
        self, networks: int, values: Tensor, seen: Tensor, settings: NAOSettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.encoder = SequenceEncoder(networks, values, settings, generator)
        self.scorer = Scorer(networks, seen, settings, generator)

    def forward(self, tokens: Tensor, context: Tensor, dice: torch.Generator | None = None) -> Tensor:
        """Ranking scores `(M, B)` of tokens `(P, B, L)` and context `(P, B, C)`."""
        return self.scorer(self.encoder(tokens, dice)[1], context, dice)


@register_predictor("nao")
class NAOPredictor(StackPredictor[Networks]):
    """LSTM ensemble over tokens beside properties of the graph, trained to rank.

    Architectures are read in their canonical form, so isomorphic ones have one sequence;
    the paper's training on symmetric copies has nothing to add then.

    Attributes:
        tokens: how the members of the space are written.
        kept: encoders and scorers of the ensemble, once fitted.
    """

    Settings = NAOSettings
    settings: NAOSettings
    tokens: Tokens
    kept: Networks

    def read_with(self, reader: Reader) -> None:
        super().read_with(reader)
        self.tokens = Tokens(self.space)

    def inputs(self, members: Members) -> tuple[Tensor, Tensor]:
        """What the networks read: tokens `(B, L)` and context `(B, C)`, which ends with the further inputs."""
        canonical = [self.space.canonical(a) for a in members.architectures]
        context = members.features if self.settings.context == "features" else self._light(members)
        return torch.from_numpy(self.tokens.encode(canonical)), torch.from_numpy(context).float()

    def _light(self, members: Members) -> np.ndarray:
        """Totals of the graphs, mean features of their nodes, and further inputs, `(B, C)`."""
        graphs = members.graphs
        nodes = self.reader.encoder.table[graphs.rows].sum(1) / graphs.sizes[:, None]  # padding has features 0
        return np.concatenate([graphs.totals, nodes, members.extra], axis=1)

    # ---- the stack of networks ---------------------------------------------------------------------------

    def stack(self, count: int, data: tuple[Tensor, Tensor], generator: torch.Generator) -> Networks:
        tokens, context = data
        networks = Networks(count, torch.from_numpy(self.tokens.values), context, self.settings, generator)
        networks.encoder.forget_unseen(tokens)
        return networks

    def forward(
        self, networks: Networks, data: tuple[Tensor, Tensor], which: Tensor, generator: torch.Generator
    ) -> Tensor:
        tokens, context = data
        scores: Tensor = networks(tokens[which], context[which], generator)
        return scores

    @torch.inference_mode()
    def outputs(self, networks: Networks, data: tuple[Tensor, Tensor]) -> np.ndarray:
        parts = zip(*(part.split(_PREDICTED_AT_ONCE) for part in data), strict=True)
        scorer, encoder = networks.scorer, networks.encoder
        scores = [scorer(encoder.embeddings(tokens), context.unsqueeze(0)).numpy() for tokens, context in parts]
        return np.concatenate(scores, axis=1).astype(np.float64)

    def last_layer(self, networks: Networks) -> tuple[nn.Parameter, nn.Parameter]:
        return networks.scorer.weights[-1], networks.scorer.biases[-1]

    def biases(self, networks: Networks) -> list[nn.Parameter]:
        return [networks.encoder.bias, *networks.scorer.biases]

    def keep(self, networks: Networks) -> None:
        total = len(networks.encoder.token)
        for parameter in networks.parameters():
            stacked = parameter.data.view(-1, total, *parameter.shape[1:])  # by direction, then network
            parameter.data = stacked[:, : self.settings.members].flatten(0, 1).clone()
            parameter.grad = None
            parameter.requires_grad_(False)
        self.kept = networks

    # ---- keeping -----------------------------------------------------------------------------------------

    def learned(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {k: v.numpy() for k, v in self.kept.state_dict().items()}, {}

    def recall(self, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        seen = torch.zeros(1, len(tensors["scorer.mean"]))
        values = torch.from_numpy(self.tokens.values)
        networks = Networks(self.settings.members, values, seen, self.settings, torch.Generator().manual_seed(0))
        weights = {k: torch.from_numpy(v.copy()) for k, v in tensors.items()}
        try:
            networks.load_state_dict(weights)
        except RuntimeError as e:
            raise ValueError(str(e)) from None
        self.kept = networks.requires_grad_(False).eval()
