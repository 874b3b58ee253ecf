"""Depth, width and resolution of networks as one decision: rules of compound scaling, and scaling of any graph."""

from .builders import Builder, builder, builders, built
from .deepening import Layer, Stage, stages
from .growing import grow
from .rules import DIMENSIONS, Compound, FastCompound, Rounding, Rule, Scaling, Single, grid
from .scale import scale
from .widening import unwidened

__all__ = [
    "DIMENSIONS",
    "Builder",
    "Compound",
    "FastCompound",
    "Layer",
    "Rounding",
    "Rule",
    "Scaling",
    "Single",
    "Stage",
    "builder",
    "builders",
    "built",
    "grid",
    "grow",
    "scale",
    "stages",
    "unwidened",
]
