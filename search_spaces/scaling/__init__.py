"""Depth, width and resolution of networks as one decision: rules of compound scaling, and scaling of any graph."""

from .rules import DIMENSIONS, Compound, FastCompound, Rounding, Rule, Scaling, Single, grid

__all__ = ["DIMENSIONS", "Compound", "FastCompound", "Rounding", "Rule", "Scaling", "Single", "grid"]
