"""A network as counts of what a device may execute, for cost models of whole networks.

Runtimes differ in what they leave out: an interpreter runs every operator, a compiled graph those that the output
needs, an optimising compiler only those that are not fed zeros alone. A network is counted in all three views, and the
measurements tell which of them a device follows. Blocks repeat, so each is counted once and looked up from then on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import DataError
from search_spaces.graph import Graph, Node, Signature

from .features import terms

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace

Floats = NDArray[np.float64]
VIEWS = ("every", "read", "fed")  # operators: all; those that the output needs; of these those not fed zeros alone
KINDS = ("slot", "amount", "pair", "way", "shape")
_POOL = 1024  # members that show what varies in a space
_MOST = 192  # columns of a kind, the most frequent
_MOST_WAYS = 16  # of a block, up to which they are written out
_VARIES = 1e-9

Key = tuple[str, str, str]
"""Kind in `KINDS`, view in `VIEWS`, and what is counted."""
Counts = Mapping[Key, float]


class BlockCounts:
    """Counts of the graphs of one space, one column each thing that varies over it.

    For each view there are: slots (an operator at its place), amounts (calls, MACs and bytes by kind of operator),
    pairs (a kind that reads another), ways (sequences of kinds from input to output) and shape (longest way, joins,
    forks).

    Args:
        space: the space whose `graph` is counted.
        columns: what `columns` said earlier; by default members drawn with a fixed seed tell.

    Attributes:
        space: the space.
        columns: what the columns count, `(F,)`.
    """

    def __init__(self, space: SearchSpace, columns: Iterable[Sequence[str]] | None = None) -> None:
        self.space = space
        self.columns: tuple[Key, ...]
        if columns is None:
            rng = np.random.default_rng(0)
            self._learn([count(space.graph(space.sample(rng))) for _ in range(_POOL)])
        else:
            try:
                self.columns = tuple((kind, view, what) for kind, view, what in columns)
            except (TypeError, ValueError) as e:
                raise DataError(f"not the columns of block counts ({e}); fit the cost model again") from None
        self._number = {key: i for i, key in enumerate(self.columns)}

    def __len__(self) -> int:
        return len(self.columns)

    def of(self, graphs: Iterable[Graph]) -> Floats:
        """Counts of graphs, float64 `(B, F)`."""
        return self._array(map(count, graphs))

    def _array(self, counted: Iterable[Counts]) -> Floats:
        number = self._number
        rows = []
        for counts in counted:
            row = np.zeros(len(number))
            for key, times in counts.items():
                if (column := number.get(key)) is not None:
                    row[column] = times
            rows.append(row)
        return np.array(rows).reshape(-1, len(number))

    def _learn(self, counted: Sequence[Counts]) -> None:
        """Choose the columns: what varies, once, and of each kind the most frequent."""
        met = Counter(key for counts in counted for key in counts)
        by_kind: dict[str, list[Key]] = defaultdict(list)
        for key, _ in sorted(met.items(), key=lambda item: (-item[1], item[0])):
            by_kind[key[0]].append(key)
        self.columns = tuple(key for kind in KINDS for key in sorted(by_kind[kind][:_MOST]))
        self._number = {key: i for i, key in enumerate(self.columns)}
        values = self._array(counted)
        spread = values.std(0)
        seen: dict[bytes, int] = {}
        for i in np.flatnonzero(spread > _VARIES).tolist():
            seen.setdefault(np.round((values[:, i] - values[0, i]) / spread[i], 6).tobytes(), i)
        self.columns = tuple(self.columns[i] for i in sorted(seen.values()))


def count(graph: Graph) -> Counts:
    """Everything counted in a graph, in all views."""
    sums: dict[Key, float] = defaultdict(float)
    for view, nodes in _views(graph):
        for key, amount in _structure(view, nodes, graph.outputs):
            sums[key] += amount
        for node in nodes:
            if node.operator != "input" and not _opened(node.signature):
                sums["slot", view, f"{node.name} {_spelled(node.signature)}"] += 1
        for signature, times in Counter(node.signature for node in nodes).items():
            if _opened(signature):
                for key, amount in _inside(signature)[view]:
                    sums[key] += times * amount
            else:
                for name, amount in _amounts(signature):
                    sums["amount", view, name] += times * amount
    return sums


def _opened(signature: Signature) -> bool:
    """Whether a node counts as its body."""
    return signature.body is not None and not signature.operator.fused


@lru_cache(maxsize=256)  # blocks of the same network, and of those beside it
def _inside(signature: Signature) -> dict[str, list[tuple[Key, float]]]:
    """Counts of a composite's body by view; a block whose output is fed zeros alone has none in the last."""
    views: dict[str, list[tuple[Key, float]]] = {view: [] for view in VIEWS}
    if signature.body is not None:
        for key, amount in count(signature.body).items():
            views[key[1]].append((key, amount))
    return views


@cache
def _spelled(signature: Signature) -> str:
    return repr(signature.operator)


@cache
def _amounts(signature: Signature) -> tuple[tuple[str, float], ...]:
    return tuple(terms(signature).items())


def _views(graph: Graph) -> Iterator[tuple[str, tuple[Node, ...]]]:
    live = graph.live().nodes
    yield VIEWS[0], graph.nodes
    yield VIEWS[1], live
    zero: set[str] = set()
    for node in live:
        if node.operator == "zero" or (node.inputs and zero.issuperset(node.inputs)):
            zero.add(node.name)
    fed = tuple(node for node in live if node.name not in zero)
    yield VIEWS[2], () if zero.issuperset(graph.outputs) else fed


@cache
def _kind(signature: Signature) -> str:
    """Operator with its attributes, but for the width, which follows from the input as a rule."""
    width = signature.shape[0]
    told = (f"{k}={v!r}" for k, v in signature.operator.attributes.items() if isinstance(v, int | str) and v != width)
    return f"{signature.operator.name}({', '.join(told)})" if signature.operator.fused else signature.operator.name


def _structure(view: str, nodes: Sequence[Node], outputs: Sequence[str]) -> Iterator[tuple[Key, float]]:
    """Pairs, ways and shape of the graph that some nodes make; identities are looked through, sums are as well."""
    stands: dict[str, list[str]] = {}
    ways: dict[str, list[str]] = {}
    depth: dict[str, int] = {}
    kinds: dict[str, str] = {}
    readers: Counter[str] = Counter()
    joins = 0.0
    for node in nodes:
        reads = list(dict.fromkeys(s for i in node.inputs for s in stands.get(i, ())))
        came = [way for i in node.inputs for way in ways.get(i, ())][: _MOST_WAYS + 1]
        deep = max((depth[i] for i in node.inputs if i in depth), default=0)
        if node.operator in ("identity", "add"):
            stands[node.name], ways[node.name], depth[node.name] = reads, came, deep
            joins += max(len(reads) - 1, 0)
            continue
        name = kinds[node.name] = _kind(node.signature)
        readers.update(reads)
        stands[node.name] = [node.name]
        ways[node.name] = [f"{way} > {name}" for way in came] if node.operator != "input" else [""]
        depth[node.name] = deep + (node.operator != "input")
        for source in reads:
            yield ("pair", view, f"{name} reads {kinds[source]}"), 1.0
    for output in outputs:
        if len(told := ways.get(output, [])) <= _MOST_WAYS:
            yield from ((("way", view, way), 1.0) for way in told)
        yield ("shape", view, "ways"), float(np.log2(1 + len(told)))
        yield ("shape", view, "longest"), float(depth.get(output, 0))
    yield ("shape", view, "joins"), joins
    yield ("shape", view, "forks"), float(sum(n - 1 for n in readers.values()))
    yield ("shape", view, "no output"), float(not any(o in ways for o in outputs))
