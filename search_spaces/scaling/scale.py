"""One function that scales whatever a network is given as: a graph, a table, a published name, a member, a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from ..errors import SpaceError
from ..graph import Graph, Shape
from .builders import builder, built
from .growing import grow
from .rules import Rounding, Scaling

if TYPE_CHECKING:
    from ..families.skeleton import Skeleton
    from ..network import Network
    from ..space import Architecture, SearchSpace

    Base = Graph | Skeleton | str | tuple[SearchSpace, Architecture]

_LIBRARY_IMAGES: Shape = (3, 224, 224)
_SMALL_IMAGES: Shape = (3, 32, 32)


def scale(
    base: Base,
    depth: float = 1,
    width: float = 1,
    resolution: float = 1,
    *,
    rounding: Rounding | None = None,
    input_shape: Sequence[int] | None = None,
    classes: int | None = None,
) -> Graph:
    """The graph of a network with multiplied depth, width and resolution.

    Args:
        base: what is scaled.

            - a `Skeleton`, or the published name of one (`efficientnet_b0`): its table is scaled;
            - `(space, architecture)`: by `SearchSpace.scaled`;
            - a model as `load_model` takes it (`timm:resnet18`, `resnet20`, `file.py:function`, a bundle): by the
              multipliers of its library's builder, where it takes them (see `builders`), else its graph is grown;
            - a `Graph`: it is grown; see `grow`.
        depth: multiplier, as are `width` and `resolution`; 1 leaves a dimension as it is.
        rounding: by default that of the table, or `Rounding()`. Builders and spaces round by rules of their own.
        input_shape: of the base; by default as published, or 224 pixels for models of libraries and 32 for others.
        classes: by default as published, or 1000 for models of libraries and 10 for others.

    Raises:
        SpaceError: a multiplier that is none, a network that cannot follow, or an argument that a base does not take.
        ConfigError: a model that cannot be loaded.
        GraphError: images that are too small for the network.
    """
    from ..families.family import published, skeleton
    from ..families.skeleton import Skeleton

    scaling = Scaling(depth, width, resolution)
    if isinstance(base, str) and base in published():
        base = skeleton(base)
    if isinstance(base, Skeleton):
        return _of_table(base, scaling, rounding, input_shape, classes)
    if isinstance(base, str):
        return _of_model(base, scaling, rounding, input_shape, classes)
    if isinstance(base, Graph):
        return grow(_as_given(base, input_shape, classes), scaling, rounding)
    if input_shape is not None or classes is not None:
        raise SpaceError("a member of a space has the images and classes of its space; give neither")
    space, architecture = base
    if rounding is not None:
        raise SpaceError(f"space {space.name!r} rounds by its own rule; leave the rounding out, or grow the graph")
    return space.scaled(architecture, scaling)


def _as_given(graph: Graph, input_shape: Sequence[int] | None, classes: int | None) -> Graph:
    """The graph, whose images and classes cannot be others."""
    images, results = graph.inputs[0].shape, graph[graph.outputs[0]].shape[0]
    if input_shape is not None and tuple(input_shape) != images:
        raise SpaceError(f"the network is for images of {images}, not {tuple(input_shape)}; scale its resolution")
    if classes is not None and classes != results:
        raise SpaceError(f"the network tells {results} classes, not {classes}; leave the classes out")
    return graph


def _of_table(
    base: Skeleton, scaling: Scaling, rounding: Rounding | None, input_shape: Sequence[int] | None, classes: int | None
) -> Graph:
    channels = 3
    if input_shape is not None:
        channels, height, width = input_shape
        if height != width:
            raise SpaceError(f"{base.name!r} is scaled for square images; got {height}x{width}")
        base = replace(base, resolution=height)
    scaled = base.scaled(scaling, rounding)
    return scaled.graph((channels, scaled.resolution, scaled.resolution), classes)


def _of_model(
    text: str, scaling: Scaling, rounding: Rounding | None, input_shape: Sequence[int] | None, classes: int | None
) -> Graph:
    """By the builder's multipliers as far as it takes them; the images are of the other size from the start."""
    from pathlib import Path

    if Path(text).is_dir():
        return grow(_as_given(_bundled(text), input_shape, classes), scaling, rounding)
    library = _of_library(text)
    channels, *sides = input_shape or (_LIBRARY_IMAGES if library else _SMALL_IMAGES)
    how = rounding or Rounding()
    shape = (int(channels), *(how.resolution(int(n), scaling.resolution) for n in sides))
    found = builder(text) if library else None
    taken = {name: getattr(scaling, name) for name in (found.takes if found else ())}
    rest = {name: getattr(scaling, name) for name in ("depth", "width") if name not in taken}
    of = classes if classes is not None else (1000 if library else 10)
    graph = (_library_graph if library else _graph)(text, Scaling(**taken), shape, of)
    return grow(graph, Scaling(**rest), rounding)


def _bundled(directory: str) -> Graph:
    """The graph of an exported network."""
    from ..models import load_model

    return cast("Network", load_model(directory)).graph


def _of_library(text: str) -> bool:
    """Whether a text names a model of a library, rather than a registered one or a file."""
    from ..models.classics import models

    library, colon, _ = text.rpartition(":")
    return library in ("timm", "torchvision") or not (colon or text in models)


def _graph(text: str, scaling: Scaling, shape: Shape, classes: int) -> Graph:
    """The graph of a model, built by its library with these multipliers if there are any."""
    import torch

    from ..models import load_model
    from ..trace import trace

    with torch.random.fork_rng(devices=[]):  # weights are drawn and thrown away
        if scaling == Scaling():
            module = load_model(text, input_shape=shape, classes=classes)
        else:
            module = built(text, scaling, input_shape=shape, classes=classes)
    return trace(module, torch.zeros(1, *shape))


@lru_cache(maxsize=32)
def _library_graph(text: str, scaling: Scaling, shape: Shape, classes: int) -> Graph:
    return _graph(text, scaling, shape, classes)
