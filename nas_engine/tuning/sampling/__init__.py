"""Samplers: ordinary Optuna samplers over the choices of a space, by name.

`make_sampler(name, SamplerSettings(space, ...))` gives one for any Optuna study whose parameters are
`distributions(space)`; a sampler of one's own subclasses `SpaceSampler` and registers a function with `samplers`.
"""

from .base import (
    REJECTED,
    Costs,
    Limits,
    Prior,
    SamplerSettings,
    SpaceSampler,
    Told,
    architecture_of,
    distributions,
    make_sampler,
    samplers,
    trial_seed,
    where,
)
from .classical import NSGA2, Repeatable
from .evolution import EvolutionSampler
from .guided import GuidedSampler
from .local import LocalSampler
from .nao import NAOSampler
from .predicted import PredictedSampler

__all__ = [
    "NSGA2",
    "REJECTED",
    "Costs",
    "EvolutionSampler",
    "GuidedSampler",
    "Limits",
    "LocalSampler",
    "NAOSampler",
    "PredictedSampler",
    "Prior",
    "Repeatable",
    "SamplerSettings",
    "SpaceSampler",
    "Told",
    "architecture_of",
    "distributions",
    "make_sampler",
    "samplers",
    "trial_seed",
    "where",
]
