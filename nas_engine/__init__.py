"""Neural architecture search and scaling: from data, a device and a budget to trained, exported, verified networks.

>>> import nas_engine
>>> run = nas_engine.search("examples/digits.yaml")  # doctest: +SKIP
>>> run.query("latency_ms < 0.5", sort="accuracy")  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Config, load_config
    from .run import Run, search

_LAZY = {"Config": ".config", "load_config": ".config", "Run": ".run", "search": ".run"}

__all__ = ["Config", "Run", "load_config", "search"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
