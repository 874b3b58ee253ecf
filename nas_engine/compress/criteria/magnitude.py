"""Norms of the weights that make a unit (Li et al. 2017).

Before a batch norm the scale of a filter means nothing, and layers differ in size, so norms of different groups are put
on one scale by the mean of their group unless they are asked for raw.
"""

from __future__ import annotations

import numpy as np

from search_spaces.errors import ConfigError, did_you_mean

from .base import Criterion, Scores, register_criterion
from .makers import made_rows, other_axes, per_unit

NORMALISATIONS = ("mean", "none")


@register_criterion("magnitude")
class Magnitude(Criterion):
    """The p-norm of a unit's weights in each of its makers, summed over the makers; biases do not count.

    Args:
        p: 1 or 2.
        normalise: "mean" divides by the mean of the unit's group; "none" leaves norms as they are, which are then to be
            compared within a group only.

    Raises:
        ConfigError: another p or normalisation.
    """

    def __init__(self, p: int = 2, normalise: str = "mean") -> None:
        if p not in (1, 2):
            raise ConfigError(f"magnitude takes p = 1 or p = 2, not {p!r}: choose one of the two norms")
        if normalise not in NORMALISATIONS:
            raise ConfigError(f"unknown normalisation {normalise!r}: {did_you_mean(normalise, NORMALISATIONS)}")
        self.p, self.normalise = p, normalise
        self.comparable = normalise == "mean"

    def finish(self) -> Scores:
        coupling = self.gated.coupling
        scores = np.zeros(coupling.count)
        for rows in made_rows(coupling):
            weight = self.gated.network.get_parameter(rows.tensor).detach().double().cpu().numpy()
            powers = (np.abs(weight) ** self.p).sum(other_axes(rows, weight.ndim))
            scores += per_unit(powers, rows.units, coupling.count) ** (1 / self.p)
        if self.normalise == "mean":
            for group in coupling.groups:
                mean = scores[group.units].mean()
                scores[group.units] /= mean if mean > 0 else 1.0
        return Scores(units=scores)
