"""Neural architecture search without training: how differently the rectifiers see the images of a batch."""

from __future__ import annotations

import torch

from .probe import Probe
from .scores import register_score


@register_score("nwot")
def nwot(probe: Probe) -> float:
    """`log |K_H|`, equations 1 and 2 of Mellor et al. 2021 (NASWOT).

    `K_H[i, j]` is the number of units of all rectifiers less the Hamming distance of their binary codes for the images
    i and j. Minus infinity where two images have the same code, as in a network that does not pass its input on.
    """
    sign, logarithm = torch.linalg.slogdet(probe.agreement())
    return float(logarithm) if sign > 0 else float("-inf")
