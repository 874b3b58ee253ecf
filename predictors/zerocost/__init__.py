"""Zero-cost scores: what an untrained network tells of its accuracy, from one mini-batch.

Names: `grad_norm`, `jacob_cov`, `nwot`, `snip`, `synflow`, `zico`; `register_score` adds further ones.
"""

from . import gradients, jacob_cov, nwot, synflow, zico  # noqa: F401
from .predictor import ZeroCostPredictor, ZeroCostSettings
from .probe import Probe
from .scorer import ZeroCostScorer, noise_batch, untrained
from .scores import Score, register_score, scores, zero_cost

__all__ = [
    "Probe",
    "Score",
    "ZeroCostPredictor",
    "ZeroCostScorer",
    "ZeroCostSettings",
    "noise_batch",
    "register_score",
    "scores",
    "untrained",
    "zero_cost",
]
