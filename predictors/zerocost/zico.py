"""ZiCo: gradients that are large and alike from batch to batch make training fast and steady."""

from __future__ import annotations

import math

import torch

from search_spaces.errors import DataError

from .probe import Probe
from .scores import register_score

PARTS = 2  # mini-batches, as in the paper


@register_score("zico")
def zico(probe: Probe) -> float:
    """`sum_l log(sum_w mean|g_w| / std(g_w))` over kernels and matrices l (Li et al. 2023).

    Mean and standard deviation run over the gradients of 2 parts of the batch, each computed afresh: the authors'
    program lets gradients add up between batches. The deviation is that of the gradient, as in their program; the paper
    writes that of its magnitude. Weights whose gradient does not vary are left out, and layers of such weights only;
    minus infinity where none is left.

    Raises:
        DataError: fewer than 4 images.
    """
    if len(probe.images) < 2 * PARTS:
        raise DataError(f"zico splits the batch into {PARTS} parts; got {len(probe.images)} images, give 4 or more")
    parts = [
        probe.gradients(images, labels)
        for images, labels in zip(probe.images.chunk(PARTS), probe.labels.chunk(PARTS), strict=True)
    ]
    total, layers = 0.0, 0
    for name in probe.weights:
        gradients = torch.stack([part[name] for part in parts]).double()
        mean, deviation = gradients.abs().mean(0), gradients.std(0, correction=0)
        varies = deviation > 0
        if ratio := float((mean[varies] / deviation[varies]).sum()):
            total, layers = total + math.log(ratio), layers + 1
    return total if layers else float("-inf")
