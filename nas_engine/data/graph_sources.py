"""Sources of graphs: a numpy archive of one's own, and the nearest-neighbour graph of the embedded digits.

An archive is read with `allow_pickle=False`, so a file from anywhere can be opened safely. Sets of other libraries are
in graph_named.py; features, checks and splits are the same for all and live in graph_load.py.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from search_spaces.errors import DataError, did_you_mean

from .checks import one_line
from .npz import archive, names_in
from .sources import GRAPH_SOURCES, GraphRequest, RawGraph

LAYOUT = (
    "edge_index (2, E), y (N,) or (N, C), and optionally x (N, F), edge_attr (E, D), train_mask, val_mask, test_mask "
    "(N,), classes"
)
NEIGHBOURS = 8  # of each digit
SEVERAL = ("pyg:yelp", "pyg:amazonproducts", "ogb:ogbn-proteins", "ogb:proteins")
"""Sources, in small letters, whose nodes may have several labels; those of others have one class."""
_SPARSE = ("x_data", "x_indices", "x_indptr", "x_shape")
_MASKS = {"train_mask": "train", "val_mask": "validation", "test_mask": "test"}
_KNOWN = ("edge_index", "x", *_SPARSE, "edge_attr", *_MASKS, "classes")


@GRAPH_SOURCES.register("graph")
def read_graph(request: GraphRequest) -> RawGraph:
    """A graph of your own: an .npz file with edges, labels of nodes and, where there are any, features.

    Raises:
        DataError: no such file, no npz archive, arrays missing, damaged or of a wrong shape.
    """
    if not request.argument:
        raise DataError("'graph:' names no file: write graph:PATH")
    path = Path(request.argument).expanduser()
    target = request.target or "y"
    arrays = archive(path, (*_KNOWN, target), LAYOUT)
    for key in ("edge_index", target):
        if key not in arrays:
            hint = ": " + did_you_mean(key, arrays) + ", given as data.target" if key == target else ""
            raise DataError(f"{path} has no {key}{hint or f' (it has {_listed(arrays)}): it needs {LAYOUT}'}")
    masks = {name: _mask(arrays[key], f"{path.name} {key}") for key, name in _MASKS.items() if key in arrays}
    if masks and not {"train", "test"} <= set(masks):
        raise DataError(
            f"{path} has {_listed(set(arrays) & set(_MASKS))} alone: give train_mask and test_mask, or none"
        )
    return RawGraph(
        title=path.name if target == "y" else f"{path.name} ({target})",
        edges=arrays["edge_index"],
        labels=arrays[target],
        x=_features(arrays, path),
        attributes=arrays.get("edge_attr"),
        masks=masks,
        classes=names_in(arrays["classes"], path) if "classes" in arrays and target == "y" else None,
    )


@GRAPH_SOURCES.register("digits-knn")
def read_digits_graph(request: GraphRequest) -> RawGraph:
    """scikit-learn's 1,797 handwritten digits, each joined with the 8 most like it; part of the package.

    Nodes are images of 64 pixels, 0..1; an edge joins two of which one is among the 8 nearest of the other, of equally
    near ones those that come first.
    """
    if request.argument:
        raise DataError(f"digits-knn takes nothing behind the colon, but got {request.argument!r}: write 'digits-knn'")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = bunch.data.astype(np.int64)  # whole numbers, so that the same are equally near on every machine
    squares = (levels**2).sum(1)
    apart = squares[:, None] + squares - 2 * levels @ levels.T
    np.fill_diagonal(apart, apart.max() + 1)
    near = np.argsort(apart, axis=1, kind="stable")[:, :NEIGHBOURS]
    pairs = np.stack([np.repeat(np.arange(len(near)), NEIGHBOURS), near.ravel()])
    pairs = np.concatenate([pairs, pairs[::-1]], axis=1)
    return RawGraph(
        title="scikit-learn digits and their nearest neighbours",
        edges=np.unique(pairs, axis=1),
        labels=bunch.target.astype(np.int64),
        x=(bunch.data / 16).astype(np.float32),
        classes=tuple(str(name) for name in bunch.target_names),
    )


def labels_of(source: str, target: str) -> Literal["one", "several"] | None:
    """What a node of a graph has, from a file's header alone, or by name; None where it cannot be read."""
    kind, _, argument = source.strip().partition(":")
    if kind != "graph":
        return "several" if source.strip().lower() in SEVERAL else "one"
    try:
        path = Path(argument).expanduser()
        with zipfile.ZipFile(path) as archive, archive.open(f"{target}.npy") as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape = read(member)[0]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
        return None
    return "several" if len(shape) == 2 and shape[1] > 1 else "one"


def _listed(keys: Mapping[str, object] | set[str]) -> str:
    return ", ".join(sorted(keys)) or "nothing"


def _mask(mask: np.ndarray, what: str) -> np.ndarray:
    if mask.ndim != 1 or mask.dtype != np.bool_:
        raise DataError(f"{what} has shape {mask.shape} and type {mask.dtype}, but one bool a node is needed")
    return mask


def _features(arrays: Mapping[str, np.ndarray], path: Path) -> np.ndarray | None:
    """(N, F) features, made dense where they are the four arrays of scipy's CSR format; None where there are none."""
    if "x" in arrays:
        return arrays["x"]
    given = [key for key in _SPARSE if key in arrays]
    if not given:
        return None
    if len(given) < len(_SPARSE):
        raise DataError(f"{path} has {', '.join(given)} alone: sparse features need {', '.join(_SPARSE)}")
    from scipy.sparse import csr_matrix

    data, indices, starts, shape = (arrays[key] for key in _SPARSE)
    try:
        matrix = csr_matrix((data, indices, starts), shape=tuple(int(size) for size in shape))
        matrix.check_format(full_check=True)
        return np.asarray(matrix.astype(np.float32).toarray())
    except (ValueError, TypeError, IndexError, MemoryError) as problem:
        raise DataError(f"{path} has sparse features that do not fit together: {one_line(problem)}") from problem
