"""Correlation of the input gradients of a batch: a network that tells images apart has uncorrelated ones."""

from __future__ import annotations

import torch

from .probe import Probe
from .scores import register_score

_SMALL = 1e-5  # k of the paper


@register_score("jacob_cov")
def jacob_cov(probe: Probe) -> float:
    """`-sum_i [log(v_i + k) + 1 / (v_i + k)]`, first version of Mellor et al. (arXiv 2006.04647v1), as in
    Abdelfattah et al. 2021; k = 1e-5.

    v are the eigenvalues of the correlations between the rows of the Jacobian, a row being the gradient of the sum of
    an image's logits by its pixels. Not a number where a row is constant: nothing of the input arrives.
    """
    jacobian = probe.input_gradients().double()
    rows = jacobian - jacobian.mean(1, keepdim=True)
    length = rows.norm(dim=1, keepdim=True)
    if not bool(torch.isfinite(length).all() and (length > 0).all()):
        return float("nan")
    rows = rows / length
    values = torch.linalg.eigvalsh(rows @ rows.mT).clamp_(min=0) + _SMALL
    return -float((values.log() + 1 / values).sum())
