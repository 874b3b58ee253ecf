"""Timing networks for benchmarks: groups of them in rounds, in turns within each, on a clock of choice.

Ratios within a round are what is believed: other work on the machine hits all networks of a group alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.cost import DeviceProfile, Measurement
from predictors.cost.measure import measure_calls, prepare, running
from search_spaces import Graph

CLOCKS: dict[str, Callable[[], int]] = {"wall": time.perf_counter_ns, "cpu": time.thread_time_ns}
"""`cpu` is the time that the calling thread had a core: what one thread would take on an idle machine."""


class ClockedTimer:
    """Times batches of graphs on the CPU, as `NetworkTimer` does, on any clock."""

    def __init__(self, profile: DeviceProfile, clock: str) -> None:
        self._profile, self._timer = profile, CLOCKS[clock]

    def __call__(self, graphs: Sequence[Graph], seconds: float) -> list[Measurement]:
        with running(self._profile):
            return measure_calls(prepare(graphs, self._profile), seconds=seconds, timer=self._timer)


def in_rounds(
    groups: Mapping[str, Sequence[Graph]], profile: DeviceProfile, *, rounds: int, seconds: float, clock: str
) -> dict[str, NDArray[np.float64]]:
    """Milliseconds `(rounds, networks)` of each group: the tenth percentile of each round, as other work only adds.

    Args:
        groups: networks that are compared with one another, by any name.
        profile: a runtime on this machine's CPU.
        rounds: passes over all groups.
        seconds: for each network and round.
        clock: of `CLOCKS`.
    """
    found: dict[str, list[list[float]]] = {name: [] for name in groups}
    with running(profile):
        calls = {name: prepare(list(graphs), profile) for name, graphs in groups.items()}
        for _ in range(rounds):
            for name in groups:
                times = measure_calls(calls[name], seconds=seconds, timer=CLOCKS[clock])
                found[name].append([m.low_ms for m in times])
    return {name: np.array(rows) for name, rows in found.items()}


@dataclass(frozen=True)
class Ratios:
    """A figure of each network of a group relative to the first: medians over the rounds, and their quartiles."""

    median: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def of(cls, rows: NDArray[np.float64]) -> Ratios:
        """From `(rounds, networks)`."""
        low, median, high = np.percentile(rows / rows[:, :1], [25, 50, 75], axis=0)
        return cls(median, low, high)

    def told(self, digits: int = 3) -> dict[str, Any]:
        """As plain lists."""
        spread = [[round(float(a), digits), round(float(b), digits)] for a, b in zip(self.low, self.high, strict=True)]
        return {"ratio": [round(float(v), digits) for v in self.median], "quartiles": spread}
