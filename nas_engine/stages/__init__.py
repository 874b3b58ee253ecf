"""The work of each stage of a run: a function from the run's context to a summary for `done.json`."""

from .choosing import choose
from .delivery import export, export_one, report
from .device import device, profile
from .inheriting import fingerprint
from .learning import predict, sample, supernet, table
from .searching import search

__all__ = [
    "choose",
    "device",
    "export",
    "export_one",
    "fingerprint",
    "predict",
    "profile",
    "report",
    "sample",
    "search",
    "supernet",
    "table",
]
