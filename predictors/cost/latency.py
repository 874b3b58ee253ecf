"""Latency of any member of a space on one device, from a table of its operators.

What a space's networks are made of is measured once a device, the rest is interpolated, and a few whole networks
correct the sum. After that a latency is one look-up a node, so whole spaces are ranked as fast as their MACs are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import ConfigError, DataError
from search_spaces.graph import Graph, Signature

from .base import CostModel, register_cost_model
from .correction import Correction, NetworkError
from .device import DeviceProfile
from .interpolation import Interpolator, Row, UnitError
from .measure import NetworkTimer
from .table import Measurer, OperatorTable, reference_graphs, unit_key
from .units import units

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace

Progress = Callable[[float, str], None]  # share done, what is being done
_CHUNK = 2048  # graphs looked at together, so that unknown units are interpolated together
_FORMAT = 1


@dataclass(frozen=True)
class WholeNetwork:
    """A network measured whole: its id, its time, and what the units sum to before and after the correction."""

    id: str
    measured_ms: float
    sum_ms: float
    predicted_ms: float


@dataclass(frozen=True)
class LatencyError:
    """What is known of a model's error: of interpolated units (cross-validated), of whole networks (leave-one-out)."""

    units: UnitError | None
    networks: NetworkError | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "units": self.units and self.units.to_dict(),
            "networks": self.networks and self.networks.to_dict(),
        }


@dataclass(frozen=True)
class Unit:
    """A measured unit: what it is, its time on the quiet device without the overhead of a call, the spread of that."""

    what: str
    ms: float
    spread: float


@register_cost_model("latency_ms")
class LatencyModel(CostModel):
    """Milliseconds of one inference of a profile's batch: `offset + scale * (overhead + sum over units)`.

    Made by `build` or `from_json`. A unit is a primitive operator or a fused composite (`units.units`); units that
    were neither measured nor met at the time of building, of any space, are interpolated when they come.

    Args:
        profile: the device.
        overhead_ms: time of calling an empty network.
        measured: measured units by `unit_key`.
        interpolated: milliseconds of units interpolated at the time of building, by key.
        interpolator: for all other units.
        correction: from sums to networks.
        error: what is known of the model's error.
        networks: the whole networks behind `correction`.
        failed: units that could not be run on their own, with the reason; they are interpolated.
    """

    unit = "ms"
    source = "table"

    def __init__(
        self,
        profile: DeviceProfile,
        overhead_ms: float,
        measured: Mapping[str, Unit],
        interpolated: Mapping[str, float],
        interpolator: Interpolator,
        correction: Correction,
        error: LatencyError,
        networks: Sequence[WholeNetwork] = (),
        failed: Mapping[str, str] | None = None,
    ) -> None:
        self.profile, self.overhead_ms = profile, overhead_ms
        self.measured, self.interpolated = dict(measured), dict(interpolated)
        self.interpolator, self.correction = interpolator, correction
        self.error, self.networks = error, tuple(networks)
        self.failed = dict(failed or {})
        self._units: dict[Signature, float] = {}
        self._nodes: dict[Signature, float] = {}

    @classmethod
    def build(
        cls,
        space: SearchSpace,
        profile: DeviceProfile,
        *,
        seconds: float = 120.0,
        rng: np.random.Generator,
        progress: Progress | None = None,
        measurer: Measurer | None = None,
        clock: Callable[[], float] = time.monotonic,
        directory: Path | None = None,
    ) -> LatencyModel:
        """Measure a space's units and a few of its networks within `seconds`, and fit what was not measured.

        Args:
            space: where the units come from.
            profile: this machine's profile, see `DeviceProfile.detect`.
            seconds: wall-clock time for everything; less is used where all is measured or known from earlier runs.
            rng: draws the members looked at, the units measured and the folds.
            progress: told the share done and what is being done.
            measurer: times graphs; by default a `NetworkTimer`.
            clock: seconds, for the time granted.
            directory: where the device's operator table is kept; by default `cache_directory()`.

        Raises:
            ConfigError: the profile is of another device.
            DataError: the operator table on disk is damaged.
        """
        from .build import Builder
        from .device import cache_directory

        if seconds <= 0:
            raise ConfigError(f"latency needs time to measure in; got seconds={seconds}, give at least 1")
        if measurer is None:
            measurer = NetworkTimer(profile, reference_graphs())
        table = OperatorTable.of(profile, directory or cache_directory())
        return Builder(space, table, measurer, seconds, rng, progress or (lambda share, what: None), clock).build()

    # ---- costs -------------------------------------------------------------------------------------------

    def cost(self, graph: Graph) -> float:
        self._learn([graph])
        return self._latency(graph)

    def costs(self, graphs: Iterable[Graph]) -> NDArray[np.float64]:
        return np.fromiter(self._stream(graphs), np.float64)

    def _stream(self, graphs: Iterable[Graph]) -> Iterator[float]:
        feed = iter(graphs)
        while chunk := list(islice(feed, _CHUNK)):
            self._learn(chunk)
            yield from map(self._latency, chunk)

    def _latency(self, graph: Graph) -> float:
        return float(self.correction.offset_ms + self.correction.scale * self._sum(graph))

    def sum_ms(self, graph: Graph) -> float:
        """Overhead and units of a graph, before the correction."""
        self._learn([graph])
        return self._sum(graph)

    def _sum(self, graph: Graph) -> float:
        nodes, total = self._nodes, self.overhead_ms
        needed = set(graph.outputs)
        for node in reversed(graph.nodes):
            if node.name in needed:
                total += nodes[node.signature]
                needed.update(node.inputs)
        return total

    def _learn(self, graphs: Sequence[Graph]) -> None:
        """Look up or interpolate, in one go, whatever signature of these graphs is not known yet."""
        known = self._nodes
        new = {node.signature for graph in graphs for node in graph.nodes if node.signature not in known}
        if not new:
            return
        wanted = {unit for signature in new for unit, _ in units(signature)}
        self._units.update(self._times([unit for unit in wanted if unit not in self._units]))
        for signature in new:
            known[signature] = sum(times * self._units[unit] for unit, times in units(signature))

    def _times(self, wanted: Sequence[Signature]) -> dict[Signature, float]:
        found: dict[Signature, float] = {}
        for unit in wanted:
            key = unit_key(unit)
            if key in self.measured:
                found[unit] = self.measured[key].ms
            elif key in self.interpolated:
                found[unit] = self.interpolated[key]
        rest = [unit for unit in wanted if unit not in found]
        predicted = self.interpolator.predict([Row.of(unit) for unit in rest])
        return {**found, **dict(zip(rest, predicted.tolist(), strict=True))}

    # ---- what it knows -----------------------------------------------------------------------------------

    def source_of(self, signature: Signature) -> Literal["measured", "interpolated"]:
        """Whether all units of a signature were measured."""
        every = all(unit_key(unit) in self.measured for unit, _ in units(signature))
        return "measured" if every else "interpolated"

    def summary(self) -> dict[str, Any]:
        """For the report: the device, units and share measured, spread of the measurements, errors, networks."""
        known = len(self.measured) + len(self.interpolated)
        spreads = [unit.spread for unit in self.measured.values()]
        return {
            "device": str(self.profile),
            "device_id": self.profile.id,
            "units": known,
            "measured": len(self.measured),
            "measured_share": len(self.measured) / max(known, 1),
            "median_spread": float(np.median(spreads)) if spreads else None,
            "overhead_ms": self.overhead_ms,
            "interpolation": self.interpolator.kind,
            "correction": {"offset_ms": self.correction.offset_ms, "scale": self.correction.scale},
            "error": self.error.to_dict(),
            "networks": [asdict(network) for network in self.networks],
            "failed": self.failed,
        }

    # ---- storing -----------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Everything the model knows; `from_json` gives a model with the same costs."""
        data = {
            "format": _FORMAT,
            "profile": self.profile.to_dict(),
            "overhead_ms": self.overhead_ms,
            "measured": {key: asdict(unit) for key, unit in sorted(self.measured.items())},
            "interpolated": dict(sorted(self.interpolated.items())),
            "interpolator": self.interpolator.to_dict(),
            "correction": asdict(self.correction),
            "error": self.error.to_dict(),
            "networks": [asdict(network) for network in self.networks],
            "failed": self.failed,
        }
        return json.dumps(data, indent=1)

    @classmethod
    def from_json(cls, text: str) -> LatencyModel:
        """Inverse of `to_json`; raises `DataError` for anything else."""
        try:
            data = json.loads(text)
            if data["format"] != _FORMAT:
                raise ValueError(f"format {data['format']}, expected {_FORMAT}")
            error = data["error"]
            return cls(
                DeviceProfile.from_dict(data["profile"]),
                data["overhead_ms"],
                {key: Unit(**unit) for key, unit in data["measured"].items()},
                data["interpolated"],
                Interpolator.from_dict(data["interpolator"]),
                Correction(**data["correction"]),
                LatencyError(
                    error["units"] and UnitError(**error["units"]),
                    error["networks"] and NetworkError(**error["networks"]),
                ),
                [WholeNetwork(**network) for network in data["networks"]],
                data["failed"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            told = f"{type(e).__name__}: {e}"
            raise DataError(f"not a latency model ({told}); expected what LatencyModel.to_json writes") from None
