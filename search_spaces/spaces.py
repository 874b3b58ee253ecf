"""The registry of spaces, and making one from its name or a user's file."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .errors import SpaceError, did_you_mean
from .registry import Registry
from .space import SearchSpace

spaces: Registry[type[SearchSpace]] = Registry("space", SpaceError)
register_space = spaces.named
"""Class decorator: files a `SearchSpace` under `name`."""


def make_space(
    name: str, parameters: Mapping[str, Any] | None = None, offered: Mapping[str, Any] | None = None
) -> SearchSpace:
    """The space called `name` with these constructor arguments.

    `name` is a registered name, or `path/to/file.py:name` for a user's file, which is imported first. What is
    `offered` beside them is left out where the space does not take it.

    Raises:
        SpaceError: unknown space, missing file, or an argument the space does not take or lacks.
    """
    if ".py:" in name:
        path, _, name = name.rpartition(":")
        import_file(Path(path))
    cls = spaces[name]
    allowed = inspect.signature(cls).parameters
    parameters = {**{k: v for k, v in (offered or {}).items() if k in allowed}, **(parameters or {})}
    for given in parameters:
        if given not in allowed:
            raise SpaceError(f"space {name!r} takes no {given!r}: {did_you_mean(given, allowed)}")
    missing = [p.name for p in allowed.values() if p.default is p.empty and p.name not in parameters]
    if missing:
        raise SpaceError(f"space {name!r} needs {' and '.join(missing)}; give what it needs beside its name")
    return cls(**parameters)


def import_file(path: Path) -> None:
    """Import a user's Python file, so that what it registers is known."""
    if not path.is_file():
        raise SpaceError(f"no file {str(path)!r}; give the path of the Python file that registers the space")
    _import_version(path.resolve(), path.stat().st_mtime_ns)


@cache
def _import_version(path: Path, changed: int) -> None:
    """Import a file once as it stands: again only after it `changed`, or its names would be taken by themselves."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SpaceError(f"{str(path)!r} is not a Python file")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
