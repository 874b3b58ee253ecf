"""The operator table of one device: measurements that outlive the run, in one JSON file.

Every batch of measurements times the same reference graphs, short and long ones, as well. A busy or hot machine slows
them as it slows what takes about as long, so a time divided by their slow-down is that of the quiet device.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from search_spaces.errors import DataError
from search_spaces.graph import Graph, GraphBuilder, Signature

from .device import DeviceProfile
from .measure import Measurement
from .units import unit_graph

Measurer = Callable[[Sequence[Graph], float], list[Measurement]]  # graphs, seconds for each
_FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One measurement.

    Attributes:
        what: the unit or network, for readers of the file.
        median_ms, iqr_ms, low_ms, repeats: as in `Measurement`.
        references_ms: `low_ms` of the reference graphs in the same batch.
    """

    what: str
    median_ms: float
    iqr_ms: float
    low_ms: float
    repeats: int
    references_ms: tuple[float, ...]


class OperatorTable:
    """Measurements of one `DeviceProfile`, by key (`unit_key`, `Graph.id`). Safe to share between processes."""

    def __init__(self, profile: DeviceProfile, path: Path) -> None:
        self.profile, self.path = profile, path
        self._entries = self._read()
        self._unsaved: dict[str, Entry] = {}
        self._quiet: tuple[float, ...] = ()

    @classmethod
    def of(cls, profile: DeviceProfile, directory: Path) -> OperatorTable:
        """The table of a device below a cache directory, with what earlier runs measured.

        Raises:
            DataError: the file is damaged.
        """
        return cls(profile, directory / "latency" / f"{profile.id}.json")

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __getitem__(self, key: str) -> Entry:
        return self._entries[key]

    def latency_ms(self, key: str) -> float:
        """Time on the quiet device: the undisturbed time as measured, divided by the slow-down of its batch."""
        entry = self._entries[key]
        return entry.low_ms / self._slowdown(entry)

    def _slowdown(self, entry: Entry) -> float:
        """Slow-down of the references relative to the quiet device (the lowest tenth of all batches).

        A short call is disturbed otherwise than a long one: between the references it is interpolated by the
        logarithm of the time.
        """
        if not self._quiet:
            every = sorted({e.references_ms for e in self._entries.values()})
            self._quiet = tuple(np.percentile(np.array(every), 10, axis=0, method="lower").tolist())
        ratios = [now / quiet for now, quiet in zip(entry.references_ms, self._quiet, strict=True)]
        known = sorted(zip(np.log(entry.references_ms).tolist(), ratios, strict=True))
        return float(np.interp(math.log(entry.low_ms), [t for t, _ in known], [r for _, r in known]))

    def measure(self, graphs: Mapping[str, tuple[str, Graph]], measurer: Measurer, seconds: float) -> None:
        """Measure graphs in one batch with the references and file them; `graphs` maps keys to (what, graph)."""
        references = reference_graphs()
        results = measurer([*(graph for _, graph in graphs.values()), *references], seconds)
        yardstick = tuple(_round(m.low_ms) for m in results[len(graphs) :])
        for (key, (what, _)), m in zip(graphs.items(), results, strict=False):
            times = (_round(m.median_ms), _round(m.iqr_ms), _round(m.low_ms))
            entry = Entry(what, *times, m.repeats, yardstick)
            self._entries[key] = self._unsaved[key] = entry
        self._quiet = ()

    def save(self) -> None:
        """Merge the new measurements into the file under a lock; what other processes wrote meanwhile stays."""
        from filelock import FileLock

        if not self._unsaved:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            merged = {**self._read(), **self._unsaved}
            data = {
                "format": _FORMAT,
                "profile": self.profile.to_dict(),
                "entries": {key: asdict(entry) for key, entry in sorted(merged.items())},
            }
            write_atomically(self.path, json.dumps(data, indent=1))
        self._entries = {**merged, **self._entries}
        self._unsaved, self._quiet = {}, ()

    def _read(self) -> dict[str, Entry]:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as e:
            raise DataError(f"operator table {self.path} cannot be read ({e}); delete it to measure again") from None
        try:
            if data["format"] != _FORMAT or data["profile"] != self.profile.to_dict():
                raise ValueError(f"format {data['format']} or device differs")
            return {
                key: Entry(**{**entry, "references_ms": tuple(entry["references_ms"])})
                for key, entry in data["entries"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise DataError(f"operator table {self.path} is not what was written ({e}); delete it") from None


@cache
def unit_key(signature: Signature) -> str:
    """Key of a unit: its operator and a hash of the primitive graph it stands for, so that changed blocks differ."""
    meaning = unit_graph(signature) if signature.body is None else signature.body.inline()
    return f"{signature.operator.name}:{meaning.id}"


@cache
def reference_graphs() -> tuple[Graph, ...]:
    """What stands for the device's speed, the same for every space: a function, a convolution, a block, a network."""
    function, convolution = GraphBuilder((16, 8, 8)), GraphBuilder((16, 8, 8))
    block, network = GraphBuilder((24, 14, 14)), GraphBuilder((24, 14, 14))
    x = network.input
    for kernel in (3, 5, 7, 3, 5, 7):
        x = network.add("inverted_residual", x, out_channels=24, kernel_size=kernel, expansion=6)
    return (
        function.build(function.add("activation", function.input)),
        convolution.build(convolution.add("conv_bn_act", convolution.input, out_channels=16)),
        block.build(block.add("inverted_residual", block.input, out_channels=24, expansion=3)),
        network.build(x),
    )


def empty_graph() -> Graph:
    """A network that does nothing: what it takes is the overhead of calling a network."""
    g = GraphBuilder((1, 1, 1))
    return g.build(g.add("identity", g.input))


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step; a reader sees the old text or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _round(milliseconds: float) -> float:
    """Seven significant digits: more is noise, and the file is read by people."""
    return float(f"{milliseconds:.7g}")
