"""A predictor that ranks by a zero-cost score: labels only tell what the score is worth in their unit.

The order of architectures is that of their untrained networks' scores, whatever the labels say; a few labelled ones
are enough to calibrate it and to tell how far it can be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from search_spaces.errors import ConfigError, DataError
from search_spaces.graph import Graph

from ..base import Predictor, Seeded, register_predictor
from ..calibration import Calibration
from ..ranking import trust
from .scorer import BATCH, ZeroCostScorer, noise_batch
from .scores import scores as registered

if TYPE_CHECKING:
    from search_spaces.space import Architecture, SearchSpace


@dataclass(frozen=True)
class ZeroCostSettings(Seeded):
    """Settings of `ZeroCostPredictor`.

    Attributes:
        score: name of a registered zero-cost score.
        batch: noise images in the batch; of no effect once `with_batch` has given real ones.
    """

    score: str = "nwot"
    batch: int = BATCH

    def __post_init__(self) -> None:
        registered[self.score]
        if not self.batch >= 4:
            raise ConfigError(f"predictor 'zerocost' needs a batch of 4 images or more; got {self.batch!r}")


@register_predictor("zerocost")
class ZeroCostPredictor(Predictor):
    """Ranks by a zero-cost score on noise, or on the images of `with_batch`.

    A network that cannot be scored counts as the worst of those fitted. The standard deviation is the error that the
    calibrated score leaves among architectures of like score.
    """

    Settings = ZeroCostSettings
    settings: ZeroCostSettings
    _calibration: Calibration
    _floor: float

    def __init__(self, space: SearchSpace, **settings: Any) -> None:
        super().__init__(space, **settings)
        self._use(*noise_batch(space, self.settings.batch, self.settings.seed))

    def with_batch(self, images: Tensor, labels: Tensor) -> Self:
        """A predictor of the same settings, not fitted, that scores on these images.

        Args:
            images: float `(N, C, H, W)`, normalised as for training; kept with the predictor on disk.
            labels: int64 `(N,)`.

        Raises:
            DataError: images of another shape than the space's, or too few.
        """
        other = type(self)(self.space, **asdict(self.settings))
        other._use(images, labels)
        return other

    def _use(self, images: Tensor, labels: Tensor) -> None:
        self._scorer = ZeroCostScorer(self.space, [self.settings.score], images, labels, self.settings.seed)

    def _fit(
        self, architectures: Sequence[Architecture], scores: np.ndarray, groups: np.ndarray, extra: np.ndarray
    ) -> None:
        if extra.shape[1]:
            raise DataError(
                f"predictor 'zerocost' ranks by {self.settings.score} alone; leave extra out or take another predictor"
            )
        found = self._scorer.measure(architectures)[:, 0]
        finite = found[np.isfinite(found)]
        self._floor = float(finite.min()) if len(finite) else 0.0
        ranking = self._finite(found)
        self.held_out = trust(scores, ranking)
        self._calibration = Calibration.fit(ranking, scores)

    def _predict(
        self, architectures: Sequence[Architecture], sketches: Sequence[Graph] | None, extra: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        ranking = self._finite(self._scorer.measure(architectures)[:, 0])
        return self._calibration(ranking), self._calibration.error(ranking)

    def _finite(self, found: np.ndarray) -> np.ndarray:
        """Scores with the floor in place of what is not finite: nothing of other predictions enters."""
        return np.where(np.isfinite(found), found, self._floor)

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        batch = {"images": self._scorer.images.cpu().numpy(), "labels": self._scorer.labels.cpu().numpy()}
        return {**self._calibration.state(), **batch}, {"floor": self._floor}

    def _restore(self, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        self._calibration = Calibration.restore(tensors)
        self._floor = float(facts["floor"])
        try:
            self._use(torch.from_numpy(tensors["images"].copy()), torch.from_numpy(tensors["labels"].copy()))
        except DataError as e:
            raise ValueError(str(e)) from None
