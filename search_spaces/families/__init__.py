"""Families of efficient networks, as their papers print them: published members, and a space around each."""

from . import efficientnet, mobilenet, regnet, resnet, shufflenet  # noqa: F401
from .family import Family, Member, families, file_family, published, published_state, skeleton
from .skeleton import Row, Skeleton
from .space import FamilySpace

__all__ = [
    "Family",
    "FamilySpace",
    "Member",
    "Row",
    "Skeleton",
    "families",
    "file_family",
    "published",
    "published_state",
    "skeleton",
]
