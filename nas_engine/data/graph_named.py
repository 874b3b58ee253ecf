"""Graphs by name: the data sets of PyTorch Geometric and of the Open Graph Benchmark.

What is on disk already is used without a network; otherwise the library downloads it, one process at a time. Only sets
of one graph whose nodes have classes or labels fit.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.errors import ConfigError, DataError, did_you_mean

from ..files import replacing
from .checks import one_line
from .graph_sources import read_graph
from .named import default_root, patience
from .sources import GRAPH_SOURCES, GraphRequest, RawGraph

PLANETOID = ("Cora", "CiteSeer", "PubMed")
_MASKS = {"train_mask": "train", "val_mask": "validation", "test_mask": "test"}


@GRAPH_SOURCES.register("planetoid")
def read_planetoid(request: GraphRequest) -> RawGraph:
    """A citation graph with its standard split: cora, citeseer or pubmed."""
    found = {name.lower(): name for name in PLANETOID}.get(request.argument.strip().lower())
    if found is None:
        raise DataError(f"unknown citation graph {request.argument!r}: {did_you_mean(request.argument, PLANETOID)}")
    return _of_pyg("Planetoid", found, request.root)


@GRAPH_SOURCES.register("pyg")
def read_pyg(request: GraphRequest) -> RawGraph:
    """A data set of PyTorch Geometric by its class, and its name where the class has several: pyg:Amazon/Computers."""
    kind, _, name = request.argument.strip().partition("/")
    return _of_pyg(kind, name, request.root)


@GRAPH_SOURCES.register("ogb")
def read_ogb(request: GraphRequest) -> RawGraph:
    """A graph of the Open Graph Benchmark with its split: arxiv, proteins, products; needs the extra ogb.

    What was read once is kept as a file of `graph:FILE.npz`: ogb's own copies are pickles, which torch refuses to read.
    """
    name = request.argument.strip().lower()
    name = name if name.startswith("ogbn-") else f"ogbn-{name}"
    root = _folder(request.root)
    kept = root / f"{name}.npz"
    if not kept.is_file():
        _keep(kept, _of_ogb(name, root))
    return replace(read_graph(GraphRequest(str(kept))), title=name)


def _of_ogb(name: str, root: Path) -> dict[str, np.ndarray]:
    """The arrays of `graph:FILE.npz` for a set of ogb."""
    try:
        nodeproppred = importlib.import_module("ogb.nodeproppred")
    except ImportError:
        raise ConfigError(f"ogb:{name} needs the package ogb: pip install 'nas-engine[ogb]'") from None
    call = f"ogb.nodeproppred.NodePropPredDataset({name!r}, root='DIR')"
    hint = f"on a connected machine run {call} and copy DIR to {root}"
    folder = root / name.replace("-", "_")
    if (folder / "raw").is_dir():
        (folder / "processed" / "data_processed").unlink(missing_ok=True)  # made of the others, and a pickle
    with _no_answers():
        data = _made(lambda: nodeproppred.NodePropPredDataset(name=name, root=str(root)), f"ogb:{name}", root, hint)
    graph, labels = data[0]
    if "edge_index" not in graph:
        raise DataError(f"ogb:{name} has several kinds of nodes; only graphs of one kind can be read")
    arrays = {"edge_index": graph["edge_index"], "x": graph["node_feat"], "edge_attr": graph["edge_feat"]}
    arrays["y"] = labels.astype(np.float32) if labels.ndim == 2 and labels.shape[1] > 1 else labels
    for part, nodes in data.get_idx_split().items():
        arrays[_OGB_MASKS[part]] = _mask_of(np.asarray(nodes), len(labels))
    return {key: array for key, array in arrays.items() if array is not None}


_OGB_MASKS = {"train": "train_mask", "valid": "val_mask", "test": "test_mask"}


def _keep(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


@contextlib.contextmanager
def _no_answers() -> Iterator[None]:
    """Whoever asks on the terminal, as ogb does where a set is large, gets no answer and gives up."""
    stdin, sys.stdin = sys.stdin, io.StringIO()
    try:
        yield
    finally:
        sys.stdin = stdin


def _mask_of(nodes: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(count, dtype=bool)
    mask[nodes] = True
    return mask


def _folder(root: Path | None) -> Path:
    return (default_root() if root is None else Path(root).expanduser()) / "graphs"


def _of_pyg(kind: str, name: str, root: Path | None) -> RawGraph:
    from torch_geometric import datasets

    make = getattr(datasets, kind, None) if kind in datasets.__all__ else None
    if make is None:
        raise DataError(f"PyTorch Geometric has no data set {kind!r}: {did_you_mean(kind, datasets.__all__)}")
    title = f"{kind}/{name}" if name else kind
    takes = inspect.signature(make).parameters
    if ("name" in takes) != bool(name):
        asks = f"write pyg:{kind}/NAME" if "name" in takes else f"write pyg:{kind}"
        raise DataError(f"pyg:{title} does not name one graph of {kind}: {asks}")
    folder = _folder(root) / kind
    arguments: dict[str, Any] = {"root": str(folder)} if "root" in takes else {}
    arguments |= {"name": name} if name else {}
    given = f", name={name!r}" if name else ""
    hint = f"on a connected machine run torch_geometric.datasets.{kind}(root='DIR'{given}) and copy DIR to {folder}"
    data = _made(lambda: make(**arguments), title, folder, hint)
    graph = data[0]
    if len(data) != 1 or getattr(graph, "y", None) is None or len(graph.y) != graph.num_nodes:
        raise DataError(f"pyg:{title} is not one graph whose nodes have classes; only such can be read")
    masks, notes = _masks(graph)
    return RawGraph(
        title=title,
        edges=_array(graph.edge_index),
        labels=_labels(graph.y),
        x=None if graph.x is None else _array(graph.x),
        attributes=None if graph.edge_attr is None else _array(graph.edge_attr),
        masks=masks,
        notes=notes,
    )


def _made(make: Callable[[], Any], what: str, root: Path, hint: str) -> Any:
    """The data set: from disk, or downloaded under a lock that other processes respect."""
    from filelock import FileLock

    try:
        root.mkdir(parents=True, exist_ok=True)
        silent = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with FileLock(root / ".lock"), patience(), silent[0], silent[1]:
            return make()
    except Exception as problem:  # whatever the libraries and their servers raise
        raise DataError(
            f"{what} could not be read from {root} or downloaded ({one_line(problem)}): {hint}, or write graph:FILE.npz"
        ) from problem


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.to_dense().numpy() if tensor.layout is not _strided() else tensor.numpy())


def _strided() -> Any:
    import torch

    return torch.strided


def _labels(labels: Any) -> np.ndarray:
    """Class numbers; or rows of labels, all of which are known."""
    array = _array(labels)
    return array.astype(np.float64) if array.ndim == 2 and array.shape[1] > 1 else array


def _masks(graph: Any) -> tuple[Mapping[str, np.ndarray], tuple[str, ...]]:
    """The set's own split; the first where it has several."""
    masks = {ours: _array(graph[key]) for key, ours in _MASKS.items() if key in graph}
    notes: tuple[str, ...] = ()
    if any(mask.ndim == 2 for mask in masks.values()):
        masks = {name: mask[:, 0] if mask.ndim == 2 else mask for name, mask in masks.items()}
        notes = ("of its several splits the first is taken",)
    if masks and not {"train", "test"} <= set(masks):
        return {}, ("it has no test part of its own",)
    return {name: mask.astype(bool) for name, mask in masks.items()}, notes
