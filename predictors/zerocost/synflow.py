"""Synaptic flow: the product of absolute weights along all paths, which needs no data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .probe import Probe, gradients
from .scores import register_score

_NORMALISATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@register_score("synflow")
def synflow(probe: Probe) -> float:
    """`log(1 + sum |w| * dR/d|w|)` with R the sum of outputs for an input of ones, all weights being absolute
    (Tanaka et al. 2020, equations 1 and 2; summed as in Abdelfattah et al. 2021).

    In double precision, without normalisations. The logarithm, because values span tens of orders of magnitude; it
    changes no order. w are kernels and matrices. 0 where no path leads from the input to the output.
    """
    leaves = {name: _absolute(p).requires_grad_(name in probe.weights) for name, p in probe.parameters.items()}
    ones = torch.ones(1, *probe.images.shape[1:], dtype=torch.float64, device=probe.images.device)
    with _without_normalisation(probe.network):
        total = probe.run(ones, leaves, _absolute).sum()
    flow = gradients(total, {name: leaves[name] for name in probe.weights})
    return math.log1p(sum(float((leaves[name].detach() * g).sum()) for name, g in flow.items()))


def _absolute(tensor: Tensor) -> Tensor:
    """A copy; of floats the magnitudes, in double precision."""
    return tensor.detach().double().abs() if tensor.is_floating_point() else tensor.clone()


def _same(x: Tensor) -> Tensor:
    return x


@contextmanager
def _without_normalisation(network: nn.Module) -> Iterator[None]:
    """Normalisations hand on what they get; their own `forward` comes back afterwards."""
    modules = [module for module in network.modules() if isinstance(module, _NORMALISATIONS)]
    before = [vars(module).get("forward") for module in modules]
    try:
        for module in modules:
            vars(module)["forward"] = _same
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = forward
