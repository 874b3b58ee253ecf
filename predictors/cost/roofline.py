"""A device as a roofline: for each kind of operator a peak and the time of a call, and one memory bandwidth for all.

`latency = scale * sum over operators of max(work / peak, bytes / bandwidth) + call` (Williams et al. 2009; bytes as in
ShuffleNet V2, section 2). The rates are fitted to a fixed set of small probes, timed once a device in seconds: after
that any network of any space has a latency without being measured, and a reason for it.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import ConfigError, DataError
from search_spaces.graph import Graph, Node, Signature

from .base import CostModel, SignatureCosts, register_cost_model
from .correction import Correction
from .device import DeviceProfile
from .features import kind
from .interpolation import spearman
from .probes import EMPTY, FEWEST, measure_probes, probes, whole_networks
from .table import Measurer, OperatorTable, unit_key
from .units import runs

Floats = NDArray[np.float64]
Bound = Literal["compute", "memory", "overhead"]
_FORMAT = 1
_HELD_OUT = 4  # one probe in so many is kept from the fit that the error is told of
_SHORTEST_MS = 1e-6
_TRUSTED = 0.25
_ROUNDS = 20
_STREAMING = 1.5  # kinds within this factor of the fastest one without MACs are at first supposed to wait for memory


# ---- the model -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RooflineError:
    """Error on measured operators that the fit did not see.

    Attributes:
        median_ape: median absolute percentage error, as a share (0.03 is 3 %).
        spearman: rank correlation of predicted and measured times.
        operators: number of them.
    """

    median_ape: float
    spearman: float
    operators: int


@dataclass(frozen=True)
class Parts:
    """Milliseconds an operator needs for its arithmetic, for its bytes, and for being called; the longer of the
    first two counts."""

    compute_ms: float
    memory_ms: float
    call_ms: float

    @property
    def ms(self) -> float:
        return max(self.compute_ms, self.memory_ms) + self.call_ms

    @property
    def bound(self) -> Bound:
        if self.call_ms > max(self.compute_ms, self.memory_ms):
            return "overhead"
        return "compute" if self.compute_ms >= self.memory_ms else "memory"


@register_cost_model("roofline_ms")
class Roofline(CostModel):
    """Milliseconds of one inference of a profile's batch, from the rates of a device. Made by `measure` or `from_json`.

    Args:
        profile: the device.
        network_ms: time of calling an empty network.
        calls_ms: time of calling an operator, by kind (`features.kind`).
        peaks: work an operator does in a millisecond, by kind; see `work`.
        bandwidth: bytes moved in a millisecond.
        scale: what operators take in a network, where caches are cold, relative to being called again and again.
        error: error on operators held out, None where there were too few.
        operators: probes the rates are fitted to.
    """

    unit = "ms"
    source = "predicted"

    def __init__(
        self,
        profile: DeviceProfile,
        network_ms: float,
        calls_ms: Mapping[str, float],
        peaks: Mapping[str, float],
        bandwidth: float,
        scale: float = 1.0,
        error: RooflineError | None = None,
        operators: int = 0,
    ) -> None:
        self.profile, self.network_ms, self.bandwidth, self.scale = profile, network_ms, bandwidth, scale
        self.calls_ms, self.peaks = dict(calls_ms), dict(peaks)
        self.error, self.operators = error, operators
        self._call_ms = float(np.median(list(calls_ms.values()) or [0.0]))
        multiplying = [peak for name, peak in self.peaks.items() if name in _MULTIPLYING]
        self._usual_peak = float(np.median(multiplying or [math.inf]))  # of kinds that multiply and were not measured
        self._fused = profile.runtime == "onnxruntime"
        self._nodes = SignatureCosts(self._signature_ms)

    @classmethod
    def measure(
        cls,
        profile: DeviceProfile,
        *,
        seconds: float = 10.0,
        rng: np.random.Generator,
        measurer: Measurer | None = None,
        clock: Callable[[], float] = time.monotonic,
        directory: Path | None = None,
    ) -> Roofline:
        """Time the probes that the device's operator table does not have yet, within `seconds`, and fit the rates.

        Args:
            profile: this machine's profile, see `DeviceProfile.detect`.
            seconds: wall-clock time for measuring; a dozen probes are timed whatever it is.
            rng: draws the order of the probes, and which are held out.
            measurer: times graphs; by default a `NetworkTimer`.
            clock: seconds, for the time granted.
            directory: where the device's operator table is kept; by default `cache_directory()`.

        Raises:
            ConfigError: the profile is of another device, or no time is granted.
            DataError: the operator table on disk is damaged.
        """
        from .device import cache_directory

        if seconds <= 0:
            raise ConfigError(f"a roofline needs time to measure in; got seconds={seconds}, give at least 1")
        table = OperatorTable.of(profile, directory or cache_directory())
        measure_probes(table, profile, measurer, seconds, rng, clock)
        known = [p for p in probes() if unit_key(p) in table]
        overhead = table.latency_ms(EMPTY)
        times = np.array([max(table.latency_ms(unit_key(p)) - overhead, _SHORTEST_MS) for p in known])
        model = cls.fit(profile, known, times, rng, network_ms=overhead)
        whole = {key: graph for key, graph in whole_networks().items() if key in table}
        if whole:
            sums, taken = model.costs(whole.values()), np.array([table.latency_ms(key) for key in whole])
            model.scale = Correction.proportional(sums, taken).scale
        return model

    @classmethod
    def fit(
        cls,
        profile: DeviceProfile,
        operators: Sequence[Signature],
        times_ms: Floats,
        rng: np.random.Generator,
        *,
        network_ms: float = 0.0,
    ) -> Roofline:
        """The rates of measured primitive operators; the error is that of a fit to three quarters on the others.

        Args:
            operators: primitive operators.
            times_ms: their times for the profile's batch, without the overhead of a network.
            rng: draws those held out.
            network_ms: time of calling an empty network.
        """
        order = rng.permutation(len(operators))
        held, kept = order[::_HELD_OUT].tolist(), np.delete(order, np.s_[::_HELD_OUT]).tolist()
        error = None
        if len(kept) >= FEWEST:
            part = _fitted([operators[i] for i in kept], times_ms[kept], profile.batch)
            guess = cls(profile, network_ms, *part)
            predicted = np.array([guess.parts(operators[i]).ms for i in held])
            relative = np.abs(predicted / times_ms[held] - 1)
            error = RooflineError(float(np.median(relative)), spearman(predicted, times_ms[held]), len(held))
        rates = _fitted(operators, times_ms, profile.batch)
        return cls(profile, network_ms, *rates, error=error, operators=len(operators))

    # ---- costs -------------------------------------------------------------------------------------------

    def cost(self, graph: Graph) -> float:
        nodes, total = self._nodes, self.network_ms
        live = graph.live()
        left_out = folded(live) if self._fused else ()
        for node in live.nodes:
            if node.name not in left_out:
                total += nodes[node.signature]
        return float(self.scale * total)

    def _signature_ms(self, signature: Signature) -> float:
        if signature.body is None:
            return self.parts(signature).ms
        body = signature.body.simplify()
        left_out = folded(body) if self._fused else ()
        return sum(self.parts(node.signature).ms for node in body.nodes if node.name not in left_out)

    def parts(self, signature: Signature) -> Parts:
        """What a primitive operator's time is made of; nothing for what is not executed."""
        if not runs(signature):
            return Parts(0.0, 0.0, 0.0)
        name, batch = kind(signature), self.profile.batch
        peak = self.peaks.get(name) or (self._usual_peak if signature.cost.macs else math.inf)
        return Parts(
            batch * work(signature) / peak,
            _bytes(signature, batch) / self.bandwidth,
            self.calls_ms.get(name, self._call_ms),
        )

    # ---- explaining --------------------------------------------------------------------------------------

    def times(self, graph: Graph) -> dict[str, float]:
        """Milliseconds of each primitive operator that is executed, by its name in `graph.inline()`."""
        return {name: self.scale * parts.ms for name, parts in self._executed(graph).items()}

    def bound(self, node: Node) -> Bound:
        """What a node waits for; of a composite, what most of its time is spent on.

        `overhead`: calling it takes longer than running it. `memory`, `compute`: the longer of its two needs.
        """
        body = node.signature.body
        if body is None:
            return self.parts(node.signature).bound
        spent: dict[Bound, float] = defaultdict(float)
        for inner in body.simplify().nodes:
            parts = self.parts(inner.signature)
            spent[parts.bound] += parts.ms
        return max(spent, key=lambda b: spent[b]) if spent else "overhead"

    def shares(self, graph: Graph) -> dict[Bound, float]:
        """Shares of a network's time: arithmetic or moving bytes, whichever takes longer, and calling operators."""
        spent: dict[Bound, float] = {"compute": 0.0, "memory": 0.0, "overhead": 0.0}
        for parts in self._executed(graph).values():
            spent["overhead"] += parts.call_ms
            spent["compute" if parts.compute_ms >= parts.memory_ms else "memory"] += parts.ms - parts.call_ms
        total = sum(spent.values()) or 1.0
        return {name: ms / total for name, ms in spent.items()}

    def explain(self, graph: Graph) -> str:
        """What a network's time goes into, in a sentence."""
        shares, calls = self.shares(graph), len(self._executed(graph))
        told: dict[Bound, str] = {
            "overhead": f"calling its {calls} operators",
            "compute": "arithmetic",
            "memory": "waiting for memory",
        }
        largest = sorted((item for item in shares.items() if item[1] >= 0.005), key=lambda item: -item[1])
        parts = [f"{100 * share:.0f} % is {told[name]}" for name, share in largest]
        return f"Of its predicted time on this device {', '.join(parts)}."

    @property
    def trusted(self) -> bool:
        """Whether it was right enough on operators held out to explain something by it."""
        return self.error is not None and self.error.median_ape <= _TRUSTED

    def _executed(self, graph: Graph) -> dict[str, Parts]:
        """The operators that are run, by name, with what their times are made of."""
        simple = graph.simplify()
        left_out = folded(simple) if self._fused else frozenset[str]()
        nodes = [node for node in simple.nodes if node.name not in left_out and runs(node.signature)]
        return {node.name: self.parts(node.signature) for node in nodes}

    def summary(self) -> dict[str, Any]:
        """For the report: the device, its rates in common units, the error."""
        return {
            "device": str(self.profile),
            "device_id": self.profile.id,
            "operators": self.operators,
            "network_ms": self.network_ms,
            "call_ms": self._call_ms,
            "bandwidth_gb_s": self.bandwidth / 1e6,
            "scale": self.scale,
            "peak_gmacs_s": {name: peak / 1e6 for name, peak in sorted(self.peaks.items()) if name in _MULTIPLYING},
            "error": self.error and asdict(self.error),
        }

    # ---- storing -----------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Everything the model knows; `from_json` gives a model with the same costs."""
        data = {
            "format": _FORMAT,
            "profile": self.profile.to_dict(),
            "network_ms": self.network_ms,
            "calls_ms": dict(sorted(self.calls_ms.items())),
            "peaks": dict(sorted(self.peaks.items())),
            "bandwidth": self.bandwidth,
            "scale": self.scale,
            "error": self.error and asdict(self.error),
            "operators": self.operators,
        }
        return json.dumps(data, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Roofline:
        """Inverse of `to_json`; raises `DataError` for anything else."""
        try:
            data = json.loads(text)
            if data["format"] != _FORMAT:
                raise ValueError(f"format {data['format']}, expected {_FORMAT}")
            return cls(
                DeviceProfile.from_dict(data["profile"]),
                data["network_ms"],
                data["calls_ms"],
                data["peaks"],
                data["bandwidth"],
                data["scale"],
                data["error"] and RooflineError(**data["error"]),
                data["operators"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            told = f"{type(e).__name__}: {e}"
            raise DataError(f"not a roofline ({told}); expected what Roofline.to_json writes") from None


_MULTIPLYING = frozenset(
    {f"conv2d/{how}" for how in ("dense", "pointwise", "depthwise", "grouped")} | {"linear", "matmul"}
)


def work(signature: Signature) -> int:
    """Arithmetic of a primitive operator for one example: MACs; of operators without multiplication their additions
    and shifts; of others a step for each number written and each place of the window it is made from."""
    cost = signature.cost
    if cost.macs:
        return cost.macs
    window = signature.operator.attributes.get("kernel_size", 1)
    places = window**2 if isinstance(window, int) else math.prod(window)
    return max(cost.adds + cost.shifts, places * math.prod(signature.shape), *map(math.prod, signature.inputs), 1)


def _bytes(signature: Signature, batch: int) -> int:
    """Bytes of a batch; weights are read once."""
    cost = signature.cost
    weights = 4 * cost.params
    return batch * (cost.bytes_moved - weights) + weights if cost.bytes_moved else 0


def folded(graph: Graph, *, activations: bool = True) -> frozenset[str]:
    """Nodes that a runtime which fuses merges into the convolution or linear map before them, where nothing else reads
    it: a batch normalisation, and with `activations` a ReLU behind either."""
    readers: dict[str, int] = defaultdict(int)
    for name in (*graph.outputs, *(name for node in graph.nodes for name in node.inputs)):
        readers[name] += 1
    weighted = {node.name for node in graph.nodes if node.operator in ("conv1d", "conv2d", "linear")}
    norms: set[str] = set()
    found: set[str] = set()
    for node in graph.nodes:
        before = node.inputs[0] if len(node.inputs) == 1 else ""
        if readers[before] > 1:
            continue
        if node.operator == "batch_norm" and before in weighted:
            norms.add(node.name)
            found.add(node.name)
        elif activations and node.operator == "activation" and node.attributes["kind"] in ("relu", "relu6"):
            found |= {node.name} if before in weighted | norms else set()
    return frozenset(found)


# ---- fitting ---------------------------------------------------------------------------------------------


def _fitted(
    operators: Sequence[Signature], times_ms: Floats, batch: int
) -> tuple[dict[str, float], dict[str, float], float]:
    """Calls, peaks and bandwidth by alternating: which of its two needs each operator waits for, then the rates by
    non-negative least squares on relative errors, until nothing changes."""
    kinds = sorted({kind(s) for s in operators})
    at = np.array([kinds.index(kind(s)) for s in operators])
    works = np.array([batch * work(s) for s in operators], np.float64)
    moved = np.array([_bytes(s, batch) for s in operators], np.float64)
    calls, per_work, _ = _solve(at, len(kinds), works, moved, np.zeros(len(operators), bool), times_ms)
    plain = np.array([s.cost.macs == 0 for s in operators])
    streams = np.where(plain, per_work[at] * works, 0.0)
    per_byte = _STREAMING * _fastest_stream(streams, moved)
    attained = float(np.min(times_ms / np.maximum(moved, 1.0)))
    waits_for_memory = np.zeros(len(operators), bool)
    for _ in range(_ROUNDS):
        before, waits_for_memory = waits_for_memory, per_byte * moved > per_work[at] * works
        if np.array_equal(waits_for_memory, before):
            break
        calls, per_work, per_byte = _solve(at, len(kinds), works, moved, waits_for_memory, times_ms)
        per_byte = per_byte or attained
    peaks = {name: float(1 / r) for name, r in zip(kinds, per_work, strict=True) if r > 0}
    return dict(zip(kinds, calls.tolist(), strict=True)), peaks, 1 / (per_byte or attained)


def _solve(
    at: NDArray[np.int_], kinds: int, works: Floats, moved: Floats, waits_for_memory: NDArray[np.bool_], times: Floats
) -> tuple[Floats, Floats, float]:
    """Time of a call and of a unit of work by kind, and of a byte, for operators that wait for the one or the other."""
    from scipy.optimize import nnls

    rows = np.arange(len(times))
    x = np.zeros((len(times), 2 * kinds + 1))
    x[rows, at] = 1.0
    x[rows, kinds + at] = np.where(waits_for_memory, 0.0, works)
    x[:, -1] = np.where(waits_for_memory, moved, 0.0)
    x /= times[:, None]
    scale = np.maximum(x.max(axis=0), 1e-300)
    solved = nnls(x / scale, np.ones(len(times)))[0] / scale
    return solved[:kinds], solved[kinds:-1], float(solved[-1])


def _fastest_stream(compute: Floats, moved: Floats) -> float:
    """Time of a byte where most of them are moved in the time of the work (which is 0 where it is not to count)."""
    streams = (compute > 0) & (moved > 0)
    return float(np.min(compute[streams] / moved[streams])) if streams.any() else 0.0
