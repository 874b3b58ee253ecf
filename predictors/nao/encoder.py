"""The encoder and the scorer of NAO (Luo et al. 2018): an LSTM reads a member token by token, an MLP scores it.

Every step's output is normalised to length 1 and their mean, normalised again, is the member's embedding, a point on a
sphere where a search may walk by gradients. All networks of the ensemble are one batched computation, as in `gcn`.

Shapes: M networks, B members, L tokens, V vocabulary, U option values, E token embedding, D directions (1 or 2), H
outputs of a step (both directions together), W = H / D, C context (properties of the graph and further inputs); P is 1
(the same members for all networks) or M (members of their own).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .settings import NAOSettings

_CONSTANT = 1e-6
_CLIP = 5.0  # standard deviations


def weights(*shape: int, fan: float, generator: torch.Generator) -> nn.Parameter:
    """Uniform weights whose outputs have variance 1 for inputs with sum of squares `fan`."""
    return nn.Parameter((torch.rand(shape, generator=generator) * 2 - 1) * math.sqrt(3 / fan))


def drop(x: Tensor, share: float, dice: torch.Generator | None) -> Tensor:
    """Dropout by a generator of its own; nothing is dropped without one."""
    if dice is None or share == 0:
        return x
    return x * (torch.rand(x.shape, generator=dice) >= share).to(x.dtype).div_(1 - share)


def look_up(table: Tensor, tokens: Tensor) -> Tensor:
    """Rows `(M, *, E)` of tables `(M, V, E)`, for tokens `(M, *)`."""
    first = torch.arange(len(table)).view(-1, *[1] * (tokens.dim() - 1)) * table.shape[1]
    rows = table.flatten(0, 1).index_select(0, (tokens + first).flatten())
    return rows.view(*tokens.shape, -1)


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
        self.token = weights(networks, len(values), width, fan=2, generator=generator)
        self.value = weights(networks, int(values.max()) + 1, width, fan=2, generator=generator)
        self.enter = weights(stack, width, 4 * inner, fan=width * 3, generator=generator)
        self.recur = weights(stack, inner, 4 * inner, fan=inner * 3, generator=generator)
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
        x = look_up(self.token + self.value[:, self.values], tokens.expand(m, b, n))
        x = self._both_ways(drop(x, self.dropout, dice)).flatten(1, 2)
        gates = torch.baddbmm(self.bias, x, self.enter).view(len(self.enter), b, n, -1)
        hidden = cell = None
        steps = []
        for now in gates.unbind(2):
            hidden, cell = lstm_step(now if hidden is None else torch.baddbmm(now, hidden, self.recur), cell)
            steps.append(hidden)
        outputs = torch.stack(steps, dim=2)
        if self.directions == 2:
            ahead, back = outputs.chunk(2)
            outputs = torch.cat([ahead, back.flip(2)], dim=-1)
        outputs = self.on_sphere(outputs)
        return outputs, embed(outputs)

    def on_sphere(self, outputs: Tensor) -> Tensor:
        """Step outputs `(*, H)` of length 1, to which each direction adds alike."""
        halves = outputs.unflatten(-1, (self.directions, -1))
        return F.normalize(halves, dim=-1).flatten(-2) / math.sqrt(self.directions)

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


def embed(outputs: Tensor) -> Tensor:
    """The embedding `(*, H)` of a member with step outputs `(*, L, H)`."""
    return F.normalize(outputs.mean(-2), dim=-1)


def lstm_step(gates: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor]:
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
            hidden, cell = lstm_step(gates, None)
            total = F.normalize(hidden, dim=-1)
        else:
            hidden, cell = lstm_step(torch.baddbmm(gates, hidden[:, before], recur), cell[:, before])
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
        context = seen.shape[1]
        deviation = seen.std(0, correction=0) if context else seen.new_zeros(0)  # torch warns of no columns
        self.register_buffer("mean", seen.mean(0))
        self.register_buffer("gain", torch.where(deviation > _CONSTANT, 1 / deviation, 0))
        widths = [settings.hidden + context, *[settings.mlp_width] * settings.mlp_layers, 1]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for i, (n, out) in enumerate(pairwise(widths)):
            fan = (1 + context if i == 0 else n) / 2  # an embedding has length 1
            self.weights.append(weights(networks, n, out, fan=fan, generator=generator))
            self.biases.append(nn.Parameter(torch.zeros(networks, 1, out)))

    def forward(self, embedding: Tensor, context: Tensor, dice: torch.Generator | None = None) -> Tensor:
        """Ranking scores `(M, B)` of embeddings `(M, B, H)` and context `(P, B, C)`."""
        context = ((context - self.mean) * self.gain).clamp(-_CLIP, _CLIP)
        x = torch.cat([embedding, context.expand(len(embedding), -1, -1)], dim=-1)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if i < last:
                x = drop(x.relu_(), self.dropout, dice)
        return x.squeeze(-1)
