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
    from .encoding import Encoder, GraphBatch
    from .gcn import GCNPredictor
    from .table import LookupTable, TableWriter, build_rows, merge_parts, pareto, table_metadata

_LAZY = {
    "Encoder": ".encoding",
    "GCNPredictor": ".gcn",
    "GraphBatch": ".encoding",
    "LookupTable": ".table",
    "Predictor": ".base",
    "TableWriter": ".table",
    "build_rows": ".table",
    "load_predictor": ".base",
    "make_predictor": ".base",
    "merge_parts": ".table",
    "pareto": ".table",
    "predictors": ".base",
    "register_predictor": ".base",
    "table_metadata": ".table",
}

__all__ = [
    "Encoder",
    "GCNPredictor",
    "GraphBatch",
    "LookupTable",
    "Predictor",
    "TableWriter",
    "Trust",
    "bootstrap_interval",
    "build_rows",
    "kendall_tau",
    "load_predictor",
    "make_predictor",
    "merge_parts",
    "pareto",
    "predictors",
    "register_predictor",
    "spearman",
    "table_metadata",
    "top_k_precision",
    "top_k_regret",
    "trust",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    thing = getattr(import_module(_LAZY[name], __name__), name)
    if name == "predictors":  # who lists the registry wants it filled
        import_module(".base", __name__).register_built_in()
    return thing
