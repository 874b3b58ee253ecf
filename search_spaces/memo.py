"""A bounded memory of what a method gave, which travels empty to other processes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Memo(Generic[T]):
    """A function of one hashable argument whose last `size` results are kept."""

    def __init__(self, function: Callable[[Any], T], size: int = 4096) -> None:
        self._function, self._size = function, size
        self._known: OrderedDict[Hashable, T] = OrderedDict()

    def __call__(self, key: Hashable) -> T:
        if key not in self._known:
            self._known[key] = self._function(key)
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return Memo, (self._function, self._size)
