"""`load_graph`: specification to `GraphSplits`.

Read, check, make features, split: the same four steps whatever the source. The edges stay as they came, unless they are
asked to lead both ways; what is odd about them is told. The test part never depends on the seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from search_spaces.errors import ConfigError, DataError, did_you_mean

from . import graph_named, graph_sources  # noqa: F401  (they file themselves in GRAPH_SOURCES)
from .checks import one_line
from .graphs import IGNORED, GraphSplits, NodeSet
from .sources import GRAPH_SOURCES, GraphRequest, RawGraph
from .splits import fingerprint, stratified

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS = ("train", "validation", "test")
TEST_FRACTION = 0.2  # where a source has no test part
TEST_KEY, LIMIT_KEY, VALIDATION_KEY = 1, 2, 3  # keep the three draws apart
FEATURES = ("auto", "rows", "columns", "raw")
Features = Literal["auto", "rows", "columns", "raw"]
Labels = Literal["one", "several"]


def load_graph(
    source: str,
    *,
    target: str | None = None,
    labels: Labels | None = None,
    validation: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
    features: Features = "auto",
    undirected: bool = False,
    root: Path | None = None,
    parts: int = 1,
    view_parts: int = 1,
    views: int = 1,
    neighbours: Sequence[int] = (),
) -> GraphSplits:
    """Read a graph whose nodes have classes or labels, and split the nodes.

    Args:
        source: `graph:FILE.npz`, `digits-knn`, `planetoid:NAME`, `pyg:CLASS` or `pyg:CLASS/NAME`, `ogb:NAME`.
        target: the array of labels in a file; None for `y`.
        labels: `one` class a node, or `several` labels; None to see by their shape.
        validation: share of the training nodes that becomes the validation part where the source has none.
        seed: draws that part, and the limited training part; never the test part.
        limit: use only so many training nodes, in the proportions of the classes; of those that validation is split
            off from, where it is.
        features: `rows` divides the features of each node by their sum, `columns` takes each feature to mean 0 and
            deviation 1 over all nodes, `raw` does neither; `auto` is rows for bags of words, else raw.
        undirected: let all edges lead both ways; those that are doubled then become one.
        root: folder of downloaded sets; None for the user's cache directory.
        parts, view_parts, views, neighbours: see `GraphSplits`.

    Raises:
        ConfigError: an argument out of its range, or that does not go with the graph.
        DataError: an unknown source, or a graph that is missing, broken or inconsistent.

    >>> data = load_graph("digits-knn")
    >>> data.input_shape, data.edges, len(data.train), len(data.validation), len(data.test)
    ((1797, 64), 19858, 1150, 288, 359)
    """
    _check_arguments(validation, seed, limit, features)
    raw = _read(source.strip(), target, root)
    raw = _checked(raw)
    several = raw.labels.ndim == 2
    if labels is not None and several != (labels == "several"):
        have, write = ("several labels", "several") if several else ("one class", "one")
        raise ConfigError(f"a node of {raw.title} has {have}: leave data.labels out, or write {write}")
    raw = _bidirectional(raw) if undirected else raw
    raw = _with_features(raw, features)
    raw = replace(raw, notes=(*raw.notes, *_oddities(raw)))
    classes = _classes(raw)
    nodes, told = _divided(raw, len(classes), validation, seed, limit)
    raw = replace(raw, notes=(*raw.notes, *told, *_judged(raw, nodes, len(classes))))
    return _splits(raw, nodes, classes, source.strip()).walked(parts, view_parts, views, neighbours)


def _check_arguments(validation: float, seed: int, limit: int | None, features: str) -> None:
    if not 0 < validation < 1:
        raise ConfigError(f"validation must be a fraction between 0 and 1, but is {validation}: 0.2 is usual")
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, but is {seed}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be a number of training nodes, 1 or more, but is {limit}")
    if features not in FEATURES:
        raise ConfigError(f"unknown way to scale features {features!r}: {did_you_mean(features, FEATURES)}")


def _read(source: str, target: str | None, root: Path | None) -> RawGraph:
    kind, _, argument = source.partition(":")
    if target is not None and kind != "graph":
        raise ConfigError(f"data.target names an array of a file graph:PATH, but the source is {source}; leave it out")
    try:
        return GRAPH_SOURCES[kind](GraphRequest(argument, target, root))
    except OSError as problem:  # permissions, a disk that fails; the sources name what they expect themselves
        raise DataError(f"{source} cannot be read: {one_line(problem)}") from problem


# ---- checks ----------------------------------------------------------------------------------------------


def _checked(raw: RawGraph) -> RawGraph:
    """The same graph with arrays of known types; labels are int64 `(N,)` or float32 `(N, C)` with NaN."""
    labels = _labels(raw.labels, raw.title)
    count = len(labels)
    edges = raw.edges
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.dtype.kind not in "iu":
        raise DataError(
            f"the edges of {raw.title} have shape {edges.shape} and type {edges.dtype}, but whole numbers (2, E) are "
            "needed: from and to"
        )
    if not edges.size:
        raise DataError(f"{raw.title} has no edges: a graph needs some")
    if edges.min() < 0 or edges.max() >= count:
        worst = edges.min() if edges.min() < 0 else edges.max()
        raise DataError(f"an edge of {raw.title} leads to node {worst}, but the nodes are 0 to {count - 1}")
    attributes = raw.attributes
    if attributes is not None:
        attributes = attributes[:, None] if attributes.ndim == 1 else attributes
        attributes = _numbers(attributes, edges.shape[1], f"features of edges of {raw.title}", "edges")
    for name, mask in raw.masks.items():
        if len(mask) != count:
            raise DataError(f"the {name} mask of {raw.title} is for {len(mask):,} nodes, but there are {count:,}")
    return replace(
        raw,
        edges=edges.astype(np.int64),
        labels=labels,
        x=None if raw.x is None else _numbers(raw.x, count, f"features of nodes of {raw.title}", "nodes"),
        attributes=attributes,
    )


def _labels(labels: np.ndarray, title: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or not labels.size or labels.dtype.kind not in "biuf":
        raise DataError(
            f"the labels of {title} have shape {labels.shape} and type {labels.dtype}, but class numbers (N,) or rows "
            "of 0 and 1 (N, C) are needed"
        )
    if labels.ndim == 1:
        numbers = np.where(np.isnan(labels), -1, labels) if labels.dtype.kind == "f" else labels
        whole = numbers.astype(np.int64)
        if (whole != numbers).any() or whole.min() < -1:
            raise DataError(f"classes of {title} are numbered 0, 1, 2, ... with -1 for none; it has others")
        return whole
    several = labels.astype(np.float32)
    if not np.isin(several[~np.isnan(several)], (0, 1)).all():
        raise DataError(f"the labels of {title} have shape {labels.shape}, so each must be 0 or 1; it has others")
    if labels.dtype.kind != "f":
        several[~labels.any(axis=1)] = np.nan
    return several


def _numbers(array: np.ndarray, count: int, what: str, cases: str) -> np.ndarray:
    """(count, F) finite numbers as float32."""
    if array.ndim != 2 or len(array) != count or not array.shape[1] or array.dtype.kind not in "biuf":
        raise DataError(
            f"the {what} have shape {array.shape} and type {array.dtype}, but a row of numbers for each of the "
            f"{count:,} {cases} is needed"
        )
    with np.errstate(over="ignore"):
        narrowed = array.astype(np.float32, copy=False)
    bad = np.flatnonzero(~np.isfinite(narrowed).all(axis=1))
    if len(bad):
        raise DataError(f"the {what} are NaN or infinite in {len(bad):,} rows, first in number {bad[0]}: repair them")
    return narrowed


# ---- edges and features ----------------------------------------------------------------------------------


def _bidirectional(raw: RawGraph) -> RawGraph:
    """The graph with all edges both ways; edges that are then doubled become one, with the mean of their features."""
    import torch
    from torch_geometric.utils import to_undirected

    attributes = None if raw.attributes is None else torch.from_numpy(raw.attributes)
    edges, attributes = to_undirected(torch.from_numpy(raw.edges), attributes, num_nodes=len(raw.labels), reduce="mean")
    note = f"all edges were made to lead both ways, from {raw.edges.shape[1]:,}"
    return replace(
        raw,
        edges=edges.numpy(),
        attributes=None if attributes is None else attributes.numpy(),
        notes=(*raw.notes, note),
    )


def _with_features(raw: RawGraph, asked: str) -> RawGraph:
    """The graph with features of nodes: its own, scaled as asked, or made of its edges."""
    notes: tuple[str, ...] = ()
    if raw.x is None:
        raw, notes = _made_of_edges(raw)
    x = np.asarray(raw.x)
    if asked == "auto":
        asked = "rows" if (x >= 0).all() and np.count_nonzero(x) <= x.size / 5 else "raw"
    if asked == "rows":
        total = x.sum(axis=1, keepdims=True)
        x = np.divide(x, total, out=np.zeros_like(x), where=total != 0)
        notes += ("the features of each node are divided by their sum",)
    elif asked == "columns":
        deviation = x.std(axis=0, dtype=np.float64)
        x = ((x - x.mean(axis=0, dtype=np.float64)) / np.where(deviation > 0, deviation, 1)).astype(np.float32)
        notes += ("each feature has mean 0 and deviation 1 over the nodes",)
    return replace(raw, x=x, notes=(*raw.notes, *notes))


def _made_of_edges(raw: RawGraph) -> tuple[RawGraph, tuple[str, ...]]:
    """Features of nodes from their incoming edges, as is done on ogbn-proteins; the degree where those have none.

    Nothing at all is known of nodes without edges, so they are left out unless a split is given.
    """
    ends, count = raw.edges[1], len(raw.labels)
    degree = np.bincount(ends, minlength=count)
    if raw.attributes is None:
        x, words = np.log1p(degree)[:, None], "log(1 + degree)"
    else:
        sums = [np.bincount(ends, weights=column, minlength=count) for column in raw.attributes.T]
        x, words = np.stack(sums, axis=1) / np.maximum(degree, 1)[:, None], "the mean of those of its incoming edges"
    raw = replace(raw, x=x.astype(np.float32))
    notes: tuple[str, ...] = (f"a node's features are {words}, as it has none of its own",)
    alone = (degree == 0) & _labelled(raw.labels)
    if alone.any() and not raw.masks:
        labels = raw.labels.copy()
        labels[alone] = -1 if labels.ndim == 1 else np.nan
        raw = replace(raw, labels=labels)
        notes += (f"labelled nodes that no edge leads to are left out, as nothing is known of them: {alone.sum():,}",)
    return raw, notes


def _labelled(labels: np.ndarray) -> np.ndarray:
    """(N,) which nodes have a class, or any label that is known."""
    return np.asarray(labels >= 0 if labels.ndim == 1 else ~np.isnan(labels).all(axis=1))


def _oddities(raw: RawGraph) -> list[str]:
    """What is to be said of the edges as they came, and of nodes without features."""
    start, end = raw.edges
    count = len(raw.labels)
    keys = start * count + end
    different = np.unique(keys)
    lonely = int(np.count_nonzero(~np.isin(different, end * count + start)))
    loops, doubled = int(np.count_nonzero(start == end)), len(keys) - len(different)
    isolated = count - len(np.unique(raw.edges))
    blank = int(np.count_nonzero(~np.asarray(raw.x).any(axis=1)))
    told = (
        (lonely, "edges that lead one way only, and stay so: {:,}"),
        (loops, "edges that are loops: {:,}"),
        (doubled, "edges that are doubled: {:,}"),
        (isolated, "nodes without an edge: {:,}"),
        (blank, "nodes whose features are all 0: {:,}"),
    )
    return [words.format(number) for number, words in told if number]


# ---- splits ----------------------------------------------------------------------------------------------


def _classes(raw: RawGraph) -> tuple[str, ...]:
    """The names of classes or labels; every class has nodes."""
    several = raw.labels.ndim == 2
    labelled = raw.labels[_labelled(raw.labels)]
    what = "labels" if several else "classes"
    if not len(labelled):
        raise DataError(f"no node of {raw.title} has a label that can be used")
    found = labelled.shape[1] if several else int(labelled.max()) + 1
    count = found if raw.classes is None else len(raw.classes)
    if (several and count != found) or count < max(2, found):
        raise DataError(f"{raw.title} has {found} {what} and {count} names; at least 2 are needed, and a name for each")
    if not several:
        _require(raw, labelled, count, 1, "at all")
    names = raw.classes or tuple(str(number) for number in range(count))
    if len(set(names)) < count:
        raise DataError(f"two {what} of {raw.title} bear the same name: names must differ")
    return names


def _require(raw: RawGraph, labels: np.ndarray, classes: int, needed: int, why: str) -> None:
    """Every class must have at least so many nodes."""
    sizes = np.bincount(labels, minlength=classes)
    small = np.flatnonzero(sizes < needed)
    if len(small):
        listed = ", ".join(f"{index} ({sizes[index]})" for index in small[:5])
        raise DataError(f"too few nodes of {raw.title} have class {listed}: at least {needed} of each are needed {why}")


@dataclass(frozen=True)
class _Drawing:
    """Draws nodes in the proportions of their classes, or any where they may have several labels."""

    raw: RawGraph
    classes: int

    def drawn(
        self, nodes: np.ndarray, count: int, key: Sequence[int], take: int, leave: int, why: str
    ) -> tuple[np.ndarray, np.ndarray]:
        labels = self.raw.labels[nodes]
        if labels.ndim == 2:
            labels = np.zeros(len(nodes), dtype=np.int64)
            if len(nodes) < take + leave:
                raise DataError(f"{self.raw.title} has {len(nodes)} labelled nodes, too few {why}")
        else:
            _require(self.raw, labels, self.classes, take + leave, why)
        taken, rest = stratified(labels, count, key=key, take=take, leave=leave)
        return nodes[taken], nodes[rest]


def _divided(
    raw: RawGraph, classes: int, validation: float, seed: int, limit: int | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The nodes of each part, ascending, and what is to be said of the division."""
    draw = _Drawing(raw, classes).drawn
    labelled = _labelled(raw.labels)
    given = {name: np.flatnonzero(mask & labelled) for name, mask in raw.masks.items()}
    notes = tuple(
        f"{name} nodes without a label, which do not count: {lost:,}"
        for name, mask in raw.masks.items()
        if (lost := int(np.count_nonzero(mask & ~labelled)))
    )
    if not given:
        count = round(TEST_FRACTION * np.count_nonzero(labelled))
        test, train = draw(np.flatnonzero(labelled), count, (TEST_KEY,), 1, 2, "for training, validation and test")
        given = {"train": train, "test": test}
        notes += (f"a fixed {TEST_FRACTION:.0%} of the labelled nodes were split off as test part",)
    both = np.count_nonzero(np.bincount(np.concatenate(list(given.values()))) > 1)
    if both:
        raise DataError(f"{both:,} nodes of {raw.title} are in two parts at once: masks must not overlap")
    rest = "validation" not in given  # is to come from the training part
    if limit is not None and limit < len(given["train"]):
        who = "training and validation are" if rest else "training is"
        notes += (f"{who} limited to {limit:,} of {len(given['train']):,} nodes",)
        given["train"], _ = draw(given["train"], limit, (LIMIT_KEY, seed), 1 + rest, 0, "for training")
    if rest:
        count = round(validation * len(given["train"]))
        held, kept = draw(given["train"], count, (VALIDATION_KEY, seed), 1, 1, "for training and validation")
        given |= {"train": kept, "validation": held}
        notes += (f"validation was split off training by seed {seed}",)
    return given, notes


def _judged(raw: RawGraph, nodes: dict[str, np.ndarray], classes: int) -> list[str]:
    """Checks that each part can be trained or judged on; what is to be said of labels that cannot."""
    for name in PARTS:
        if not len(nodes[name]):
            raise DataError(f"no node of the {name} part of {raw.title} has a label: give masks with labelled nodes")
    if raw.labels.ndim == 1:
        _require(raw, raw.labels[nodes["train"]], classes, 1, "in the training part")
        return []
    told = []
    for name in PARTS:
        labels = raw.labels[nodes[name]]
        plain = ~((labels == 1).any(axis=0) & (labels == 0).any(axis=0))
        if plain.all():
            raise DataError(f"in the {name} part of {raw.title} no label is both there and not there: nothing to tell")
        if plain.any():
            told.append(f"labels that do not vary in the {name} part, where they do not count: {plain.sum():,}")
    if (np.nansum(raw.labels[_labelled(raw.labels)], axis=1) == 1).all():
        told.append("each node has one label only: as class numbers they would be judged by accuracy")
    return told


def _splits(raw: RawGraph, nodes: dict[str, np.ndarray], classes: tuple[str, ...], source: str) -> GraphSplits:
    """Gathers everything that is known about the parts."""
    import torch

    from search_spaces.inputs import GraphInput

    several = raw.labels.ndim == 2
    arrays = [np.asarray(raw.x), raw.edges, raw.labels, *(nodes[name] for name in PARTS)]
    arrays += [] if raw.attributes is None else [raw.attributes]
    x, edges, labels = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays[:3])
    attributes = None if raw.attributes is None else torch.from_numpy(np.ascontiguousarray(raw.attributes))[None]
    train, validation, test = (NodeSet(torch.from_numpy(nodes[name])) for name in PARTS)
    return GraphSplits(
        graph=GraphInput(x[None], edges[None], attributes),
        labels=labels if several else torch.where(labels < 0, IGNORED, labels),
        train=train,
        validation=validation,
        test=test,
        classes=classes,
        fingerprint=fingerprint(classes, arrays),
        description=_describe(raw, nodes, classes),
        source=source,
    )


def _describe(raw: RawGraph, nodes: dict[str, np.ndarray], classes: tuple[str, ...]) -> str:
    what = "labels" if raw.labels.ndim == 2 else "classes"
    count, features = np.asarray(raw.x).shape
    of_edges = "" if raw.attributes is None else f" with {raw.attributes.shape[1]} features"
    sizes = ", ".join(f"{len(nodes[n]):,} for {w}" for n, w in zip(PARTS, ("training", *PARTS[1:]), strict=True))
    head = (
        f"{raw.title}: a graph of {count:,} nodes with {features:,} features and {raw.edges.shape[1]:,} "
        f"edges{of_edges}; {len(classes):,} {what}; {sizes}"
    )
    return "; ".join((head, *raw.notes)) + "."
