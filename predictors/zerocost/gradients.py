"""Scores from the gradients of the loss over one batch: their size, and their size times that of the weights."""

from __future__ import annotations

from .probe import Probe
from .scores import register_score


@register_score("snip")
def snip(probe: Probe) -> float:
    """`sum |w * dL/dw|`, the connection sensitivity of Lee et al. 2019, summed over weights (Abdelfattah et al. 2021,
    equations 1 and 2).

    w are the tensors of two and more axes: kernels and matrices, no biases and no gains of normalisations.
    """
    gradients = probe.weight_gradients()
    return sum(float((probe.parameters[name] * g).abs().sum()) for name, g in gradients.items())


@register_score("grad_norm")
def grad_norm(probe: Probe) -> float:
    """`sum_l ||dL/dw_l||_2` over kernels and matrices w_l (Abdelfattah et al. 2021, section 3.2.1)."""
    return sum(float(g.norm()) for g in probe.weight_gradients().values())
