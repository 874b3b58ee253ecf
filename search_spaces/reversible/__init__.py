"""Deep networks trained in the memory of one layer."""

from .coupling import Layers, Piece, couple, reversible, uncouple
from .modules import PerGroup, Reversible
from .replay import Replay

__all__ = ["Layers", "PerGroup", "Piece", "Replay", "Reversible", "couple", "reversible", "uncouple"]
