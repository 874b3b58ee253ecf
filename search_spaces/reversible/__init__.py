"""Deep networks trained in the memory of one layer."""

from .coupling import Layers, Piece, couple, reversible, uncouple
from .equilibrium import Equilibrium, Solution, Solver
from .modules import PerGroup, Reversible
from .replay import Replay

__all__ = [
    "Equilibrium",
    "Layers",
    "PerGroup",
    "Piece",
    "Replay",
    "Reversible",
    "Solution",
    "Solver",
    "couple",
    "reversible",
    "uncouple",
]
