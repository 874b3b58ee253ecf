"""The one YAML file of a run: typed, with unknown keys refused and a did-you-mean.

Sections follow the stages of a run. What a stage depends on is the sections that it names (see `pipeline`),
so a change that only concerns later stages does not repeat earlier ones.
"""

from .baselines import Baseline
from .data import Data
from .optimizer import Optimizer
from .reading import load_config, make_config, name_from, parse_config
from .sections import (
    COSTS,
    METRICS,
    Bound,
    Config,
    Rounds,
    Sample,
    Search,
    Segments,
    Supernet,
)

__all__ = [
    "COSTS",
    "METRICS",
    "Baseline",
    "Bound",
    "Config",
    "Data",
    "Optimizer",
    "Rounds",
    "Sample",
    "Search",
    "Segments",
    "Supernet",
    "load_config",
    "make_config",
    "name_from",
    "parse_config",
]
