"""The NAO predictor: encoders, scorers and, for searches, decoders, trained jointly on members with scores.

Shapes as in `encoder`; N is the number of symmetric copies that training holds of each member.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.space import SearchSpace

from ..base import register_predictor
from ..reading import Members, Reader
from ..tokens import Tokens
from ..training import LOSSES, StackPredictor
from .decoder import Decoder
from .encoder import Scorer, SequenceEncoder
from .settings import NAOSettings

_PREDICTED_AT_ONCE = 1024  # the more, the more beginnings are shared; the fewer, the more stays in the cache
_COPIES = 8


class Networks(nn.Module):
    """M encoders with their scorers, and decoders where `settings.balance` is below 1."""

    def __init__(
        self, networks: int, values: Tensor, seen: Tensor, settings: NAOSettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.encoder = SequenceEncoder(networks, values, settings, generator)
        self.scorer = Scorer(networks, seen, settings, generator)
        self.decoder = Decoder(networks, values, settings, generator) if settings.balance < 1 else None

    def forward(self, tokens: Tensor, context: Tensor, dice: torch.Generator | None = None) -> Tensor:
        """Ranking scores `(M, B)` of tokens `(P, B, L)` and context `(P, B, C)`."""
        return self.scorer(self.encoder(tokens, dice)[1], context, dice)


class _Lessons(NamedTuple):
    """What training reads: canonical tokens `(n, L)`, context `(n, C)`, tokens of copies `(n, N, L)`, N may be 0."""

    tokens: Tensor
    context: Tensor
    copies: Tensor


@register_predictor("nao")
class NAOPredictor(StackPredictor[Networks]):
    """LSTM ensemble over tokens beside properties of the graph, trained to rank.

    Architectures are predicted in their canonical form, so isomorphic ones have one sequence. For searches that walk in
    the embedding, `balance` below 1 adds decoders and `symmetric` above 0 the paper's training on symmetric copies.

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
        match self.settings.context:
            case "features":
                context = members.features
            case "totals":
                context = self._light(members)
            case _:
                context = members.extra
        return torch.from_numpy(self.tokens.encode(canonical)), torch.from_numpy(context).float()

    def _light(self, members: Members) -> np.ndarray:
        """Totals of the graphs, mean features of their nodes, and further inputs, `(B, C)`."""
        graphs = members.graphs
        nodes = self.reader.encoder.table[graphs.rows].sum(1) / graphs.sizes[:, None]  # padding has features 0
        return np.concatenate([graphs.totals, nodes, members.extra], axis=1)

    def lessons(self, seen: Members) -> _Lessons:
        tokens, context = self.inputs(seen)
        copies = 0 if type(self.space).symmetric is SearchSpace.symmetric else _COPIES
        if self.settings.symmetric == 0 or copies == 0:
            return _Lessons(tokens, context, tokens.new_zeros(len(tokens), 0, tokens.shape[1]))
        rng = np.random.default_rng(self.settings.seed)
        drawn = [self.space.symmetric(a, rng) for a in seen.architectures for _ in range(copies)]
        return _Lessons(tokens, context, torch.from_numpy(self.tokens.encode(drawn)).view(len(tokens), copies, -1))

    # ---- the stack of networks ---------------------------------------------------------------------------

    def stack(self, count: int, data: _Lessons, generator: torch.Generator) -> Networks:
        networks = Networks(count, torch.from_numpy(self.tokens.values), data.context, self.settings, generator)
        networks.encoder.forget_unseen(torch.cat([data.tokens.flatten(), data.copies.flatten()]))
        return networks

    def forward(self, networks: Networks, data: _Lessons, which: Tensor, generator: torch.Generator) -> Tensor:
        scores: Tensor = networks(self._shown(data, which, generator), data.context[which], generator)
        return scores

    def loss(
        self, networks: Networks, data: _Lessons, which: Tensor, goal: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Luo et al. 2018, eq. 3: `balance` times the prediction loss, the rest of it the reconstruction loss."""
        if networks.decoder is None:
            return super().loss(networks, data, which, goal, generator)
        settings, tokens = self.settings, self._shown(data, which, generator)
        outputs, embedding = networks.encoder(tokens, generator)
        scores = networks.scorer(embedding, data.context[which], generator)
        wrong = LOSSES[settings.loss](scores, goal[which], settings.margin)
        allowed = torch.from_numpy(self.tokens.allowed_along(tokens.flatten(0, 1).numpy()))
        unlikely = networks.decoder.loss(tokens, outputs, embedding, allowed.view(*tokens.shape, -1), generator)
        return settings.balance * wrong + (1 - settings.balance) * unlikely

    def _shown(self, data: _Lessons, which: Tensor, generator: torch.Generator) -> Tensor:
        """Tokens `(M, b, L)` of members in training: canonical, or of a copy for the share `symmetric` of them."""
        canonical = data.tokens[which]
        if not data.copies.shape[1]:
            return canonical
        copy = torch.randint(data.copies.shape[1], which.shape, generator=generator)
        copied = torch.rand(which.shape, generator=generator) < self.settings.symmetric
        return torch.where(copied.unsqueeze(-1), data.copies[which, copy], canonical)

    @torch.inference_mode()
    def outputs(self, networks: Networks, data: tuple[Tensor, Tensor] | _Lessons) -> np.ndarray:
        parts = zip(*(part.split(_PREDICTED_AT_ONCE) for part in data[:2]), strict=True)
        scorer, encoder = networks.scorer, networks.encoder
        scores = [scorer(encoder.embeddings(tokens), context.unsqueeze(0)).numpy() for tokens, context in parts]
        return np.concatenate(scores, axis=1).astype(np.float64)

    def last_layer(self, networks: Networks) -> tuple[nn.Parameter, nn.Parameter]:
        return networks.scorer.weights[-1], networks.scorer.biases[-1]

    def biases(self, networks: Networks) -> list[nn.Parameter]:
        own = [networks.encoder.bias, *networks.scorer.biases]
        return own if networks.decoder is None else [*own, *networks.decoder.biases]

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
