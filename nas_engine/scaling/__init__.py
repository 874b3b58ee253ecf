"""Scaling a network to a device: its family by several rules, with what each member costs, exported and drawn.

`scale` does all of it for a `Request`; the rules themselves are in `search_spaces.scaling`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .request import Request, make_request
    from .work import scale

_LAZY = {"scale": ".work", "Request": ".request", "make_request": ".request"}  # torch is slow to import

__all__ = ["Request", "make_request", "scale"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
