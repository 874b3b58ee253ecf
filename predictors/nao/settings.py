"""Settings of NAO's networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from search_spaces.errors import ConfigError

from ..training import TrainingSettings

_CONTEXTS = ("features", "totals", "none")


@dataclass(frozen=True)
class NAOSettings(TrainingSettings):
    """Settings of `NAOPredictor`, beside those of `TrainingSettings`; the paper's loss is `mse`.

    The defaults are those of a predictor alone; `JOINT` holds what a search that moves in the embedding sets.

    Attributes:
        hidden: outputs of the LSTM at each step, H; both directions together.
        embedding: width of the token embedding, E.
        bidirectional: whether a second LSTM reads from the end, as in SemiNAS (Luo et al. 2020).
        mlp_layers, mlp_width: hidden layers of the network that scores an embedding.
        context: what the scorer reads of the graph beside the embedding: all its `features`, which ranks best but
            leaves little to the embedding, its `totals` with the mean features of its nodes, which is faster, or
            `none`, as in the paper.
        dropout: share of the token embeddings and of the scoring network's activations dropped in training.
        balance: the paper's lambda, weight of the prediction loss; the rest is that of the reconstruction by a decoder.
            1 trains no decoder.
        symmetric: share of the members that training shows as a random member that is the same network; the others,
            and all when predicting, in their canonical form.
    """

    hidden: int = 64
    embedding: int = 32
    bidirectional: bool = True
    mlp_layers: int = 1
    mlp_width: int = 64
    context: Literal["features", "totals", "none"] = "totals"
    dropout: float = 0.1
    balance: float = 1.0
    symmetric: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_positive("hidden", "embedding", "mlp_width")
        if self.bidirectional and self.hidden % 2:
            raise ConfigError(f"predictor 'nao' with two directions needs an even hidden; got {self.hidden}")
        if self.mlp_layers < 0:
            raise ConfigError(f"predictor 'nao' needs mlp_layers >= 0; got {self.mlp_layers}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"predictor 'nao' needs a dropout from 0 to below 1; got {self.dropout}")
        if self.context not in _CONTEXTS:
            raise ConfigError(f"predictor 'nao' has no context {self.context!r}; choose one of: {', '.join(_CONTEXTS)}")
        if not 0 < self.balance <= 1:
            raise ConfigError(f"predictor 'nao' needs a balance above 0 and up to 1; got {self.balance}")
        if not 0 <= self.symmetric <= 1:
            raise ConfigError(f"predictor 'nao' needs symmetric from 0 to 1; got {self.symmetric}")


JOINT = {"balance": 0.8, "symmetric": 0.5}
"""Encoder, scorer and decoder trained jointly, half of the members as symmetric copies (Luo et al. 2018, V1)."""

SEARCH = {**JOINT, "context": "features", "members": 4, "max_steps": 200, "batch": 32}
"""What searches fit again and again: few results rank well with the features of the graph beside the embedding."""
