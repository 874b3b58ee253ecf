"""Judging networks: accuracy or perplexity of a module, and of supernet members with recalibrated batch norms."""

from .accuracy import Accuracy, accuracy, judge
from .members import MemberScore, MemberScorer
from .recalibration import recalibrate

__all__ = ["Accuracy", "MemberScore", "MemberScorer", "accuracy", "judge", "recalibrate"]
