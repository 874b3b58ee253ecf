"""Scores by chance: what every other criterion must beat."""

from __future__ import annotations

import numpy as np

from .base import Criterion, Scores, register_criterion


@register_criterion("random")
class Random(Criterion):
    """Uniform scores in [0, 1) for units and removable blocks; they follow from the seed alone."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def finish(self) -> Scores:
        rng = np.random.default_rng(self.seed)
        coupling = self.gated.coupling
        return Scores(units=rng.random(coupling.count), blocks=rng.random(len(coupling.blocks)))
