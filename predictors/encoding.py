"""Operator graphs as arrays, for any space.

A node's features depend on its `Signature` alone, and signatures are shared by all graphs that repeat a block:
each gets one row of a feature table, once. A batch of graphs is then row numbers beside a padded adjacency:
encoding a node is a dictionary look-up, and a network's first layer is applied to the few unique rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.errors import EngineError
from search_spaces.graph import Graph, Signature

if TYPE_CHECKING:
    from torch_geometric.data import Data

    from search_spaces.space import SearchSpace

PADDING, OUTPUT, _LOOKED_THROUGH = 0, 1, -1
_TRANSPARENT = frozenset({"add"})  # what reads a sum reads its terms
TOTALS = ("params", "macs", "bytes_moved", "nodes", "longest_path")
_SAMPLES = 256
_CLIP = 5.0  # standard deviations


@dataclass(frozen=True)
class GraphBatch:
    """Graphs as arrays, padded to the largest of them.

    Shapes: B graphs, N nodes at most, K totals.

    Attributes:
        rows: int64 `(B, N)`, row of each node in `Encoder.table`; 0 is padding.
        adjacency: bool `(B, N, N)`; `[b, i, j]` says that node i reads node j.
        depth: float32 `(B, N)`, longest path from an input, as a fraction of the graph's longest.
        totals: float32 `(B, K)`, standardised properties of the whole graph.
    """

    rows: np.ndarray
    adjacency: np.ndarray
    depth: np.ndarray
    totals: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sizes(self) -> np.ndarray:
        """Number of nodes of each graph, int64 `(B,)`."""
        return (self.rows > PADDING).sum(1)

    def select(self, which: np.ndarray) -> GraphBatch:
        """Some of the graphs, padded no further than they need."""
        rows = self.rows[which]
        width = int((rows > PADDING).sum(1).max(initial=1))
        adjacency = self.adjacency[which, :width, :width]
        return GraphBatch(rows[:, :width], adjacency, self.depth[which, :width], self.totals[which])


class Encoder:
    """Turns the sketches of one space into `GraphBatch`es.

    The vocabulary (operators, categorical attributes, means and standard deviations of numeric ones) comes from
    members drawn with a fixed seed, so it depends on the space alone. Whatever it has not seen still encodes: an
    unknown operator or value sets the column `name=?`, numbers are standardised and clipped.

    Nodes are operators; `add` is looked through (what reads a sum reads its terms), and one output node is added
    that reads the graph's outputs.

    Args:
        space: the space whose `sketch` is encoded.
        vocabulary: what `Encoder.vocabulary` gave earlier; by default it is made anew.

    Attributes:
        signatures: of the rows of `table` from the third, as the first two are padding and the output node.
    """

    def __init__(self, space: SearchSpace, vocabulary: Mapping[str, Any] | None = None) -> None:
        self.space = space
        self._row_of: dict[Signature, int] = {}
        self._features: list[np.ndarray] = []
        self.signatures: list[Signature] = []
        self._costs: list[tuple[float, float, float]] = [(0.0, 0.0, 0.0)] * 2
        self._columns: dict[str, int] = {}
        if vocabulary is None:
            self._learn()
        else:
            self._recall(vocabulary)

    # ---- encoding ----------------------------------------------------------------------------------------

    def encode(self, graphs: Iterable[Graph]) -> GraphBatch:
        """Graphs as arrays; unknown signatures get rows of `table` on the way."""
        batch, longest = self._arrays(graphs)
        batch.depth[:] /= np.maximum(longest, 1)[:, None]
        totals = (self._raw_totals(batch, longest) - self._totals_mean) / self._totals_scale
        batch.totals[:] = totals.clip(-_CLIP, _CLIP)
        return batch

    def _arrays(self, graphs: Iterable[Graph]) -> tuple[GraphBatch, np.ndarray]:
        """A batch without totals, its depths in nodes, and the longest path of each graph, float32 `(B,)`."""
        rows: list[list[int]] = []
        depths: list[list[int]] = []
        edges: list[tuple[int, int, int]] = []
        for b, graph in enumerate(graphs):
            r, d = self._nodes(graph, b, edges)
            rows.append(r)
            depths.append(d)
        return _padded(rows, depths, edges), np.array([d[-1] for d in depths], dtype=np.float32)

    def _nodes(self, graph: Graph, b: int, edges: list[tuple[int, int, int]]) -> tuple[list[int], list[int]]:
        """Rows and depths of a graph's nodes; its edges (graph, reader, read) are appended to `edges`."""
        row_of = self._row_of
        rows: list[int] = []
        depths: list[int] = []
        stands_for: dict[str, list[int]] = {}
        for node in graph.nodes:
            signature = node.signature
            row = row_of.get(signature)
            if row is None:
                row = self._add_row(signature)
            inputs = node.inputs
            if len(inputs) == 1:
                reads = stands_for[inputs[0]]
            else:
                reads = list(dict.fromkeys(j for name in inputs for j in stands_for[name]))
            if row == _LOOKED_THROUGH:
                stands_for[node.name] = reads
                continue
            i = len(rows)
            stands_for[node.name] = [i]
            rows.append(row)
            depth = 0
            for j in reads:
                edges.append((b, i, j))
                if depths[j] >= depth:
                    depth = depths[j] + 1
            depths.append(depth)
        i = len(rows)
        read = {j for name in graph.outputs for j in stands_for[name]}
        edges.extend((b, i, j) for j in read)
        rows.append(OUTPUT)
        depths.append(1 + max((depths[j] for j in read), default=0))
        return rows, depths

    def _raw_totals(self, batch: GraphBatch, longest: np.ndarray) -> np.ndarray:
        costs = np.asarray(self._costs)[batch.rows].sum(1)
        shape = np.stack([batch.sizes, longest], axis=1)
        return np.log2(1 + np.concatenate([costs, shape], axis=1))

    # ---- the feature table -------------------------------------------------------------------------------

    @property
    def table(self) -> np.ndarray:
        """Features of the unique nodes met so far, float32 `(R, F)`; row 0 is padding, row 1 the output node."""
        return np.stack(self._features)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the F features: `operator=conv2d`, `activation='relu'`, `kernel_size`, ..."""
        return tuple(self._columns)

    def __len__(self) -> int:
        return len(self._features)

    def _add_row(self, signature: Signature) -> int:
        name = signature.operator.name
        if name in _TRANSPARENT:
            self._row_of[signature] = _LOOKED_THROUGH
            return _LOOKED_THROUGH
        cost = signature.cost
        self._costs.append((cost.params, cost.macs, cost.bytes_moved))
        self._features.append(self._row(signature))
        self.signatures.append(signature)
        self._row_of[signature] = len(self._features) - 1
        return self._row_of[signature]

    def _row(self, signature: Signature) -> np.ndarray:
        """Features of one node, float32 `(F,)`."""
        row = np.zeros(len(self._columns), dtype=np.float32)
        for name, value in _facts(signature):
            if isinstance(value, str):
                column = self._columns.get(f"{name}={value}", self._columns.get(f"{name}=?"))
                if column is not None:
                    row[column] = 1
            elif name in self._columns:
                column = self._columns[name]
                row[column] = np.clip((value - self._mean[column]) / self._scale[column], -_CLIP, _CLIP)
        return row

    # ---- the vocabulary ----------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> dict[str, Any]:
        """What makes an equal encoder, as JSON stores it."""
        return {
            "columns": list(self._columns),
            "mean": self._mean.tolist(),
            "scale": self._scale.tolist(),
            "totals_mean": self._totals_mean.tolist(),
            "totals_scale": self._totals_scale.tolist(),
        }

    def _recall(self, vocabulary: Mapping[str, Any]) -> None:
        try:
            self._columns = {str(name): i for i, name in enumerate(vocabulary["columns"])}
            self._mean, self._scale = (np.asarray(vocabulary[k], dtype=np.float64) for k in ("mean", "scale"))
            self._totals_mean, self._totals_scale = (
                np.asarray(vocabulary[k], dtype=np.float64) for k in ("totals_mean", "totals_scale")
            )
        except (KeyError, TypeError, ValueError) as e:
            raise EngineError(f"not an encoder's vocabulary ({e!r}); save the predictor again") from None
        if not len(self._columns) == len(self._mean) == len(self._scale) or len(self._totals_mean) != len(TOTALS):
            raise EngineError("an encoder's vocabulary whose parts differ in length; save the predictor again")
        padding = np.zeros(len(self._columns), dtype=np.float32)
        output = padding.copy()
        output[self._columns["operator=output"]] = 1
        self._features = [padding, output]

    def _learn(self) -> None:
        """Make the vocabulary from members drawn with a fixed seed."""
        rng = np.random.default_rng(0)
        graphs = [self.space.sketch(self.space.sample(rng)) for _ in range(_SAMPLES)]
        numbers: dict[str, list[float]] = {}
        categories: dict[str, set[str]] = {"operator": {"output"}}
        for signature in (n.signature for g in graphs for n in g.nodes if n.operator not in _TRANSPARENT):
            for name, value in _facts(signature):
                if isinstance(value, str):
                    categories.setdefault(name, set()).add(value)
                else:
                    numbers.setdefault(name, []).append(value)
        columns = [f"{name}={v}" for name in sorted(categories) for v in [*sorted(categories[name]), "?"]]
        moments = {
            name: (float(np.mean(v)), float(np.std(v))) for name, v in sorted(numbers.items()) if np.ptp(v) > 1e-6
        }
        self._recall(
            {
                "columns": [*columns, *moments],
                "mean": [*[0.0] * len(columns), *(m for m, _ in moments.values())],
                "scale": [*[1.0] * len(columns), *(s for _, s in moments.values())],
                "totals_mean": [0.0] * len(TOTALS),
                "totals_scale": [1.0] * len(TOTALS),
            }
        )
        raw = self._raw_totals(*self._arrays(graphs))
        self._totals_mean, self._totals_scale = raw.mean(0), raw.std(0) + 1e-3

    # ---- for users of torch_geometric --------------------------------------------------------------------

    def to_pyg(self, graph: Graph) -> Data:
        """The encoded graph as `torch_geometric.data.Data`.

        Attributes of the result: `x` float32 `(N, F)` (columns as in `columns`), `edge_index` int64 `(2, E)` from
        producer to reader, `depth` float32 `(N,)`, `totals` float32 `(1, K)`.
        """
        try:
            import torch
            from torch_geometric.data import Data
        except ImportError as e:
            raise EngineError(f"to_pyg needs torch-geometric ({e}); pip install torch-geometric") from None
        batch = self.encode([graph])
        reader, read = np.nonzero(batch.adjacency[0])
        return Data(
            x=torch.from_numpy(self.table[batch.rows[0]]),
            edge_index=torch.from_numpy(np.stack([read, reader])),
            depth=torch.from_numpy(batch.depth[0]),
            totals=torch.from_numpy(batch.totals),
        )


def _padded(rows: list[list[int]], depths: list[list[int]], edges: list[tuple[int, int, int]]) -> GraphBatch:
    """Lists of nodes as arrays of equal width; totals are left at 0."""
    sizes = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    count, width, nodes = len(rows), int(sizes.max(initial=1)), int(sizes.sum())
    filled = np.arange(width) < sizes[:, None]
    batch = GraphBatch(
        np.zeros((count, width), dtype=np.int64),
        np.zeros((count, width, width), dtype=bool),
        np.zeros((count, width), dtype=np.float32),
        np.zeros((count, len(TOTALS)), dtype=np.float32),
    )
    batch.rows[filled] = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=nodes)
    batch.depth[filled] = np.fromiter(chain.from_iterable(depths), dtype=np.float32, count=nodes)
    graph, reader, read = np.asarray(edges, dtype=np.int64).reshape(-1, 3).T
    batch.adjacency[graph, reader, read] = True
    return batch


def _facts(signature: Signature) -> list[tuple[str, str | float]]:
    """What a signature says, by name: text is categorical, numbers are on a logarithmic scale."""
    operator, inputs, output, cost = signature.operator, signature.inputs, signature.shape, signature.cost
    first = inputs[0] if inputs else output
    facts: list[tuple[str, str | float]] = [
        ("operator", operator.name),
        ("channels_in", math.log2(1 + sum(s[0] for s in inputs))),
        ("channels_out", math.log2(1 + output[0])),
        ("pixels_in", math.log2(math.prod(first[1:]))),
        ("pixels_out", math.log2(math.prod(output[1:]))),
        ("keeps_shape", float(first == output)),
        ("params", math.log2(1 + cost.params)),
        ("macs", math.log2(1 + cost.macs)),
        ("bytes_moved", math.log2(1 + cost.bytes_moved)),
    ]
    for name, value in operator.attributes.items():
        facts.extend(_attribute(f".{name}", value))
    return facts


def _attribute(name: str, value: Any) -> list[tuple[str, str | float]]:
    if value is None or isinstance(value, bool | str):
        return [(name, repr(value))]
    if isinstance(value, int | float):
        return [(name, math.copysign(math.log2(1 + abs(value)), value))]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
        return [(name, sum(math.copysign(math.log2(1 + abs(v)), v) for v in value) / max(1, len(value)))]
    return [fact for i, v in enumerate(value) for fact in _attribute(f"{name}.{i}", v)]
