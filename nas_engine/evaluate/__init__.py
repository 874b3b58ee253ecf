"""Judging networks: accuracy or perplexity of a module, and of supernet members with recalibrated batch norms."""

from .accuracy import Accuracy, accuracy, judge
from .members import MemberScore, MemberScorer

__all__ = ["Accuracy", "MemberScore", "MemberScorer", "accuracy", "judge"]
