"""The decoder of NAO: an LSTM with attention over the encoder's step outputs writes a member token by token.

A mask leaves only the tokens that the grammar of the space allows after those written, so whatever it writes is a
member. All networks of the ensemble are one batched computation. Shapes as in `encoder`.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tokens import START, Tokens
from .encoder import drop, look_up, lstm_step, weights
from .settings import NAOSettings


class Decoder(nn.Module):
    """M LSTM decoders with the attention of Luong et al. 2015 over the step outputs of the encoder.

    The embedding e is the LSTM's first state, `(h_0, c_0) = (e, e)`. At step t it reads the token before; its output is
    projected to a query q, `a = softmax(q . outputs)` weighs the outputs to a mix, and `tanh(W [mix; q])` tells the
    tokens apart.

    Args:
        networks: M.
        values: int64 `(V,)`, option value of each token, which share an embedding as in the encoder.
    """

    values: Tensor

    def __init__(self, networks: int, values: Tensor, settings: NAOSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.dropout = settings.dropout
        width, hidden, size = settings.embedding, settings.hidden, len(values)
        self.register_buffer("values", values, persistent=False)
        self.token = weights(networks, size, width, fan=2, generator=generator)
        self.value = weights(networks, int(values.max()) + 1, width, fan=2, generator=generator)
        self.enter = weights(networks, width, 4 * hidden, fan=width * 3, generator=generator)
        self.recur = weights(networks, hidden, 4 * hidden, fan=hidden * 3, generator=generator)
        self.query = weights(networks, hidden, hidden, fan=hidden / 3, generator=generator)
        self.mix = weights(networks, 2 * hidden, hidden, fan=hidden, generator=generator)
        self.speak = weights(networks, hidden, size, fan=hidden, generator=generator)
        self.bias = nn.Parameter(torch.zeros(networks, 1, 4 * hidden))
        self.speak_bias = nn.Parameter(torch.zeros(networks, 1, size))
        with torch.no_grad():
            self.bias[..., hidden : 2 * hidden] = 1  # remember at first

    @property
    def biases(self) -> list[nn.Parameter]:
        return [self.bias, self.speak_bias]

    def forward(
        self, tokens: Tensor, outputs: Tensor, embedding: Tensor, dice: torch.Generator | None = None
    ) -> Tensor:
        """Logits `(M, B, L, V)` of each step, the tokens before it given (teacher forcing).

        Args:
            tokens: `(M, B, L)`.
            outputs: of the encoder, `(M, B, L, H)`.
            embedding: `(M, B, H)`.
            dice: draws the dropout; none without it.
        """
        before = F.pad(tokens[..., :-1], (1, 0), value=START)
        m, b, n = before.shape
        x = drop(look_up(self._table(), before), self.dropout, dice)
        gates = torch.baddbmm(self.bias, x.flatten(1, 2), self.enter).view(m, b, n, -1)
        hidden = cell = embedding
        steps = []
        for now in gates.unbind(2):
            hidden, cell = lstm_step(torch.baddbmm(now, hidden, self.recur), cell)
            steps.append(hidden)
        return self._logits(torch.stack(steps, dim=2), outputs)

    def loss(
        self, tokens: Tensor, outputs: Tensor, embedding: Tensor, allowed: Tensor, dice: torch.Generator | None = None
    ) -> Tensor:
        """Negative log-likelihood of a token that had others beside it, on average; summed over the networks.

        Args:
            allowed: bool `(M, B, L, V)`, what the grammar allows at each step.
        """
        logits = self(tokens, outputs, embedding, dice).masked_fill(~allowed, -torch.inf)
        likely = logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1))
        free = (allowed.sum(-1) > 1).sum((1, 2)).clamp(min=1)
        return -(likely.sum((1, 2, 3)) / free).sum()

    @torch.inference_mode()
    def write(
        self, outputs: Tensor, grammar: Tokens, temperature: float = 0.0, dice: torch.Generator | None = None
    ) -> np.ndarray:
        """Members as tokens, int64 `(M, B, L)`, one for each point given by its step outputs `(M, B, L, H)`.

        Args:
            temperature: 0 takes the likeliest token of each step; above, tokens are drawn from the likelihoods to the
                power of 1 / temperature, by `dice`.
        """
        m, b, n = outputs.shape[:3]
        table = torch.baddbmm(self.bias, self._table(), self.enter)
        hidden = cell = F.normalize(outputs.mean(2), dim=-1)
        written = np.zeros((m * b, 0), dtype=np.int64)
        last = torch.full((m, b), START)
        for _ in range(n):
            hidden, cell = lstm_step(torch.baddbmm(look_up(table, last), hidden, self.recur), cell)
            logits = self._logits(hidden.unsqueeze(2), outputs).squeeze(2)
            if temperature > 0:
                noise = torch.rand(logits.shape, generator=dice).clamp_(1e-9, 1 - 1e-7)
                logits = logits - temperature * torch.log(-torch.log(noise))  # Gumbel's way to draw by likelihood
            allowed = torch.from_numpy(grammar.next_allowed(written)).view(m, b, -1)
            last = logits.masked_fill(~allowed, -torch.inf).argmax(-1)
            written = np.concatenate([written, last.view(-1, 1).numpy()], axis=1)
        return written.reshape(m, b, n)

    def _table(self) -> Tensor:
        return self.token + self.value[:, self.values]

    def _logits(self, hidden: Tensor, outputs: Tensor) -> Tensor:
        """Logits `(M, B, T, V)` from T outputs of the LSTM `(M, B, T, H)` and the encoder's `(M, B, L, H)`."""
        m, b, t, _ = hidden.shape
        query = torch.bmm(hidden.flatten(1, 2), self.query).view(hidden.shape)
        attention = (query @ outputs.transpose(-1, -2)).softmax(-1)
        both = torch.cat([attention @ outputs, query], dim=-1).flatten(1, 2)
        return torch.baddbmm(self.speak_bias, torch.tanh(torch.bmm(both, self.mix)), self.speak).view(m, b, t, -1)
