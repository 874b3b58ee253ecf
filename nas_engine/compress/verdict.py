"""Before and after: what a cut costs and brings, measured side by side, and words for where it does not pay.

Latencies of all networks that are compared are taken in turns, so that a busy moment of the machine hits all alike.
A cut in MACs that is not seen in the latency is explained by what is measured: other cuts of the same size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from predictors.cost import DeviceProfile, Measurement, NetworkTimer
from search_spaces.graph import Graph

COUNTED = ("params", "macs", "activation_bytes")
PAYS = 0.6
"""A cut pays where the latency falls by this share of what the MACs fall by, at least."""

BUSY = 0.5
"""Interquartile range, as a share of the median, from which on measurements are told to be disturbed."""

_MAKERS = ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d")
_LISTED = 4


@dataclass(frozen=True)
class Setting:
    """How latency is measured: a runtime and a batch."""

    runtime: str
    batch: int

    @property
    def name(self) -> str:
        return f"{self.runtime}_{self.batch}"

    def __str__(self) -> str:
        return f"{self.runtime}, batch {self.batch}"


SETTINGS = tuple(Setting(runtime, batch) for runtime in ("torch", "onnxruntime") for batch in (1, 16))


def settings_for(device: str) -> tuple[Setting, ...]:
    """All settings that a device can be measured in."""
    return SETTINGS if device == "cpu" else tuple(s for s in SETTINGS if s.runtime == "torch")


def measured(
    graphs: Mapping[str, Graph], setting: Setting, threads: int, seconds: float, device: str = "cpu"
) -> dict[str, Measurement]:
    """Latencies of some graphs in one setting, taken in turns; `seconds` for each."""
    profile = DeviceProfile.detect(runtime=setting.runtime, device=device, threads=threads, batch=setting.batch)  # type: ignore[arg-type]
    times = NetworkTimer(profile)(list(graphs.values()), seconds)
    return dict(zip(graphs, times, strict=True))


def latencies(
    graphs: Mapping[str, Graph], threads: int, seconds: float, device: str = "cpu"
) -> dict[str, dict[str, dict[str, float]]]:
    """Latencies of some graphs in every setting: setting, graph, then the figures of `Measurement`."""
    return {
        setting.name: {n: asdict(m) for n, m in measured(graphs, setting, threads, seconds, device).items()}
        for setting in settings_for(device)
    }


def ratio(times: Mapping[str, Mapping[str, float]], name: str) -> float:
    """Median latency of a network as a share of the uncut one's."""
    return times[name]["median_ms"] / times["before"]["median_ms"]


def pays(graphs: Mapping[str, Graph], times: Mapping[str, Mapping[str, Mapping[str, float]]]) -> bool:
    """Whether the latency falls with the MACs in all settings; see `PAYS`."""
    fall = 1 - graphs["after"].cost.macs / graphs["before"].cost.macs
    return all(1 - ratio(found, "after") >= PAYS * fall for found in times.values())


def counted(graph: Graph) -> dict[str, float]:
    """Parameters, MACs and the peak of activations of one image."""
    from predictors.cost import make_cost_model

    return {name: float(make_cost_model(name).cost(graph)) for name in COUNTED}


# ---- words -------------------------------------------------------------------------------------------------


def change(share: float) -> str:
    """A ratio as a change.

    >>> change(0.52), change(1.0), change(1.08)
    ('-48 %', '+0 %', '+8 %')
    """
    return f"{round(100 * (share - 1)):+d} %"


def misfits(graph: Graph, multiple: int) -> list[int]:
    """Numbers of output channels of a graph's convolutions that do not fill whole vectors, falling."""
    widths = {node.shape[0] for node in graph.simplify() if node.operator in _MAKERS}
    return sorted((w for w in widths if w % multiple and w > 1), reverse=True)


def explained(
    graphs: Mapping[str, Graph], times: Mapping[str, Mapping[str, Mapping[str, float]]], multiple: int, threads: int
) -> list[str]:
    """What the cut brings in each setting, and why not more where it does not pay.

    Args:
        graphs: `before`, `after`, and other cuts by what they are (`rounding to 8`, `leaving out 3 blocks`).
        times: as `latencies` gives them, for the same names.
        multiple: channels that fill a vector of the device.
    """
    macs = {name: graph.cost.macs for name, graph in graphs.items()}
    fall = 1 - macs["after"] / macs["before"]
    told = []
    for setting in SETTINGS:
        if setting.name not in times:
            continue
        share = ratio(times[setting.name], "after")
        line = f"MACs {change(1 - fall)}, latency {change(share)} ({setting}, {_threads(threads)})"
        if _within_spread(times[setting.name]):
            line += ", which is within the spread of the measurements"
        reasons = list(_reasons(graphs, times, setting, fall, multiple))
        if 1 - share < PAYS * fall and reasons:
            line += f": {'; '.join(reasons)}"
        told.append(line)
    return told


def disturbance(times: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Words for latencies that scatter too much to be believed; nothing where they do not."""
    worst = max((m["iqr_ms"] / m["median_ms"] for t in times.values() for m in t.values()), default=0.0)
    if worst < BUSY:
        return ""
    return f"the machine was busy while latency was measured (spread up to {100 * worst:.0f} % of the median)"


def _threads(threads: int) -> str:
    return f"{threads} thread{'s' if threads != 1 else ''}"


def _within_spread(times: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether the networks differ by less than half of their interquartile ranges together."""
    before, after = times["before"], times["after"]
    return abs(before["median_ms"] - after["median_ms"]) < (before["iqr_ms"] + after["iqr_ms"]) / 2


def _reasons(
    graphs: Mapping[str, Graph],
    times: Mapping[str, Mapping[str, Mapping[str, float]]],
    setting: Setting,
    fall: float,
    multiple: int,
) -> Iterator[str]:
    """Why the latency fell by less than the MACs, each by a figure that was measured."""
    own, share = times[setting.name], ratio(times[setting.name], "after")
    uneven = misfits(graphs["after"], multiple)
    others = [name for name in own if name not in ("before", "after") and ratio(own, name) < share]
    rounded = [name for name in others if name.startswith("rounding")]
    if uneven and rounded:
        yield f"channels of {_and(uneven)} waste the vector unit"
    single, many = (times.get(Setting(setting.runtime, batch).name) for batch in (1, 16))
    if setting.batch == 1 and single and many and 1 - ratio(many, "after") > 1 - share + 0.1:
        calls = sum(node.operator != "input" for node in graphs["after"].simplify())
        yield (
            f"a single image is bound by calling {calls} operators, of which the cut removes none "
            f"(16 images at a time: {change(ratio(many, 'after'))})"
            if calls >= sum(node.operator != "input" for node in graphs["before"].simplify())
            else f"a single image is bound by calling {calls} operators (16 at a time: {change(ratio(many, 'after'))})"
        )
    moved = graphs["after"].cost.bytes_moved / graphs["before"].cost.bytes_moved
    if 1 - moved < PAYS * fall:
        yield f"bytes moved fall by {100 * (1 - moved):.0f} % only" if moved < 1 else "bytes moved do not fall"
    for name in others:
        yield f"{name} gives {change(ratio(own, name))}"


def _and(numbers: Sequence[int]) -> str:
    shown = [str(n) for n in sorted(numbers[:_LISTED])]
    more = f" and {len(numbers) - _LISTED} more widths" if len(numbers) > _LISTED else ""
    return (", ".join(shown[:-1]) + " and " + shown[-1] if len(shown) > 1 and not more else ", ".join(shown)) + more
