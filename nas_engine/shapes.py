"""What the data decide of a space: the shape of an input, the number of classes, and of a graph its edges."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from search_spaces import SearchSpace, make_space
from search_spaces.errors import SpaceError

if TYPE_CHECKING:
    from .config import Config
    from .data import Splits

_ALWAYS = ("input_shape", "classes")
_OF_GRAPHS = ("edges", "edge_features")
OF_DATA = (*_ALWAYS, *_OF_GRAPHS)
"""Constructor arguments of spaces that a run fills in."""


def shapes_of(data: Splits) -> dict[str, Any]:
    """What data say to a space."""
    of_graph = {name: int(getattr(data, name)) for name in _OF_GRAPHS if hasattr(data, name)}
    return {"input_shape": tuple(data.input_shape), "classes": len(data.classes), **of_graph}


def space_for(config: Config, shapes: dict[str, Any]) -> SearchSpace:
    """The space of a run whose data are of these shapes; edges are told to spaces that ask for them.

    Raises:
        SpaceError: an unknown space, or one that does not fit.
    """
    given = {name: shapes[name] for name in _ALWAYS}
    offered = {name: shapes[name] for name in _OF_GRAPHS if name in shapes}
    space = make_space(config.space.name, {**given, **config.space.parameters}, offered)
    if offered.get("edge_features") and "edge_features" not in _taken(space):
        raise SpaceError(
            f"space {config.space.name!r} reads no features of edges, and these data have some; take 'gnn'"
        )
    return space


def space_parameters(config: Config, space: SearchSpace) -> dict[str, Any]:
    """Constructor arguments of a run's space: what the data decide, and what the user set."""
    decided = {name: getattr(space, name) for name in OF_DATA if name in _ALWAYS or name in _taken(space)}
    return {**decided, **config.space.parameters}


def _taken(space: SearchSpace) -> Collection[str]:
    """Names of a space's constructor arguments."""
    return inspect.signature(type(space)).parameters
