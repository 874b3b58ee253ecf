"""ShuffleNet V2's four guidelines on this device, and what cost models make of them. Prints one JSON line last.

    python -m benchmarks.guidelines [--runtimes torch onnxruntime] [--sizes 1 2 4] [--pixels 56] [--rounds 6]
        [--seconds 0.2] [--probes 100] [--clock cpu]

Networks are those of the paper's tables 1 to 4 in the widths of its ARM column, images of 56 x 56, one thread, batch 1;
those of a table have about equal MACs (`macs` tells) and are timed in turns. `x2`, `x4`: all widths doubled, fourfold.
Convolutions have a bias and no batch normalisation, which would be folded into them.

- G1: ten blocks of two 1x1 convolutions, c1 to c2 channels and back. `G1 in multiples of 8`: pairs of our own, as most
  of the paper's are not, and vectors are left part empty by them.
- G2: ten 1x1 convolutions in groups.
- G3: ten blocks of one convolution, or of two or four thinner ones, one after the other or side by side and added.
- G4: ten bottlenecks (1x1 to a quarter of the channels, 3x3, 1x1 back) with and without ReLU and shortcut.

Figures of a table: `speed`, inferences a second relative to the first row, with quartiles over the rounds; `paper`, the
same of its ARM device; `predicted` by models. `macs` and `bytes_moved` take time to be proportional to the one;
`linear` is the sum of both and of a time for each operator called, fitted to the tables of the other guidelines;
`vectors` is the same with channels of a group rounded up to whole vectors in the count of MACs; `roofline` is the
engine's, fitted to its probes alone. Errors of a model: `ratio`, median of |predicted / measured - 1|
of the speeds that are not 1 by definition; `absolute`, the same of milliseconds (`macs` and `bytes_moved` have one rate
for all networks); `order`, the share of pairs of a table, of those that differ by 5 % or more, that it puts in the
right order.

The clock is by default the time that the thread had a core (`--clock wall` for what passed): on a busy machine it is
that of an idle one.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import publish
from benchmarks.timing import CLOCKS, ClockedTimer, Ratios, in_rounds
from predictors.cost import DeviceProfile
from predictors.cost.roofline import Roofline, folded
from predictors.cost.units import runs
from predictors.ranking import kendall_tau
from search_spaces import Graph, GraphBuilder, Node

Floats = NDArray[np.float64]
BLOCKS = 10
NOTICEABLE = 0.05
MODELS = ("macs", "bytes_moved", "linear", "vectors", "roofline")
LANES = {"avx512f": 16, "avx2": 8, "avx": 8, "asimd": 4, "neon": 4}
"""Numbers in a vector, by the instructions that a profile's processor names last."""

# Ma et al. 2018, tables 1 to 4, images a second on the ARM device at x1, x2, x4; None where we have no figure
_PAIRS = {
    "1:1": ((32, 32), (76.2, 21.7, 5.3)),
    "1:2": ((22, 44), (72.9, 20.5, 5.1)),
    "1:6": ((13, 78), (69.1, 17.9, 4.6)),
    "1:12": ((9, 108), (57.6, 15.1, 4.4)),
}
_OWN_PAIRS = {"1:1": (24, 24), "1:2.25": (16, 36), "1:4": (12, 48), "1:9": (8, 72), "1:16": (6, 96)}
_GROUPS = {1: (40.0, 10.2, 2.3), 2: (35.0, 9.5, 2.2), 4: (32.9, 8.7, 2.1), 8: (27.8, 7.5, 1.8)}
_FRAGMENTS = {
    "1": (40.2, 10.1, 2.3),
    "2 in series": (38.6, None, None),
    "4 in series": (38.4, None, None),
    "2 in parallel": (33.4, 9.1, 2.2),
    "4 in parallel": (35.0, 8.4, 2.1),
}
_ELEMENT_WISE = {
    "ReLU and shortcut": (56.7, 16.9, 5.0),
    "ReLU": (61.9, None, None),
    "shortcut": (57.3, None, None),
    "neither": (66.3, 20.2, 5.4),
}
_CHANNELS = {"G2": 64, "G3": 64, "G4": 32}
_SIZES = (1, 2, 4)


# ---- networks ----------------------------------------------------------------------------------------------


def unequal(narrow: int, wide: int, pixels: int) -> Graph:
    """G1: 1x1 convolutions from `narrow` to `wide` channels and back."""
    g = GraphBuilder((narrow, pixels, pixels))
    x = g.input
    for _ in range(BLOCKS):
        x = _pointwise(g, _pointwise(g, x, wide), narrow)
    return g.build(x)


def grouped(channels: int, groups: int, pixels: int) -> Graph:
    """G2: 1x1 convolutions in groups."""
    g = GraphBuilder((channels, pixels, pixels))
    x = g.input
    for _ in range(BLOCKS):
        x = _pointwise(g, x, channels, groups)
    return g.build(x)


def fragmented(channels: int, fragments: int, parallel: bool, pixels: int) -> Graph:
    """G3: blocks of so many 1x1 convolutions."""
    g = GraphBuilder((channels, pixels, pixels))
    x = g.input
    for _ in range(BLOCKS):
        if parallel and fragments > 1:
            x = g.add("add", *[_pointwise(g, x, channels) for _ in range(fragments)])
        else:
            for _ in range(fragments):
                x = _pointwise(g, x, channels)
    return g.build(x)


def bottlenecks(channels: int, relu: bool, shortcut: bool, pixels: int) -> Graph:
    """G4: ResNet's bottlenecks with a quarter of the channels inside."""
    g = GraphBuilder((channels, pixels, pixels))

    def maybe_relu(y: Node) -> Node:
        return g.add("activation", y, kind="relu") if relu else y

    x = g.input
    for _ in range(BLOCKS):
        y = maybe_relu(_pointwise(g, x, channels // 4))
        y = maybe_relu(
            g.add("conv2d", y, out_channels=channels // 4, kernel_size=3, padding="same", groups=1, bias=True)
        )
        y = _pointwise(g, y, channels)
        x = maybe_relu(g.add("add", y, x) if shortcut else y)
    return g.build(x)


def _pointwise(g: GraphBuilder, x: Node, channels: int, groups: int = 1) -> Node:
    return g.add("conv2d", x, out_channels=channels, kernel_size=1, groups=groups, bias=True)


# ---- the paper's tables ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Networks with about equal MACs, in the order of the paper.

    Attributes:
        guideline: `G1` to `G4`.
        name: of the table.
        size: what the widths are multiplied by.
        rows: what the networks are called.
        widths: their channels.
        graphs: the networks.
        paper: images a second on the paper's ARM device.
    """

    guideline: str
    name: str
    size: int
    rows: tuple[str, ...]
    widths: tuple[Any, ...]
    graphs: tuple[Graph, ...]
    paper: tuple[float | None, ...]

    @property
    def key(self) -> str:
        return f"{self.name} x{self.size}"


def tables(sizes: Sequence[int], pixels: int) -> list[Table]:
    """The tables at some sizes, with the rows in the order of the paper's."""
    found = []
    for size in sizes:
        at = _SIZES.index(size)
        found += [_widths_table(size, at, pixels), _groups_table(size, at, pixels)]
        found += [_fragments_table(size, at, pixels), _element_wise_table(size, at, pixels)]
    if 4 in sizes:
        found.append(_own_widths_table(4, pixels))
    return sorted(found, key=lambda table: (table.guideline, table.name, table.size))


def _widths_table(size: int, at: int, pixels: int) -> Table:
    widths = [(size * a, size * b) for (a, b), _ in _PAIRS.values()]
    graphs = tuple(unequal(a, b, pixels) for a, b in widths)
    return Table("G1", "G1", size, tuple(_PAIRS), tuple(widths), graphs, tuple(p[at] for _, p in _PAIRS.values()))


def _own_widths_table(size: int, pixels: int) -> Table:
    widths = tuple((size * a, size * b) for a, b in _OWN_PAIRS.values())
    graphs = tuple(unequal(a, b, pixels) for a, b in widths)
    return Table("G1", "G1 in multiples of 8", size, tuple(_OWN_PAIRS), widths, graphs, (None,) * len(widths))


def _groups_table(size: int, at: int, pixels: int) -> Table:
    """Channels grow with the root of the groups, to a multiple of them."""
    channels = {g: g * round(size * _CHANNELS["G2"] * math.sqrt(g) / g) for g in _GROUPS}
    rows = tuple(f"g = {g}" for g in _GROUPS)
    graphs = tuple(grouped(c, g, pixels) for g, c in channels.items())
    return Table("G2", "G2", size, rows, tuple(channels.values()), graphs, tuple(p[at] for p in _GROUPS.values()))


def _fragments_table(size: int, at: int, pixels: int) -> Table:
    counts = [(int(name.split()[0]), name.endswith("parallel")) for name in _FRAGMENTS]
    widths = tuple(round(size * _CHANNELS["G3"] / math.sqrt(count)) for count, _ in counts)
    graphs = tuple(fragmented(c, n, parallel, pixels) for c, (n, parallel) in zip(widths, counts, strict=True))
    return Table("G3", "G3", size, tuple(_FRAGMENTS), widths, graphs, tuple(p[at] for p in _FRAGMENTS.values()))


def _element_wise_table(size: int, at: int, pixels: int) -> Table:
    channels = size * _CHANNELS["G4"]
    kinds = [("ReLU" in name, "shortcut" in name) for name in _ELEMENT_WISE]
    graphs = tuple(bottlenecks(channels, relu, shortcut, pixels) for relu, shortcut in kinds)
    paper = tuple(p[at] for p in _ELEMENT_WISE.values())
    return Table("G4", "G4", size, tuple(_ELEMENT_WISE), (channels,) * len(kinds), graphs, paper)


# ---- models ------------------------------------------------------------------------------------------------


def amounts(graph: Graph, profile: DeviceProfile) -> tuple[float, float, float, float]:
    """MACs, bytes moved, operators called, and MACs when whole vectors are computed, of one image on a device.

    What a runtime that fuses folds into other operators is left out.
    """
    simple = graph.simplify()
    left_out = folded(simple) if profile.runtime == "onnxruntime" else frozenset[str]()
    nodes = [n for n in simple.nodes if runs(n.signature) and n.name not in left_out]
    lanes = next((n for name, n in LANES.items() if profile.processor.endswith(name)), 1)
    whole = sum(_whole_vectors(n, lanes) if n.operator == "conv2d" else n.signature.cost.macs for n in nodes)
    moved = sum(n.signature.cost.bytes_moved for n in nodes)
    return float(graph.cost.macs), float(moved), float(len(nodes)), float(whole)


def _whole_vectors(node: Node, lanes: int) -> float:
    """MACs of a convolution with the channels of a group, in and out, rounded up to whole vectors."""
    counts = [channels // node.attributes["groups"] for channels in (node.signature.inputs[0][0], node.shape[0])]
    return node.signature.cost.macs * math.prod(math.ceil(c / lanes) * lanes / c for c in counts)


def predictions(found: Sequence[Table], times: Sequence[Floats], roofline: Roofline) -> dict[str, list[Floats]]:
    """Milliseconds that each model predicts for the networks of each table.

    Args:
        found: the tables.
        times: their measured milliseconds, which all models but `roofline` are fitted to.
        roofline: of the device and runtime.
    """
    counts = [np.array([amounts(graph, roofline.profile) for graph in table.graphs]) for table in found]
    made: dict[str, list[Floats]] = {}
    for column, name in enumerate(("macs", "bytes_moved")):
        rates = [ms / x[:, column] for ms, x in zip(times, counts, strict=True)]
        rate = float(np.exp(np.log(np.concatenate(rates)).mean()))
        made[name] = [rate * x[:, column] for x in counts]
    for name, columns in (("linear", [0, 1, 2]), ("vectors", [3, 1, 2])):
        x = [rows[:, columns] for rows in counts]
        others = [[j for j, o in enumerate(found) if o.guideline != t.guideline] for t in found]
        made[name] = [x[i] @ _rates([x[j] for j in js], [times[j] for j in js]) for i, js in enumerate(others)]
    made["roofline"] = [roofline.costs(table.graphs) for table in found]
    return made


def _rates(counts: Sequence[Floats], times: Sequence[Floats]) -> Floats:
    """Time of one of each thing counted, by non-negative least squares on relative errors."""
    from scipy.optimize import nnls

    x = np.concatenate(counts) / np.concatenate(times)[:, None]
    scale = np.maximum(x.max(axis=0), 1e-300)
    return np.asarray(nnls(x / scale, np.ones(len(x)))[0] / scale)


def errors(times: Sequence[Floats], speeds: Sequence[Floats], predicted: Sequence[Floats]) -> dict[str, float]:
    """Errors of a model over some tables; see the module."""
    guessed = [p[0] / p for p in predicted]
    ratio = np.concatenate([np.abs(g / s - 1)[1:] for g, s in zip(guessed, speeds, strict=True)])
    absolute = np.concatenate([np.abs(p / t - 1) for p, t in zip(predicted, times, strict=True)])
    order = [right for s, g in zip(speeds, guessed, strict=True) for right in _pairs(s, g)]
    figures = {"ratio": float(np.median(ratio)), "absolute": float(np.median(absolute))}
    return figures | ({"order": float(np.mean(order))} if order else {})


def _pairs(truth: Floats, guess: Floats) -> Iterator[float]:
    """For each pair that differs noticeably whether it is in the right order; a half where the guess is a tie."""
    for i, j in combinations(range(len(truth)), 2):
        if abs(truth[i] / truth[j] - 1) >= NOTICEABLE:
            difference = guess[i] / guess[j] - 1
            yield 0.5 if abs(difference) < 1e-9 else float((difference > 0) == (truth[i] > truth[j]))


# ---- measuring ---------------------------------------------------------------------------------------------


def measured_roofline(profile: DeviceProfile, seconds: float, clock: str) -> Roofline:
    """A roofline whose probes are timed now and on the same clock, not taken from the user's table."""
    with tempfile.TemporaryDirectory() as folder:
        timer = ClockedTimer(profile, clock)
        rng = np.random.default_rng(0)
        return Roofline.measure(profile, seconds=seconds, rng=rng, measurer=timer, directory=Path(folder))


def on_runtime(found: Sequence[Table], profile: DeviceProfile, asked: argparse.Namespace) -> dict[str, Any]:
    """All figures of one runtime."""
    roofline = measured_roofline(profile, asked.probes, asked.clock)
    groups = {table.key: table.graphs for table in found}
    rows = in_rounds(groups, profile, rounds=asked.rounds, seconds=asked.seconds, clock=asked.clock)
    times = [rows[table.key].min(axis=0) for table in found]
    speeds = [Ratios.of(1 / rows[table.key]) for table in found]
    predicted = predictions(found, times, roofline)
    told = [_told(table, t, s, i, predicted) for i, (table, t, s) in enumerate(zip(found, times, speeds, strict=True))]
    medians = [s.median for s in speeds]
    models = {name: _by_guideline(found, times, medians, predicted[name]) for name in MODELS}
    return {"tables": told, "models": models, "roofline": roofline.summary()}


def _told(table: Table, times: Floats, speed: Ratios, i: int, predicted: dict[str, list[Floats]]) -> dict[str, Any]:
    macs = np.array([graph.cost.macs for graph in table.graphs])
    figures: dict[str, Any] = {"table": table.name, "size": table.size, "rows": table.rows, "channels": table.widths}
    figures["macs"] = _rounded(macs / macs[0])
    figures["ms"] = _rounded(times)
    told = speed.told()
    figures |= {"speed": told["ratio"], "quartiles": told["quartiles"]}
    paper = [v for v in table.paper if v is not None]
    if paper:
        figures["paper"] = [None if v is None else round(v / paper[0], 3) for v in table.paper]
        known = [k for k, v in enumerate(table.paper) if v is not None]
        figures["tau_with_paper"] = round(kendall_tau(speed.median[known], np.array(paper)), 3)
    figures["predicted"] = {name: _rounded(p[i][0] / p[i]) for name, p in predicted.items()}
    return figures


def _by_guideline(
    found: Sequence[Table], times: Sequence[Floats], speeds: Sequence[Floats], predicted: Sequence[Floats]
) -> dict[str, dict[str, float]]:
    """Errors of a model over all tables and over those of each guideline."""
    figures = {}
    for name in ("all", *sorted({table.guideline for table in found})):
        which = [i for i, table in enumerate(found) if name in ("all", table.guideline)]
        parts = [[values[i] for i in which] for values in (times, speeds, predicted)]
        figures[name] = {k: round(v, 3) for k, v in errors(*parts).items()}
    return figures


def _rounded(values: Floats) -> list[float]:
    return [float(f"{v:.4g}") for v in values]


def show(runtime: str, figures: dict[str, Any]) -> None:
    """The tables for people."""
    for table in figures["tables"]:
        print(f"\n{runtime}, {table['table']} x{table['size']}: speed [quartiles] | paper's ARM | roofline | bytes")
        for i, row in enumerate(table["rows"]):
            low, high = table["quartiles"][i]
            paper = table.get("paper", [None] * (i + 1))[i]
            theirs = "-" if paper is None else f"{paper:.2f}"
            print(
                f"  {row:18} {table['speed'][i]:.2f} [{low:.2f}, {high:.2f}] | {theirs}"
                f" | {table['predicted']['roofline'][i]:.2f} | {table['predicted']['bytes_moved'][i]:.2f}"
            )
    for name, found in figures["models"].items():
        print(f"{runtime}, {name}: {found['all']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", nargs="+", default=["torch", "onnxruntime"], choices=("torch", "onnxruntime"))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(_SIZES), choices=_SIZES)
    parser.add_argument("--pixels", type=int, default=56)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.2, help="for each network and round")
    parser.add_argument("--probes", type=float, default=100.0, help="seconds for the roofline's, at most")
    parser.add_argument("--clock", default="cpu", choices=tuple(CLOCKS), help="cpu: the thread's own time")
    asked = parser.parse_args()
    found = tables(asked.sizes, asked.pixels)
    figures: dict[str, Any] = {"pixels": asked.pixels, "rounds": asked.rounds, "clock": asked.clock}
    for runtime in asked.runtimes:
        figures[runtime] = on_runtime(found, DeviceProfile.detect(runtime=runtime), asked)
        show(runtime, figures[runtime])
    publish("guidelines", figures)


if __name__ == "__main__":
    main()
