"""Pruning criteria: one small file a method, all behind one streaming contract."""

from .base import Criterion, Scores, criteria, register_criterion, score

__all__ = ["Criterion", "Scores", "criteria", "register_criterion", "score"]
