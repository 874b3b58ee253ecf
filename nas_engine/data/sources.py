"""Kinds of data sources: a function from a request to raw arrays, filed by name in `SOURCES`.

A specification is `KIND:ARGUMENT` or the bare name of a set. A source only reads; checking, splitting and
statistics are the same for all of them and live in load.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.errors import DataError
from search_spaces.registry import Registry

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Request:
    """What a source is asked for.

    Attributes:
        argument: the part of the specification behind the colon; "" where there is none.
        root: folder for downloaded sets; None for the user's cache directory.
        image_size: side in pixels that the images should be resized to while they are read, where reading them at
            full size would cost memory; arrays may be returned at their own size, load.py resizes them.
    """

    argument: str
    root: Path | None = None
    image_size: int | None = None


@dataclass(frozen=True, eq=False)
class RawImages:
    """What a source returns.

    Shapes:
        train_x, test_x: (N, C, H, W) uint8 or float32; train_y, test_y: (N,) integers.

    Attributes:
        title: what the data is, for the description.
        test_x, test_y: None where the source has no test part; one is split off then.
        classes: class names in label order; None to call the classes by their numbers.
        flip: whether a mirrored image keeps its class; None to go by colour.
        notes: sentences for the description: what was left out or assumed.
    """

    title: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray | None = None
    test_y: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    flip: bool | None = None
    notes: tuple[str, ...] = ()


Source = Callable[[Request], RawImages]

SOURCES: Registry[Source] = Registry("kind of data source", DataError)


@dataclass(frozen=True, eq=False)
class RawText:
    """What a source of text returns: the lines of its parts, without their ends.

    Attributes:
        title: what the text is, for the description.
        notes: sentences for the description.
    """

    title: str
    train: list[str]
    valid: list[str]
    test: list[str]
    notes: tuple[str, ...] = ()


TEXT_SOURCES: Registry[Callable[[Request], RawText]] = Registry("kind of text", DataError)


@dataclass(frozen=True, eq=False)
class RawGraph:
    """What a source of graphs returns: one graph, of whose nodes some have labels.

    Shapes:
        edges: (2, E) integers, from and to, in the order and with the directions of the source.
        labels: (N,) class numbers, -1 for none; or (N, C), 0 or 1 for each of several labels. There, a row of whole
            numbers that are all 0 is a node that nobody has looked at; of floats NaN is what nobody has looked at.
        x: (N, F) features of nodes; None where there are none.
        attributes: (E, D) features of edges; None where there are none.
        masks: (N,) bool by `train`, `validation` and `test`: none of them, the first and last, or all three.

    Attributes:
        title: what the graph is, for the description.
        classes: names of the classes or labels; None to call them by their numbers.
        notes: sentences for the description.
    """

    title: str
    edges: np.ndarray
    labels: np.ndarray
    x: np.ndarray | None = None
    attributes: np.ndarray | None = None
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class GraphRequest:
    """What a source of graphs is asked for.

    Attributes:
        argument: the part of the specification behind the colon; "" where there is none.
        target: the array of labels in a file of one's own; None for `y`.
        root: folder for downloaded sets; None for the user's cache directory.
    """

    argument: str
    target: str | None = None
    root: Path | None = None


GRAPH_SOURCES: Registry[Callable[[GraphRequest], RawGraph]] = Registry("kind of graph", DataError)


@SOURCES.register("digits")
def read_digits(request: Request) -> RawImages:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey, 0..1 float32; part of the package, nothing is downloaded."""
    if request.argument:
        raise DataError(f"digits takes nothing behind the colon, but got {request.argument!r}: write 'digits'")
    import numpy as np
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)[:, None]  # 17 grey levels, exact in float32
    names = tuple(str(name) for name in bunch.target_names)
    return RawImages("scikit-learn digits", images, bunch.target.astype(np.int64), classes=names, flip=False)
