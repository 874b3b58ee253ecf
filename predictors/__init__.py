"""What a network will score and what it costs: predictors, rank statistics, the lookup table, and `cost/`.

Importing this package imports neither torch nor DuckDB; a predictor's module does when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .ranking import (
    Trust,
    bootstrap_interval,
    kendall_tau,
    spearman,
    top_k_precision,
    top_k_regret,
    trust,
)

if TYPE_CHECKING:
    from .base import Predictor, load_predictor, make_predictor, predictors, register_predictor
    from .boosting import BoostingPredictor
    from .encoding import Encoder, GraphBatch
    from .ensemble import EnsemblePredictor
    from .features import GraphFeatures
    from .gcn import GCNPredictor
    from .gp import GPPredictor
    from .nao import NAOPredictor
    from .ranked import RankPredictor
    from .ridge import RidgePredictor
    from .segments import SegmentSearch, segment_members
    from .table import LookupTable, TableWriter, build_rows, merge_parts, pareto, table_metadata
    from .tokens import Tokens
    from .zerocost import ZeroCostPredictor, ZeroCostScorer, zero_cost

_LAZY = {
    "BoostingPredictor": ".boosting",
    "Encoder": ".encoding",
    "EnsemblePredictor": ".ensemble",
    "GCNPredictor": ".gcn",
    "GPPredictor": ".gp",
    "GraphBatch": ".encoding",
    "GraphFeatures": ".features",
    "LookupTable": ".table",
    "NAOPredictor": ".nao",
    "Predictor": ".base",
    "RankPredictor": ".ranked",
    "RidgePredictor": ".ridge",
    "SegmentSearch": ".segments",
    "TableWriter": ".table",
    "Tokens": ".tokens",
    "ZeroCostPredictor": ".zerocost",
    "ZeroCostScorer": ".zerocost",
    "build_rows": ".table",
    "load_predictor": ".base",
    "make_predictor": ".base",
    "merge_parts": ".table",
    "pareto": ".table",
    "predictors": ".base",
    "register_predictor": ".base",
    "segment_members": ".segments",
    "table_metadata": ".table",
    "zero_cost": ".zerocost",
}

__all__ = [
    "BoostingPredictor",
    "Encoder",
    "EnsemblePredictor",
    "GCNPredictor",
    "GPPredictor",
    "GraphBatch",
    "GraphFeatures",
    "LookupTable",
    "NAOPredictor",
    "Predictor",
    "RankPredictor",
    "RidgePredictor",
    "SegmentSearch",
    "TableWriter",
    "Tokens",
    "Trust",
    "ZeroCostPredictor",
    "ZeroCostScorer",
    "bootstrap_interval",
    "build_rows",
    "kendall_tau",
    "load_predictor",
    "make_predictor",
    "merge_parts",
    "pareto",
    "predictors",
    "register_predictor",
    "segment_members",
    "spearman",
    "table_metadata",
    "top_k_precision",
    "top_k_regret",
    "trust",
    "zero_cost",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    thing = getattr(import_module(_LAZY[name], __name__), name)
    if name == "predictors":  # who lists the registry wants it filled
        import_module(".base", __name__).register_built_in()
    return thing
