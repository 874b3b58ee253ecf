"""A graph as a row of numbers, for predictors that are no graph networks.

What decides how well and how fast a network runs is less which operators it has than how they lie on the ways from its
input to its output: how many there are, how long the longest and the shortest is, by operator. Such figures are found
for a whole batch by one walk over the nodes, so that a row costs microseconds beyond the encoding of its graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.errors import EngineError
from search_spaces.graph import Graph, Signature

from .encoding import OUTPUT, TOTALS, Encoder, GraphBatch

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace

GROUPS = ("statistics", "nodes", "edges", "ways")
_WEIGHTS_OF_GROUPS = np.array([1.0, 1.0, 0.3, 0.5])  # what several operators do together matters less than each alone
_POOL = 1024  # members that show what varies in a space
_QUIET = frozenset({"input", "identity"})  # part of a way, but no step of it
_DEAD = frozenset({"zero"})  # end of all ways through them
_MOST_KINDS, _MOST_NODES, _MOST_EDGES, _MOST_WAYS = 64, 256, 256, 256
_FEW_WAYS = 16  # up to which the ways of a graph are written out
_NO_WAY = -1.0
_VARIES = 1e-6
_CLIP = 8.0  # standard deviations
_WEIGHTS = ("steps", "learned steps", "log2 macs", "log2 params")
_DEGREES = ("log2 ways", "joins", "widest join", "forks", "widest fork")

_Way = tuple[int, ...]
_Edges = tuple[np.ndarray, ...]  # graph, reader, read; sorted


@dataclass(frozen=True)
class _Ways:
    """Figures of all ways from inputs to the output, for weights w of the nodes; a way weighs the sum of its nodes.

    Shapes: B graphs, W weights. Attributes: number of ways `(B,)`; largest, smallest, mean, deviation `(B, W)`, which
    are -1 where there is no way.
    """

    count: np.ndarray
    largest: np.ndarray
    smallest: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


class GraphFeatures:
    """Features of the sketches of one space, in groups.

    - `statistics`: operators by kind (count; largest, smallest and mean count on a way from input to output, with its
      deviation over ways), the same of costs, totals of the graph, degrees;
    - `nodes`: count of each distinct node (operator with attributes and shapes);
    - `edges`: count of each pair of kinds that read one another;
    - `ways`: count of each sequence of kinds from input to output, in spaces with few of them.

    Columns that do not vary over the space, or repeat another, are left out; what is left is standardised over it, and
    pairs and sequences are weighted down, which is a prior for whoever learns from few rows.

    Args:
        space: the space whose `sketch` is described.
        encoder: of that space; made anew by default.
        facts: what `GraphFeatures.facts` gave earlier; by default members drawn with a fixed seed tell.

    Attributes:
        names: of the columns, `(F,)`.
        groups: number of the group in `GROUPS` of each column, int64 `(F,)`.
    """

    def __init__(
        self, space: SearchSpace, encoder: Encoder | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        self.encoder = encoder or Encoder(space)
        self.space = space
        self._kind_of: list[int] = [0, 1]  # by row of the encoder: padding, output
        self._node_of: list[int] = [-1, -1]
        self._dead: list[bool] = [False, False]
        self._weights_of: list[np.ndarray] = []
        if facts is None:
            self._learn()
        else:
            self._recall(facts)

    # ---- describing --------------------------------------------------------------------------------------

    def __call__(self, batch: GraphBatch) -> np.ndarray:
        """Standardised and weighted features of graphs that `encoder` encoded, float64 `(B, F)`."""
        standard = ((self._raw(batch) - self._mean) / self._scale).clip(-_CLIP, _CLIP)
        return standard * _WEIGHTS_OF_GROUPS[self.groups]

    def of(self, graphs: Iterable[Graph]) -> np.ndarray:
        """Features of graphs, float64 `(B, F)`."""
        return self(self.encoder.encode(graphs))

    def __len__(self) -> int:
        return len(self.names)

    def _raw(self, batch: GraphBatch) -> np.ndarray:
        self._meet_rows()
        edges = np.nonzero(batch.adjacency)
        kinds = np.asarray(self._kind_of)[batch.rows]
        columns = np.concatenate(
            [
                self._statistics(batch, kinds, edges),
                _counts(np.asarray(self._node_of)[batch.rows], len(self._nodes)),
                self._edge_counts(kinds, edges),
                self._way_counts(batch, kinds, edges),
            ],
            axis=1,
        )
        return columns[:, self._kept]

    def _statistics(self, batch: GraphBatch, kinds: np.ndarray, edges: _Edges) -> np.ndarray:
        weights = np.asarray(self._weights_of)[batch.rows]
        ways = _walk(batch, weights, np.asarray(self._dead)[batch.rows], edges)
        joins, forks = batch.adjacency.sum(2), batch.adjacency.sum(1)
        degrees = [np.log2(1 + ways.count), *(c for d in (joins, forks) for c in ((d > 1).sum(1), d.max(1)))]
        counts = _counts(kinds - 2, len(self._kinds))
        steps = [ways.largest, ways.smallest, ways.mean, ways.deviation]
        return np.concatenate([counts, *steps, batch.totals, np.stack(degrees, axis=1)], axis=1)

    def _edge_counts(self, kinds: np.ndarray, edges: _Edges) -> np.ndarray:
        graph, reader, read = edges
        pairs = self._pair_of[kinds[graph, reader], kinds[graph, read]]
        met = pairs >= 0
        flat = np.bincount(graph[met] * len(self._pairs) + pairs[met], minlength=len(kinds) * len(self._pairs))
        return flat.reshape(len(kinds), len(self._pairs)).astype(np.float64)

    def _way_counts(self, batch: GraphBatch, kinds: np.ndarray, edges: _Edges) -> np.ndarray:
        counts = np.zeros((len(batch), len(self._ways)))
        if self._ways:
            for b, ways in enumerate(self._spelled(batch, kinds, edges)):
                for way in ways:
                    if (column := self._ways.get(way)) is not None:
                        counts[b, column] += 1
        return counts

    def _spelled(self, batch: GraphBatch, kinds: np.ndarray, edges: _Edges) -> Iterator[list[_Way]]:
        """The ways of each graph, as kinds in their order without the quiet ones."""
        graph, reader, read = edges
        bounds = np.searchsorted(graph, np.arange(len(batch) + 1))
        quiet, dead = self._quiet, np.asarray(self._dead)[batch.rows]
        for b, size in enumerate(batch.sizes):
            names = kinds[b].tolist()
            reads: list[list[int]] = [[] for _ in range(size)]
            part = slice(bounds[b], bounds[b + 1])
            for i, j in zip(reader[part].tolist(), read[part].tolist(), strict=True):
                reads[i].append(j)
            ways: list[list[_Way]] = []
            for i, sources in enumerate(reads):
                before: list[_Way] = [way for j in sources for way in ways[j]][: _FEW_WAYS + 1] if sources else [()]
                if dead[b, i] or (not sources and i == size - 1):
                    before = []
                ways.append(before if names[i] in quiet else [(*way, names[i]) for way in before])
            yield ways[-1]

    # ---- rows of the encoder -----------------------------------------------------------------------------

    def _meet_rows(self) -> None:
        """Describe what the encoder has met since."""
        for signature in self.encoder.signatures[len(self._kind_of) - 2 :]:
            self._kind_of.append(2 + self._kinds.get(self._kind(signature), len(self._kinds)))
            self._node_of.append(self._nodes.get(repr(signature), -1))
            self._dead.append(signature.operator.name in _DEAD)
            self._weights_of.append(self._weights(signature))

    def _kind(self, signature: Signature) -> str:
        return _kind(signature, self._plain)

    def _weights(self, signature: Signature) -> np.ndarray:
        """What a node adds to the ways through it: its kind, a step, whether it learns, its costs (log2)."""
        cost = signature.cost
        own = np.zeros(len(self._kinds) + len(_WEIGHTS))
        if (kind := self._kinds.get(self._kind(signature))) is not None:
            own[kind] = 1
        step = signature.operator.name not in _QUIET
        own[len(self._kinds) :] = step, cost.params > 0, np.log2(1 + cost.macs), np.log2(1 + cost.params)
        return own

    # ---- what varies in the space ------------------------------------------------------------------------

    @property
    def facts(self) -> dict[str, Any]:
        """What makes equal features over an equal encoder, as JSON stores it."""
        return {
            "plain": self._plain,
            "kinds": list(self._kinds),
            "nodes": list(self._nodes),
            "pairs": [list(pair) for pair in self._pairs],
            "ways": [list(way) for way in self._ways],
            "kept": self._kept.tolist(),
            "mean": self._mean.tolist(),
            "scale": self._scale.tolist(),
        }

    def _recall(self, facts: Mapping[str, Any]) -> None:
        try:
            self._lay_out(facts["plain"], facts["kinds"], facts["nodes"])
            self._set_pairs([(int(a), int(b)) for a, b in facts["pairs"]])
            self._ways = {tuple(map(int, way)): i for i, way in enumerate(facts["ways"])}
            self._kept = np.asarray(facts["kept"], dtype=np.int64)
            self._mean, self._scale = (np.asarray(facts[k], dtype=np.float64) for k in ("mean", "scale"))
            self._name()
        except (KeyError, TypeError, ValueError, IndexError) as e:
            raise EngineError(f"not the facts of graph features ({e!r}); save the predictor again") from None
        if not len(self._kept) == len(self._mean) == len(self._scale):
            raise EngineError("facts of graph features whose parts differ in length; save the predictor again")

    def _learn(self) -> None:
        """Find kinds, nodes, pairs and ways, and what varies, from members drawn with a fixed seed."""
        rng = np.random.default_rng(0)
        batch = self.encoder.encode([self.space.sketch(self.space.sample(rng)) for _ in range(_POOL)])
        signatures = self.encoder.signatures
        met = Counter(signatures[row - 2] for row in batch.rows[batch.rows > OUTPUT])
        plain = len({_kind(s, False) for s in met}) > _MOST_KINDS
        kinds = Counter[str]()
        for signature, times in met.items():
            kinds[_kind(signature, plain)] += times
        nodes = _most(Counter({repr(s): times for s, times in met.items()}), _MOST_NODES)
        self._lay_out(plain, _most(kinds, _MOST_KINDS), nodes)
        self._set_pairs([])
        self._ways = {}
        self._meet_rows()
        numbers = np.asarray(self._kind_of)[batch.rows]
        graph, reader, read = edges = np.nonzero(batch.adjacency)
        pairs = Counter(zip(numbers[graph, reader].tolist(), numbers[graph, read].tolist(), strict=True))
        self._set_pairs(_most(pairs, _MOST_EDGES))
        self._ways = {way: i for i, way in enumerate(self._few_ways(batch, numbers, edges))}
        self._keep_what_varies(batch)

    def _lay_out(self, plain: bool, kinds: Sequence[str], nodes: Sequence[str]) -> None:
        self._plain = bool(plain)
        self._kinds = {str(kind): i for i, kind in enumerate(kinds)}
        self._nodes = {str(node): i for i, node in enumerate(nodes)}
        self._quiet = {1, *(2 + i for kind, i in self._kinds.items() if kind.split("(")[0] in _QUIET)}
        self._weights_of = [np.zeros(len(self._kinds) + len(_WEIGHTS))] * 2

    def _set_pairs(self, pairs: Sequence[tuple[int, int]]) -> None:
        self._pairs = list(pairs)
        self._pair_of = np.full((len(self._kinds) + 3,) * 2, -1)
        for i, (reader, read) in enumerate(self._pairs):
            self._pair_of[reader, read] = i

    def _few_ways(self, batch: GraphBatch, kinds: np.ndarray, edges: _Edges) -> list[_Way]:
        """All ways met, where no graph has more than a few and there are not too many; else none."""
        ways = _walk(batch, np.zeros((*batch.rows.shape, 0)), np.asarray(self._dead)[batch.rows], edges)
        if ways.count.max() > _FEW_WAYS:
            return []
        met = {way for found in self._spelled(batch, kinds, edges) for way in found}
        return sorted(met) if len(met) <= _MOST_WAYS else []

    def _keep_what_varies(self, batch: GraphBatch) -> None:
        self._name(everything=True)
        self._kept = np.arange(len(self.names))
        raw = self._raw(batch)
        mean, scale = raw.mean(0), raw.std(0)
        seen: dict[bytes, int] = {}
        for i in np.flatnonzero(scale > _VARIES).tolist():
            seen.setdefault(np.round((raw[:, i] - mean[i]) / scale[i], 6).tobytes(), i)
        self._kept = np.array(sorted(seen.values()), dtype=np.int64)
        self._mean, self._scale = mean[self._kept], scale[self._kept]
        self._name()

    def _name(self, everything: bool = False) -> None:
        """Set `names` and `groups`, of the columns that are kept or of all."""
        kinds = ["padding", "output", *self._kinds, "other"]
        weights = [*self._kinds, *_WEIGHTS]
        steps = [f"{figure} of {w} on a way" for figure in ("largest", "smallest", "mean", "spread") for w in weights]
        parts = [
            [*(f"number of {kind}" for kind in self._kinds), *steps, *TOTALS, *_DEGREES],
            [f"number of {node}" for node in self._nodes],
            [f"{kinds[reader]} reads {kinds[read]}" for reader, read in self._pairs],
            [" > ".join(kinds[k] for k in way) or "straight through" for way in self._ways],
        ]
        names = [name for part in parts for name in part]
        groups = np.repeat(np.arange(len(GROUPS)), list(map(len, parts)))
        kept = np.arange(len(names)) if everything else self._kept
        self.names, self.groups = tuple(names[i] for i in kept), groups[kept]


def _kind(signature: Signature, plain: bool) -> str:
    """Operator with its attributes, but for the width, which follows from the input as a rule."""
    operator, width = signature.operator, signature.shape[0]
    if plain:
        return operator.name
    told = ", ".join(f"{k}={v!r}" for k, v in operator.attributes.items() if v != width or isinstance(v, bool))
    return f"{operator.name}({told})"


def _most(met: Counter[Any], limit: int) -> list[Any]:
    """The most frequent, in an order of their own that does not depend on the frequencies."""
    return sorted(sorted(met, key=lambda thing: (-met[thing], thing))[:limit])


def _counts(numbers: np.ndarray, kinds: int) -> np.ndarray:
    """How often each of 0 .. kinds - 1 occurs in a row, float64 `(B, kinds)`; other numbers are not counted."""
    graph = np.broadcast_to(np.arange(len(numbers))[:, None], numbers.shape)
    met = (numbers >= 0) & (numbers < kinds)
    flat = np.bincount(graph[met] * kinds + numbers[met], minlength=len(numbers) * kinds)
    return flat.reshape(len(numbers), kinds).astype(np.float64)


def _walk(batch: GraphBatch, weights: np.ndarray, dead: np.ndarray, edges: _Edges) -> _Ways:
    """Figures of all ways, by one pass over the nodes in their order; weights `(B, N, W)`, dead `(B, N)`."""
    (count, width), kinds = batch.rows.shape, weights.shape[2]
    reads, real = _sources(batch, edges)
    number = np.zeros((count, width))
    largest, smallest = np.full((count, width, kinds), -np.inf), np.full((count, width, kinds), np.inf)
    total, squares = np.zeros((count, width, kinds)), np.zeros((count, width, kinds))
    graph = np.arange(count)[:, None]
    begins = ~real.any(2) & (batch.rows > OUTPUT)
    for i in range(width):
        at, mask = (graph, reads[:, i]), real[:, i]
        mask = mask & (number[at] > 0)
        n = (number[at] * mask).sum(1) + begins[:, i]
        n[dead[:, i]] = 0
        own, start = weights[:, i], begins[:, i, None]
        lifted = mask[:, :, None]
        high = np.where(lifted, largest[at], -np.inf).max(1, initial=-np.inf)
        low = np.where(lifted, smallest[at], np.inf).min(1, initial=np.inf)
        s, q = (total[at] * lifted).sum(1), (squares[at] * lifted).sum(1)
        number[:, i] = n
        largest[:, i], smallest[:, i] = np.where(start, 0, high) + own, np.where(start, 0, low) + own
        squares[:, i] = q + 2 * own * s + own * own * n[:, None]
        total[:, i] = s + own * n[:, None]
    end = np.arange(count), batch.sizes - 1
    ways = number[end]
    none, share = (ways == 0)[:, None], np.maximum(ways, 1)[:, None]
    mean = total[end] / share
    spread = np.sqrt(np.maximum(squares[end] / share - mean * mean, 0))
    figures = (np.where(none, _NO_WAY, v) for v in (largest[end], smallest[end], mean, spread))
    return _Ways(ways, *figures)


def _sources(batch: GraphBatch, edges: _Edges) -> tuple[np.ndarray, np.ndarray]:
    """What each node reads, int64 `(B, N, D)` with D the widest join, and which of these are real."""
    graph, reader, read = edges
    count, width = batch.rows.shape
    node = graph * width + reader
    first = np.searchsorted(node, node)
    place = np.arange(len(node)) - first
    widest = int(place.max(initial=0)) + 1
    reads, real = np.zeros((count, width, widest), dtype=np.int64), np.zeros((count, width, widest), dtype=bool)
    reads[graph, reader, place], real[graph, reader, place] = read, True
    return reads, real
