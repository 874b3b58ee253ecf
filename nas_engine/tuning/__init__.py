"""Searching with Ray and Optuna: long-lived actors, samplers, and the trials that train candidates.

`search(SearchJob(...))` runs or continues a search, `read_trials(directory)` reads one; `score_members` and
`build_table` spread work over actors; `samplers` (`GuidedSampler` and others) are ordinary Optuna samplers. Nothing of
Ray or Optuna is imported before one of these is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .history import TrialSummary, read_trials
from .hypervolume import Hypervolume, read_hypervolume

if TYPE_CHECKING:
    from .baselines import BaselineJob, train_baselines
    from .conductor import SearchJob, SearchOutcome
    from .members import MemberJob, score_members
    from .sampling import (
        EvolutionSampler,
        GuidedSampler,
        LocalSampler,
        NAOSampler,
        PredictedSampler,
        SamplerSettings,
        SpaceSampler,
        architecture_of,
        distributions,
        make_sampler,
        samplers,
    )
    from .simulation import recorded, search_recorded
    from .tables import TableJob, build_table
    from .trials import search

_LAZY = {
    "BaselineJob": ".baselines",
    "EvolutionSampler": ".sampling",
    "GuidedSampler": ".sampling",
    "LocalSampler": ".sampling",
    "MemberJob": ".members",
    "NAOSampler": ".sampling",
    "PredictedSampler": ".sampling",
    "SamplerSettings": ".sampling",
    "SearchJob": ".conductor",
    "SearchOutcome": ".conductor",
    "SpaceSampler": ".sampling",
    "TableJob": ".tables",
    "architecture_of": ".sampling",
    "build_table": ".tables",
    "distributions": ".sampling",
    "make_sampler": ".sampling",
    "recorded": ".simulation",
    "samplers": ".sampling",
    "score_members": ".members",
    "search": ".trials",
    "search_recorded": ".simulation",
    "train_baselines": ".baselines",
}

__all__ = [
    "BaselineJob",
    "EvolutionSampler",
    "GuidedSampler",
    "Hypervolume",
    "LocalSampler",
    "MemberJob",
    "NAOSampler",
    "PredictedSampler",
    "SamplerSettings",
    "SearchJob",
    "SearchOutcome",
    "SpaceSampler",
    "TableJob",
    "TrialSummary",
    "architecture_of",
    "build_table",
    "distributions",
    "make_sampler",
    "read_hypervolume",
    "read_trials",
    "recorded",
    "samplers",
    "score_members",
    "search",
    "search_recorded",
    "train_baselines",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
