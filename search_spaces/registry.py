"""One registry for every extension point: operators, spaces, predictors, cost models, samplers, data sets."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from .errors import ConfigError, EngineError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things, filled by a decorator.

    Args:
        kind: what the things are called in messages ("operator", "space", ...).
        error: the exception raised for an unknown name.

    >>> shapes = Registry("shape")
    >>> @shapes.register("square")
    ... def square(): ...
    >>> shapes.names()
    ['square']
    """

    def __init__(self, kind: str, error: type[EngineError] = ConfigError) -> None:
        self.kind = kind
        self._error = error
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files a thing under `name`; warns when the name is taken by another thing."""

        def file(entry: T) -> T:
            if name in self._entries and self._entries[name] is not entry:
                warnings.warn(f"{self.kind} {name!r} is registered twice; the later one is used", stacklevel=2)
            self._entries[name] = entry
            return entry

        return file

    def named(self, name: str) -> Callable[[T], T]:
        """Class decorator that files a class under `name`, which becomes its attribute `name`."""

        def file(cls: T) -> T:
            cls.name = name  # type: ignore[attr-defined]
            return self.register(name)(cls)

        return file

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise self._error(f"unknown {self.kind} {name!r}: {did_you_mean(name, self._entries)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def names(self, pattern: str = "*") -> list[str]:
        """The registered names that match a shell pattern, sorted."""
        return sorted(fnmatch.filter(self._entries, pattern))

    def items(self) -> list[tuple[str, T]]:
        return [(name, self._entries[name]) for name in self.names()]
