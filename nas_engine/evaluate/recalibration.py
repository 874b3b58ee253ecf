"""Batch-norm statistics taken anew from some batches: of use after anything that changed what the norms see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def recalibrate(network: nn.Module, batches: Iterable[Any]) -> None:
    """Replace the batch-norm statistics of a network by those of batches of inputs, each weighted equally.

    All else runs in evaluation mode, so that dropouts and random masks do not disturb the statistics. Modes and momenta
    are restored. A network without such statistics, or no batches, changes nothing.

    Shapes:
        batches: `(B, C, H, W)` each, or graphs, as the network takes them, on its device.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    walk = iter(batches)
    first = next(walk, None)
    if not norms or first is None:
        return
    modes = {module: module.training for module in network.modules()}
    momenta = [norm.momentum for norm in norms]
    network.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over the batches
            norm.train()
        with torch.no_grad():
            network(first)
            for inputs in walk:
                network(inputs)
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
