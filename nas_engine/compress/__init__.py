"""Making a trained network smaller: criteria that score its units, allocators, schedules, and the honest verdict.

`compress` does all of it for a `Request`; the parts are to be had from the modules of this package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compressing import compress
    from .request import Request, make_request

_LAZY = {"compress": ".compressing", "Request": ".request", "make_request": ".request"}  # torch is slow to import

__all__ = ["Request", "compress", "make_request"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
