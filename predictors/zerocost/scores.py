"""The registry of zero-cost scores, and the one function that computes several of a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search_spaces.errors import ConfigError
from search_spaces.registry import Registry

from .probe import Probe


@dataclass(frozen=True, slots=True)
class Score:
    """A zero-cost score of one network.

    Attributes:
        value: higher is better; not finite where the network cannot be scored.
        seconds: CPU seconds it took, shared passes in full: what the score would take by itself.
    """

    value: float
    seconds: float


Compute = Callable[[Probe], float]
scores: Registry[Compute] = Registry("zero-cost score", ConfigError)


def register_score(name: str) -> Callable[[Compute], Compute]:
    """Decorator: files a function of a `Probe`, higher is better, under `name`."""
    return scores.register(name)


def zero_cost(network: nn.Module, images: Tensor, labels: Tensor, names: Sequence[str] = ("nwot",)) -> dict[str, Score]:
    """Zero-cost scores of an untrained network; the network is left as it was, its gradients too.

    Args:
        network: any module from images to logits, as a rule a `search_spaces.Network`.
        images: float `(N, C, H, W)`, one mini-batch.
        labels: int64 `(N,)`.
        names: of registered scores.

    Raises:
        ConfigError: an unknown score, with the nearest name.
        DataError: images and labels that do not fit together or the network.
    """
    computes = {name: scores[name] for name in names}
    probe = Probe(network, images, labels)
    found = {}
    for name, compute in computes.items():
        probe.reused, started = 0.0, time.process_time()
        with torch.inference_mode(False), torch.enable_grad():
            value = float(compute(probe))
        found[name] = Score(value, time.process_time() - started + probe.reused)
    return found
