"""Torch modules of the engine's own, which constructors of operators may name beside those of `torch.nn`.

A module with a state keeps it in a `Memory`, outside state dicts. Exporters copy classes of this file into `model.py`
together with whatever else of this file they use, so everything here stands on `torch`, `nn`, `F` and `Tensor` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Memory:
    """What a stateful module keeps between windows; modules that share weights share it."""

    def __init__(self) -> None:
        self.carry = False
        self.state: Tensor | tuple[Tensor, ...] | None = None


class Stateful(nn.Module):
    """A module that goes on where its last window ended, if asked to.

    Attributes:
        carry: whether a window starts from the state that the last one left, rather than from zeros.
        state: that state, `(B, H)` or a tuple of such, detached; None before the first window. A window of another
            batch size starts from zeros.
    """

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()

    @property
    def carry(self) -> bool:
        return self.memory.carry

    @carry.setter
    def carry(self, carry: bool) -> None:
        self.memory.carry = carry

    @property
    def state(self) -> Tensor | tuple[Tensor, ...] | None:
        return self.memory.state

    @state.setter
    def state(self, state: Tensor | tuple[Tensor, ...] | None) -> None:
        self.memory.state = state

    def begin(self, x: Tensor, width: int, parts: int = 1) -> tuple[Tensor, ...]:
        """The state that a window `x` `(B, T, ...)` starts from: `parts` tensors `(B, width)`."""
        kept = (self.state,) if isinstance(self.state, Tensor) else self.state
        if self.carry and kept is not None and kept[0].shape == (x.shape[0], width):
            return tuple(part.to(x) for part in kept)
        return tuple(x.new_zeros(x.shape[0], width) for _ in range(parts))

    def end(self, *state: Tensor) -> None:
        """Keep the state that a window ends with."""
        if self.carry:
            kept = tuple(part.detach() for part in state)
            self.state = kept[0] if len(kept) == 1 else kept


def _memories(module: nn.Module) -> list[Memory]:
    return [part.memory for part in module.modules() if isinstance(part, Stateful)]


def reset_state(module: nn.Module) -> None:
    """Let the next window of every stateful part of a network or supernet start from zeros."""
    for memory in _memories(module):
        memory.state = None


@contextmanager
def carrying(module: nn.Module) -> Iterator[None]:
    """Inside, windows follow one another: each starts from the state the last one left, the first from zeros.

    Afterwards all states are forgotten and `carry` is as it was. Members of one supernet share their states.
    """
    memories = _memories(module)
    before = [memory.carry for memory in memories]
    reset_state(module)
    try:
        for memory in memories:
            memory.carry = True
        yield
    finally:
        for memory, carry in zip(memories, before, strict=True):
            memory.carry = carry
        reset_state(module)


class VariationalDropout(nn.Module):
    """Dropout of features `(B, T, F)` in training, by one mask for all steps (Gal and Ghahramani 2016)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return x * F.dropout(torch.ones_like(x[:, :1]), self.p) if self.training and self.p else x


class WordDropout(nn.Module):
    """Dropout of words: `rows` of an embedding, wherever in the batch they occur (Gal and Ghahramani 2016).

    Takes tokens `(B, T)` and their embeddings `(B, T, E)`; identity outside training.
    """

    def __init__(self, rows: int, p: float) -> None:
        super().__init__()
        self.rows, self.p = rows, p

    def forward(self, tokens: Tensor, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        return x * F.dropout(x.new_ones(self.rows), self.p)[tokens].unsqueeze(-1)


class Recurrence(Stateful):
    """A cell of highway nodes over all steps of a window.

    The first node is `s0 = h + sigmoid(c) * (tanh(z) - h)` with `(c, z) = W x + U h` and h of the step before. Node j
    reads the state s of an earlier node: `s + sigmoid(c) * (f(z) - s)` with `(c, z) = W_j s`. The next h is the mean of
    the nodes that no other reads ("leaves": ENAS, Pham et al. 2018; NAO, Luo et al. 2018) or of all but the first
    ("all": DARTS, Liu et al. 2019). Nodes of equal distance from the first are computed together.

    Shapes: x `(B, T, E)`, W `(1, 2H, E)`, U and every W_j `(1, 2H, H)`; result `(B, T, H)`.

    Args:
        nodes: for each node but the first, the number of the node it reads (0 is the first) and its f.
        output: "leaves" or "all".
        dropout: of h and s where they meet a weight, in training, by one mask for all nodes and steps.
    """

    def __init__(self, nodes: tuple[tuple[int, str], ...], output: str = "leaves", dropout: float = 0.0) -> None:
        super().__init__()
        self.nodes, self.dropout = nodes, dropout
        depth = [0]
        for read, _ in nodes:
            depth.append(depth[read] + 1)
        numbers = sorted(range(1, len(depth)), key=lambda j: (depth[j], nodes[j - 1][1], j))
        self.levels = [[0], *([j for j in numbers if depth[j] == d] for d in range(1, max(depth) + 1))]
        flat = [j for level in self.levels for j in level]
        inner = {read for read, _ in nodes} if output == "leaves" else {0} if nodes else set()
        self.ends = [i for i, j in enumerate(flat) if j not in inner]

    def forward(self, x: Tensor, *weights: Tensor) -> Tensor:
        first, again, *own = [weight[0] for weight in weights]
        inputs = F.linear(x.transpose(0, 1), first)
        stacked = [torch.stack([own[j - 1] for j in level]).mT for level in self.levels[1:]]
        ends, reads = torch.tensor(self.ends, device=x.device), self.reads(x)
        (h,) = self.begin(x, again.shape[1])
        mask = F.dropout(torch.ones_like(h), self.dropout) if self.training and self.dropout else None
        results = []
        for z in inputs.unbind():
            states = self.step(z, h, again, stacked, reads, mask)
            h = states.index_select(0, ends).mean(0)
            results.append(h)
        self.end(h)
        return torch.stack(results, 1)

    def reads(self, x: Tensor) -> list[Tensor | None]:
        """For each level but the first, where in the level before it finds its states; None where that is in order."""
        found = []
        for numbers, before in zip(self.levels[1:], self.levels, strict=False):
            where = [before.index(self.nodes[j - 1][0]) for j in numbers]
            in_order = where == list(range(len(before)))
            found.append(None if in_order else torch.tensor(where, device=x.device))
        return found

    def step(
        self,
        z: Tensor,
        h: Tensor,
        again: Tensor,
        stacked: list[Tensor],
        reads: list[Tensor | None],
        mask: Tensor | None,
    ) -> Tensor:
        """States `(N, B, H)` of all nodes, level by level."""
        c, z = torch.addmm(z, h if mask is None else h * mask, again.mT).chunk(2, -1)
        level = torch.lerp(h, torch.tanh(z), torch.sigmoid(c)).unsqueeze(0)
        states = [level]
        for numbers, where, weight in zip(self.levels[1:], reads, stacked, strict=True):
            s = level if where is None else level.index_select(0, where)
            c, z = torch.bmm(s if mask is None else s * mask, weight).chunk(2, -1)
            level = torch.lerp(s, self.activate(z, numbers), torch.sigmoid(c))
            states.append(level)
        return torch.cat(states)

    def activate(self, z: Tensor, numbers: list[int]) -> Tensor:
        """The activations of a level `(n, B, H)`, whose nodes are sorted by them."""
        kinds = [self.nodes[j - 1][1] for j in numbers]
        parts, i = [], 0
        for kind in dict.fromkeys(kinds):
            part = z[i : i + kinds.count(kind)]
            parts.append(part if kind == "identity" else getattr(torch, kind)(part))
            i += kinds.count(kind)
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def layer_weights(layer: nn.RNNBase, p: float) -> list[Tensor]:
    """Weights of a layer as torch's functions take them; in training, p of those from state to state are dropped."""
    first, again, *biases = [getattr(layer, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    return [first, F.dropout(again, p) if layer.training and p else again, *biases]


class Lstm(nn.LSTM, Stateful):
    """torch's LSTM of one layer, `(B, T, E)` to `(B, T, H)`.

    `p` is the dropout of its hidden-to-hidden weights in training, one mask a window (Merity et al. 2018).
    """

    def __init__(self, input_size: int, hidden_size: int, p: float = 0.0) -> None:
        super().__init__(input_size, hidden_size, batch_first=True)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        state = [part.unsqueeze(0) for part in self.begin(x, self.hidden_size, 2)]
        result, h, c = torch.lstm(x, state, layer_weights(self, self.p), True, 1, 0.0, self.training, False, True)
        self.end(h[0], c[0])
        return result


class Gru(nn.GRU, Stateful):
    """torch's GRU of one layer, as `Lstm`."""

    def __init__(self, input_size: int, hidden_size: int, p: float = 0.0) -> None:
        super().__init__(input_size, hidden_size, batch_first=True)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        state = self.begin(x, self.hidden_size)[0].unsqueeze(0)
        result, h = torch.gru(x, state, layer_weights(self, self.p), True, 1, 0.0, self.training, False, True)
        self.end(h[0])
        return result


class StochasticDepth(nn.Module):
    """Residual branches of single examples left out in training (Huang et al. 2016), the others scaled up for it."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        kept = x.new_empty(x.shape[0], *(1,) * (x.dim() - 1)).bernoulli_(1 - self.p)
        return x * (kept / (1 - self.p))


MODULES: dict[str, type[nn.Module]] = {
    c.__name__: c for c in (Stateful, VariationalDropout, WordDropout, Recurrence, Lstm, Gru, StochasticDepth)
}
"""What constructors may name."""
