"""Pruning criteria: one small file a method, all behind one streaming contract."""

from .agreement import Agreement, Correlation, Curve, ablation, agree, correlate, layerwise
from .base import Criterion, Scores, criteria, register_criterion, score
from .bn_scale import BNScale
from .chance import Random
from .chip import Chip
from .hrel import HRel
from .layerprune import LayerPrune
from .lean import Lean, OperatorNorm
from .magnitude import Magnitude
from .oracle import Oracle
from .shapley import Shapley
from .taylor import Taylor

__all__ = [
    "Agreement",
    "BNScale",
    "Chip",
    "Correlation",
    "Criterion",
    "Curve",
    "HRel",
    "LayerPrune",
    "Lean",
    "Magnitude",
    "OperatorNorm",
    "Oracle",
    "Random",
    "Scores",
    "Shapley",
    "Taylor",
    "ablation",
    "agree",
    "correlate",
    "criteria",
    "layerwise",
    "register_criterion",
    "score",
]
