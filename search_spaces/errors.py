"""The exception tree of the engine, and the did-you-mean that its messages share.

Every error a user can cause is an `EngineError` whose message is one line: what came, what is allowed,
and the next step. The command line prints that line and exits with `exit_code`; anything else that
escapes is a defect of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EngineError(Exception):
    """Base of all errors that the input, the machine or the user causes."""

    exit_code = 1


class ConfigError(EngineError):
    """A configuration that cannot be used as it stands."""

    exit_code = 2


class DataError(EngineError):
    """Data that is missing, broken or inconsistent."""

    exit_code = 3


class SpaceError(EngineError):
    """An unknown space, choice or option, or an architecture of another space."""

    exit_code = 2


class GraphError(EngineError):
    """A graph that cannot be built: wrong shapes, unknown operators, broken order."""


class UnsatisfiableError(EngineError):
    """Bounds that no member of the space meets."""

    exit_code = 4


class RunError(EngineError):
    """A run directory that is locked, damaged or belongs to another configuration."""

    exit_code = 5


class ExportError(EngineError):
    """An exported form that does not reproduce the network it was made from."""

    exit_code = 6


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """` did you mean 'x'?` with the allowed names, for the tail of a message.

    >>> did_you_mean("nsga", ["gcn", "nsga2"])
    "did you mean 'nsga2'? (gcn, nsga2)"
    """
    names = sorted(str(a) for a in allowed)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    listed = ", ".join(names) if len(names) <= 40 else ", ".join(names[:40]) + ", ..."
    return f"did you mean {near[0]!r}? ({listed})" if near else f"choose one of: {listed}"
