"""Judging networks: quality and loss of a module, and of supernet members with recalibrated batch norms."""

from .accuracy import Accuracy, accuracy, judge, roc_auc
from .members import MemberScore, MemberScorer
from .recalibration import recalibrate

__all__ = ["Accuracy", "MemberScore", "MemberScorer", "accuracy", "judge", "recalibrate", "roc_auc"]
