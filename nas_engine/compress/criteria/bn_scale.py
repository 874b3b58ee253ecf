"""Scales of batch norms (network slimming, Liu et al. 2017): a channel that is multiplied by little matters little."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from search_spaces.errors import ConfigError
from search_spaces.network import find

from .base import Criterion, Scores, register_criterion
from .makers import per_unit


@register_criterion("bn_scale")
class BNScale(Criterion):
    """|gamma| summed over the batch norms of a unit's channels.

    A unit that no batch norm scales is not judged: it gets the largest score there is, so that it is cut last.

    Raises:
        ConfigError: no unit of the network has a batch norm with scales.
    """

    def finish(self) -> Scores:
        coupling = self.gated.coupling
        scores, places = np.zeros(coupling.count), np.zeros(coupling.count)
        for node in coupling.graph.nodes:
            axes = coupling.tensors.get(f"{node.name}.weight")
            gamma = find(self.gated.network, f"{node.name}.weight")
            if node.operator != "batch_norm" or axes is None or axes[0] is None or not isinstance(gamma, Tensor):
                continue
            scales = gamma.detach().abs().double().cpu().numpy()
            scores += per_unit(scales, axes[0], coupling.count)
            places += per_unit(np.ones_like(scales), axes[0], coupling.count)
        if not places.any():
            raise ConfigError(
                "criterion 'bn_scale' needs batch norms with learned scales, and no unit of this network has one: "
                "choose another, such as 'taylor' or 'magnitude'"
            )
        scores[places == 0] = scores.max()
        return Scores(units=scores)
