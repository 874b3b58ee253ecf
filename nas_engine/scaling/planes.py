"""Costs over two dimensions at once, through the last member: where networks of equal arithmetic or time lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from search_spaces.errors import GraphError, SpaceError
from search_spaces.scaling import DIMENSIONS, Scaling

from .base import Base
from .costing import Coster

PLANES = (("width", "resolution"), ("width", "depth"))
DRAWN = ("macs", "latency_ms")
_MARGIN = 1.08  # beyond the members, as a factor
_NARROW = 1.25  # half of the extent, as a factor, along a dimension in which the members do not differ


def axes(scalings: Iterable[Scaling], points: int) -> dict[str, list[float]]:
    """Multipliers of each dimension that reach a little beyond those of the members, evenly apart in logarithms."""
    every = [Scaling(), *scalings]
    found = {}
    for name in DIMENSIONS:
        values = [getattr(s, name) for s in every]
        low, high = min(values), max(values)
        low, high = (low / _NARROW, high * _NARROW) if high / low < _MARGIN else (low / _MARGIN, high * _MARGIN)
        found[name] = [round(v, 6) for v in np.geomspace(low, high, points).tolist()]
    return found


def corners(through: Scaling, along: dict[str, list[float]]) -> list[Scaling]:
    """The corners of the planes, for a latency model to be measured on."""
    ends = {name: (values[0], values[-1]) for name, values in along.items()}
    return [replace(through, **{x: a, y: b}) for x, y in PLANES for a in ends[x] for b in ends[y]]


def planes(
    base: Base, costs: Coster, through: Scaling, along: dict[str, list[float]], tell: Callable[[int, int], None]
) -> dict[str, Any]:
    """Costs on each plane.

    Args:
        through: a member that all planes go through.
        along: multipliers of each dimension, see `axes`.
        tell: told the points done, and of how many.

    Returns:
        For each plane `x-y`: the values of its axes and, by cost, rows of y holding columns of x; None where there is
        no such network.
    """
    found: dict[str, Any] = {}
    total, done = sum(len(along[x]) * len(along[y]) for x, y in PLANES), 0
    for x, y in PLANES:
        surface: dict[str, list[list[float | None]]] = {name: [] for name in DRAWN}
        for b in along[y]:
            rows = [_costs(base, costs, replace(through, **{x: a, y: b})) for a in along[x]]
            for name in DRAWN:
                surface[name].append([row.get(name) for row in rows])
            done += len(rows)
            tell(done, total)
        found[f"{x}-{y}"] = {"x": x, "y": y, x: along[x], y: along[y], **surface}
    return found


def _costs(base: Base, costs: Coster, scaling: Scaling) -> dict[str, float]:
    try:
        return costs(base.scaled(scaling))
    except (SpaceError, GraphError):
        return {}
