"""Building a latency model within a granted time.

The time goes to the units of the space first, in an order that covers kinds, kernels, strides and sizes early, so that
stopping anywhere leaves a usable table; then to a few whole networks; the fits come last.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import ConfigError
from search_spaces.graph import Graph, Signature

from .correction import Correction, fit_correction
from .features import stratum
from .interpolation import SHORTEST_MS, Interpolator, Row, choose
from .latency import LatencyError, LatencyModel, Progress, Unit, WholeNetwork
from .table import Measurer, OperatorTable, empty_graph, reference_graphs, unit_key
from .units import measurable, unit_graph, units_of

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace

_EMPTY = "empty"  # key of the network that does nothing
_MEMBERS, _EXTREMES, _CANDIDATES, _NETWORKS, _FEWEST_NETWORKS = 2000, 200, 64, 10, 3
_COLLECTED, _UNITS_DONE, _FITTING = 0.15, 0.65, 0.1  # shares of the time: when two stages end, what the fits take
_DESCRIBING_S = 1e-3  # a unit's features, key and place in the order, about
_BATCH = 30
_SHORTEST_S, _LONGEST_S = 0.03, 0.4  # timing of one unit
_NETWORK_S, _LONGEST_NETWORK_S = 0.1, 1.0  # timing of one network; where only a few fit, as short as a unit
_SAVE_EVERY_S = 10.0


class Builder:
    """One build; see `LatencyModel.build` for the arguments."""

    def __init__(
        self,
        space: SearchSpace,
        table: OperatorTable,
        measurer: Measurer,
        seconds: float,
        rng: np.random.Generator,
        progress: Progress,
        clock: Callable[[], float],
    ) -> None:
        self._space, self._table, self._measurer = space, table, measurer
        self._seconds, self._rng, self._progress, self._clock = seconds, rng, progress, clock
        self._start = self._saved = clock()
        self._making_s, self._made, self._batches = 0.0, 0, 0  # time to make units ready, how many, in how many batches
        self._failed: dict[str, str] = {}  # units that cannot run on their own, with the reason

    def build(self) -> LatencyModel:
        try:
            counts, members = self._collect()
            self._measure_units(in_order(counts, self._rng))
            networks = self._measure_networks(members)
        finally:
            self._table.save()
        self._tell("fitting")
        return self._fit(counts, networks)

    @property
    def _elapsed(self) -> float:
        return self._clock() - self._start

    @property
    def _making(self) -> float:
        """Seconds to make one unit ready, whatever else the timing of it cost beyond the seconds granted."""
        return self._making_s / max(self._made, 1)

    def _tell(self, what: str) -> None:
        self._progress(min(1.0, self._elapsed / self._seconds), what)

    # ---- stages ------------------------------------------------------------------------------------------

    def _collect(self) -> tuple[Counter[Signature], list[Graph]]:
        """Units by how often they occur, from the space's extremes and random members; the random members."""
        self._tell("collecting operators")
        counts: Counter[Signature] = Counter()
        for architecture in islice(self._space.envelope(), _EXTREMES):
            _count(self._space.graph(architecture), counts)
        members: list[Graph] = []
        while len(members) < _MEMBERS and (
            len(members) < _CANDIDATES or self._elapsed + _DESCRIBING_S * len(counts) < _COLLECTED * self._seconds
        ):
            members.append(self._space.graph(self._space.sample(self._rng)))
            _count(members[-1], counts)
        return counts, members

    def _measure_units(self, ordered: Sequence[Signature]) -> None:
        missing = [unit for unit in ordered if measurable(unit) and unit_key(unit) not in self._table]
        if _EMPTY not in self._table:
            self._measure_batch({_EMPTY: ("empty network", empty_graph())}, _SHORTEST_S)
            self._making_s, self._made, self._batches = 0.0, 0, 0  # that was setting up the runtime
        done, size, known = 0, 4, sum(unit_key(unit) in self._table for unit in ordered)
        while done < len(missing):
            left = _UNITS_DONE * self._seconds - self._elapsed
            each = self._seconds_each(left, len(missing) - done)
            fitting = int((left - len(reference_graphs()) * each) / (each + self._making))
            if fitting < 1 and known + done > 0:
                break
            part = missing[done : done + max(1, min(size, fitting))]
            self._measure_apart({unit_key(u): (repr(u), unit_graph(u)) for u in part}, each)
            done, size = done + len(part), _BATCH
            self._tell(f"measuring operators: {known + done} of {len(ordered)}")

    def _seconds_each(self, left: float, number: int) -> float:
        """Seconds to time each unit for, so that all fit with their references, within what is sensible."""
        timed = number + len(reference_graphs()) * math.ceil(number / _BATCH + 1)
        return min(max((0.9 * left - number * self._making) / timed, _SHORTEST_S), _LONGEST_S)

    def _measure_batch(self, graphs: Mapping[str, tuple[str, Graph]], each: float) -> None:
        before = self._clock()
        self._table.measure(graphs, self._measurer, each)
        timing = each * (len(graphs) + len(reference_graphs()))
        if self._batches == 1:  # the first one is small and may have set up the runtime: it says little of later ones
            self._making_s, self._made = 0.0, 0
        self._batches += 1
        self._making_s += max(0.0, self._clock() - before - timing)
        self._made += len(graphs)
        if self._clock() - self._saved > _SAVE_EVERY_S:
            self._table.save()
            self._saved = self._clock()

    def _measure_apart(self, graphs: Mapping[str, tuple[str, Graph]], each: float) -> None:
        """Measure a batch of units; one that cannot run on its own is found by halving the batch, and left out."""
        try:
            self._measure_batch(graphs, each)
        except Exception as e:  # whatever torch, its exporter or a user's operator raises
            items = list(graphs.items())
            if len(items) == 1:
                ((what, _),) = graphs.values()
                self._failed[what] = f"{type(e).__name__}: {str(e).partition(chr(10))[0]}"
            elif self._elapsed < _UNITS_DONE * self._seconds:
                self._measure_apart(dict(items[: len(items) // 2]), each)
                self._measure_apart(dict(items[len(items) // 2 :]), each)

    def _measure_networks(self, members: Sequence[Graph]) -> dict[str, Graph]:
        """Time a few members whole, in one batch; those of earlier builds count. Networks by key."""
        candidates = {_network_key(graph): graph for graph in members[:_CANDIDATES] if self._runs(graph)}
        chosen = {key: graph for key, graph in candidates.items() if key in self._table}
        chosen = dict(islice(chosen.items(), _NETWORKS))
        others = [key for key in candidates if key not in self._table]
        number, each = self._affordable([candidates[key] for key in others], _NETWORKS - len(chosen))
        if number:
            self._tell(f"measuring {number} whole networks")
            sums = self._rough_sums([candidates[key] for key in others])
            new = {others[i]: candidates[others[i]] for i in _spread(sums, number)}
            self._measure_batch({key: (f"network of {self._space.name}", g) for key, g in new.items()}, each)
            chosen |= new
        return chosen

    def _runs(self, graph: Graph) -> bool:
        return all(measurable(unit) and repr(unit) not in self._failed for unit in units_of(graph))

    def _affordable(self, graphs: Sequence[Graph], wanted: int) -> tuple[int, float]:
        """How many networks fit into the time left, and the seconds to time each for."""
        left = (1 - _FITTING) * self._seconds - self._elapsed
        making = self._making * float(np.mean([len(graph) for graph in graphs] or [0]))
        for number in range(min(wanted, len(graphs)), 0, -1):
            each = (left - number * making) / (number + len(reference_graphs()))
            if each >= (_NETWORK_S if number > _FEWEST_NETWORKS else _SHORTEST_S):
                return number, min(each, _LONGEST_NETWORK_S)
        return 0, 0.0

    def _rough_sums(self, graphs: Sequence[Graph]) -> NDArray[np.float64]:
        """Sums by a first roofline, good enough to spread the networks over the range."""
        every = dict.fromkeys(unit for graph in graphs for unit in units_of(graph))
        rows = {unit: Row.of(unit) for unit in every}
        known = [unit for unit in every if unit_key(unit) in self._table]
        if not known:
            return np.array([graph.cost.bytes_moved for graph in graphs], np.float64)
        times = np.maximum([self._unit_ms(unit_key(unit)) for unit in known], SHORTEST_MS)
        rough = Interpolator("roofline", [rows[unit] for unit in known], times)
        ms = dict(zip(every, rough.predict([rows[unit] for unit in every]).tolist(), strict=True))
        return np.array([sum(n * ms[unit] for unit, n in units_of(graph).items()) for graph in graphs])

    def _unit_ms(self, key: str) -> float:
        """Time of a measured unit without what calling any network takes."""
        return self._table.latency_ms(key) - self._table.latency_ms(_EMPTY)

    def _fit(self, counts: Counter[Signature], networks: Mapping[str, Graph]) -> LatencyModel:
        rows = {unit_key(unit): Row.of(unit) for unit in counts}
        measured = {key: self._unit(key) for key in rows if key in self._table}
        if not measured:
            raise ConfigError(
                f"no operator of space {self._space.name!r} can run on its own, so none can be measured; "
                "cost it with 'macs' or 'bytes_moved'"
            )
        latencies = np.array([unit.ms for unit in measured.values()])
        interpolator, unit_error = choose([rows[key] for key in measured], latencies, self._rng)
        others = [key for key in rows if key not in measured]
        times = interpolator.predict([rows[key] for key in others]).tolist()
        model = LatencyModel(
            self._table.profile,
            self._table.latency_ms(_EMPTY),
            measured,
            dict(zip(others, times, strict=True)),
            interpolator,
            Correction(),
            LatencyError(unit_error, None),
        )
        return self._corrected(model, networks)

    def _unit(self, key: str) -> Unit:
        entry = self._table[key]
        spread = entry.iqr_ms / entry.median_ms if entry.median_ms else 0.0
        return Unit(entry.what, max(self._unit_ms(key), SHORTEST_MS), spread)

    def _corrected(self, model: LatencyModel, networks: Mapping[str, Graph]) -> LatencyModel:
        sums = np.array([model.sum_ms(graph) for graph in networks.values()])
        times = np.array([self._table.latency_ms(key) for key in networks])
        model.correction, error = fit_correction(sums, times)
        model.error = LatencyError(model.error.units, error)
        model.failed = self._failed
        predicted = model.correction(sums)
        model.networks = tuple(
            WholeNetwork(graph.id, float(t), float(s), float(p))
            for graph, t, s, p in zip(networks.values(), times, sums, predicted, strict=True)
        )
        return model


def in_order(counts: Mapping[Signature, int], rng: np.random.Generator) -> list[Signature]:
    """Units in the order to measure them: one of each stratum in turns, frequent strata first.

    Within a stratum the unit that moves most bytes and the one that moves fewest come first, so that sizes are
    interpolated rather than extrapolated, then the others at random, frequent ones sooner (Efraimidis and Spirakis
    2006: weighted order by the keys `u^(1/w)`).
    """
    strata: dict[str, list[Signature]] = defaultdict(list)
    for unit in counts:
        strata[stratum(unit)].append(unit)
    queues = []
    for members in strata.values():
        keys = rng.random(len(members)) ** (1.0 / np.array([max(counts[m], 1) for m in members]))
        queue = [members[i] for i in np.argsort(-keys)]
        by_size = sorted(members, key=lambda m: m.cost.bytes_moved)
        queues.append(list(dict.fromkeys([by_size[-1], by_size[0], *queue])))
    queues.sort(key=lambda queue: -sum(counts[m] for m in queue))
    return [queue[i] for i in range(max(map(len, queues), default=0)) for queue in queues if i < len(queue)]


def _count(graph: Graph, counts: Counter[Signature]) -> None:
    for unit, times in units_of(graph).items():
        counts[unit] += abs(times)


def _network_key(graph: Graph) -> str:
    return f"network:{graph.inline().id}"


def _spread(values: NDArray[np.float64], number: int) -> list[int]:
    """Positions of values at equal steps of rank, the smallest and the largest among them."""
    order = np.argsort(values, kind="stable")
    return [int(order[i]) for i in np.unique(np.linspace(0, len(values) - 1, number).round().astype(int))]
