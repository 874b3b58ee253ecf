"""Zero-cost scores of the architectures of a space, each network built once and scored once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from search_spaces.errors import ConfigError, DataError
from search_spaces.network import Network

from .scores import scores, zero_cost

if TYPE_CHECKING:
    from search_spaces.space import Architecture, SearchSpace

BATCH = 64
"""Images of a batch where none are given."""


def noise_batch(space: SearchSpace, batch: int = BATCH, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Standard normal images of the space's input shape, `(batch, C, H, W)`, and uniform labels `(batch,)`."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, *space.input_shape, generator=generator)
    return images, torch.randint(space.classes, (batch,), generator=generator)


def untrained(space: SearchSpace, architecture: Architecture, seed: int = 0) -> Network:
    """A member's network with torch's own initial weights; torch's random state stays as it is."""
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        return Network(space.graph(architecture))
    finally:
        torch.set_rng_state(state)


class ZeroCostScorer:
    """Architectures to zero-cost scores.

    An architecture is scored once, as it stands: `space.canonical` may have fewer weights and layers (in NAS-Bench-201
    it merges layers that begin alike but learn apart), and with them lower scores. All networks start from the same
    seed, so that a score depends on neither the order nor the company of architectures.

    Args:
        space: whose architectures are scored.
        names: of the scores, the columns of the result.
        images: float `(N, C, H, W)`, normalised as for training. By default noise of `noise_batch`, which is enough for
            a rough ranking; scores are better, and comparable with published ones, on images of the task.
        labels: int64 `(N,)`; given with the images or not at all.
        seed: of initial weights, and of the noise.

    Attributes:
        images, labels: the batch.

    Raises:
        ConfigError: an unknown score.
        DataError: images without labels or labels without images; images of another shape than the space's.
    """

    def __init__(
        self,
        space: SearchSpace,
        names: Sequence[str] = ("nwot",),
        images: Tensor | None = None,
        labels: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        for name in names:
            scores[name]
        if len(set(names)) != len(names) or not names:
            raise ConfigError(f"zero-cost scores {list(names)}: name at least one, and each once")
        if (images is None) != (labels is None):
            raise DataError("a batch is images with labels; give both, or neither for noise")
        if images is None or labels is None:
            images, labels = noise_batch(space, seed=seed)
        if tuple(images.shape[1:]) != space.input_shape:
            raise DataError(
                f"images of shape {tuple(images.shape[1:])} for space {space.name!r} of {space.input_shape}; "
                "make the space with their input_shape"
            )
        self.space, self.names, self.seed = space, tuple(names), seed
        self.images, self.labels = images, labels
        self._known: dict[str, np.ndarray] = {}
        self._spent = np.zeros(len(self.names))

    def __call__(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Scores, float64 `(B, k)`, higher is better, all finite.

        What cannot be scored gets the worst score seen so far by this scorer, or 0 where there is none.
        """
        found = self.measure(architectures)
        return np.where(np.isfinite(found), found, self.worst())

    def measure(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Scores, float64 `(B, k)`; not finite where a network cannot be scored, one without a path, say."""
        rows = [self._scored(a) for a in architectures]
        return np.array(rows).reshape(len(rows), len(self.names))

    def worst(self) -> np.ndarray:
        """The lowest finite score of each kind so far, `(k,)`; 0 where there is none."""
        seen = np.array(list(self._known.values())).reshape(len(self._known), len(self.names))
        lowest = np.where(np.isfinite(seen), seen, np.inf).min(0, initial=np.inf)
        return np.where(np.isfinite(lowest), lowest, 0.0)

    @property
    def seconds(self) -> dict[str, float]:
        """Mean CPU seconds a network of each score by itself, networks from the cache not counted."""
        return dict(zip(self.names, (self._spent / max(1, len(self._known))).tolist(), strict=True))

    def _scored(self, architecture: Architecture) -> np.ndarray:
        if architecture.code not in self._known:
            network = untrained(self.space, architecture, self.seed)
            found = zero_cost(network, self.images, self.labels, self.names)
            self._spent += [found[name].seconds for name in self.names]
            self._known[architecture.code] = np.array([found[name].value for name in self.names])
        return self._known[architecture.code]
