"""The work of each stage of a run: a function from the run's context to a summary for `done.json`."""

from .baselines import baselines, check_baselines, is_answered
from .choosing import choose
from .delivery import export, export_one, report
from .device import device, profile
from .inheriting import fingerprint
from .learning import predict, sample, supernet, table
from .searching import search

__all__ = [
    "baselines",
    "check_baselines",
    "choose",
    "device",
    "export",
    "export_one",
    "fingerprint",
    "is_answered",
    "predict",
    "profile",
    "report",
    "sample",
    "search",
    "supernet",
    "table",
]
