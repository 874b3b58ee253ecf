"""One small network scaled to the same MACs in depth, width, resolution, or all of them. Prints one JSON line last.

    python -m benchmarks.scaling --data ../shared/data/fashion_mnist/fashion_mnist.npz [--seeds 5] [--factors 2]
        [--epochs 6] [--limit 11000] [--processes 2] [--rounds 10]

The base is EfficientNet-B0 in small: a stem and three stages of inverted residuals with squeeze and excite, 16 pixels,
1.3 million MACs. Networks take the images as they are and resize them first, so that up to the images' own 28 pixels a
higher resolution has more to see, and augmentation is the same for all. Rules: one dimension alone, compound scaling
with EfficientNet's 1.2, 1.1, 1.15, and `dwr`, fast compound scaling with a = 0.8. As whole blocks, channels and pixels
rarely give exactly the MACs asked for, each rule is followed to where it comes near; all are within 5 % or it is told.

All get the same training: nothing is tuned for any of them. Accuracy is that of all test images after the last epoch,
mean and standard deviation over the seeds, which draw weights and order; the images are the same. Finished trainings
are kept in `results/benchmarks/scaling_runs.jsonl` and not repeated. Latency: one thread, batch 1, as a share of the
base's, in turns, with quartiles over the rounds, on the clock of the thread.

`claims`: how many points compound scaling, or dwr, is ahead of the best single dimension (by its mean), with the
standard error. `growth`: MACs at whole phi over `2^phi`, of the base and of EfficientNet-B0. `activations`: exponent
with which the outputs of convolutions grow with the MACs when EfficientNet-B0 is scaled 1 to 8 times, beside the law of
Dollar et al.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from math import prod, sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import common
from benchmarks.timing import Ratios, in_rounds
from nas_engine.files import Record
from predictors.cost import DeviceProfile
from search_spaces import Graph, GraphBuilder
from search_spaces.families import skeleton
from search_spaces.families.skeleton import Row, Skeleton
from search_spaces.scaling.rules import Compound, FastCompound, Rounding, Rule, Scaling, Single

if TYPE_CHECKING:
    from nas_engine.data import DataSplits

RULES: dict[str, Rule] = {
    "depth": Single("depth"),
    "width": Single("width"),
    "resolution": Single("resolution"),
    "compound": Compound(),
    "dwr": FastCompound(),
}
SINGLE = ("depth", "width", "resolution")
LAW = {"depth": 1.0, "width": 0.5, "resolution": 1.0, "compound": None, "dwr": 0.6, "uniform": 5 / 6}
"""Exponents of activations in MACs: `1 - a / 2` where a is the share of the width (Dollar et al. 2021)."""
TOLERANCE, CLOSE = 0.05, 0.02
_STEPS = 600


# ---- networks ----------------------------------------------------------------------------------------------


def micro() -> Skeleton:
    """EfficientNet-B0 in small: a stem and three stages for images of 16 pixels, total stride 4."""
    block = {"activation": "silu", "se_ratio": 0.25}
    return Skeleton(
        "micro_b0",
        (
            Row("stem", "conv_bn_act", 12, stride=2, attributes={"activation": "silu"}),
            Row("stage1", "inverted_residual", 12, 1, attributes={**block, "expansion": 1}),
            Row("stage2", "inverted_residual", 20, 3, attributes={**block, "expansion": 4}),
            Row("stage3", "inverted_residual", 32, 3, stride=2, attributes={**block, "expansion": 4, "kernel_size": 5}),
            Row("head", "conv_bn_act", 96, attributes={"kernel_size": 1, "activation": "silu"}),
            Row("classifier", "classifier"),
        ),
        resolution=16,
        classes=10,
        rounding=Rounding(divisor=4, repeats="round"),
    )


def network(table: Skeleton, input_shape: Sequence[int], classes: int) -> Graph:
    """The graph of a table for images of any size, which are resized to the table's resolution first."""
    g = GraphBuilder(tuple(input_shape))
    size = table.resolution
    x = g.input if tuple(input_shape[1:]) == (size, size) else g.add("resize", g.input, name="resize", size=size)
    return g.build(table.extend(g, x, classes))


@dataclass(frozen=True)
class Variant:
    """A scaled network.

    Attributes:
        rule: of `RULES`, or `base`.
        factor: of MACs that was asked for.
        scaling: multipliers that come nearest to it.
        table: the network.
    """

    rule: str
    factor: float
    scaling: Scaling
    table: Skeleton


def variants(base: Skeleton, factors: Sequence[float], input_shape: Sequence[int], classes: int) -> list[Variant]:
    """The base, then for each factor every rule."""
    macs = network(base, input_shape, classes).cost.macs
    found = [Variant("base", 1.0, Scaling(), base)]
    for factor in factors:
        for name, rule in RULES.items():
            scaling, table = nearest(base, rule, factor, macs, input_shape, classes)
            found.append(Variant(name, factor, scaling, table))
    return found


def nearest(
    base: Skeleton, rule: Rule, factor: float, macs: int, input_shape: Sequence[int], classes: int
) -> tuple[Scaling, Skeleton]:
    """The multipliers of a rule, and the network, with about `factor * macs`.

    The factor that the rule is asked for is adjusted, as rounding and layers that do not grow move the result: the one
    closest to `factor` that is within `CLOSE` of the MACs, else the one that comes nearest to them.
    """
    wanted = factor * macs
    near: tuple[float, Scaling, Skeleton] | None = None
    for s in sorted(np.geomspace(factor / 2, 4 * factor, _STEPS).tolist(), key=lambda s: abs(np.log(s / factor))):
        table = base.scaled(rule.at(s))
        gap = abs(network(table, input_shape, classes).cost.macs / wanted - 1)
        if near is None or gap < near[0]:
            near = gap, rule.at(s), table
        if gap <= CLOSE:
            break
    assert near is not None
    return near[1:]


def activations(graph: Graph) -> int:
    """Numbers that convolutions put out."""
    return sum(prod(node.shape) for node in graph.simplify() if node.operator == "conv2d")


# ---- laws --------------------------------------------------------------------------------------------------


def growth(base: Skeleton, phis: Sequence[int], input_shape: Sequence[int]) -> dict[int, float]:
    """MACs at phi over those of the base times `2^phi`, compound scaling."""

    def macs(phi: int) -> int:
        table = base.scaled(Compound().scaling(phi))
        size = table.resolution
        return table.graph((input_shape[0], size, size)).cost.macs

    return {phi: round(macs(phi) / macs(0) / 2**phi, 3) for phi in phis}


def exponents(base: Skeleton, factors: Sequence[float] = (1, 2, 4, 8)) -> dict[str, float]:
    """Slope of activations over MACs on logarithmic axes, for each rule, widths and depths rounded to the nearest."""
    rounding = Rounding(divisor=1, limit=0.0, repeats="round")
    found = {}
    for name, rule in {**RULES, "uniform": FastCompound(1 / 3)}.items():
        graphs = [base.scaled(rule.at(factor), rounding).graph() for factor in factors]
        x, y = (np.log([count(graph) for graph in graphs]) for count in (lambda g: g.cost.macs, activations))
        found[name] = round(float(np.polyfit(x, y, 1)[0]), 3)
    return found


# ---- training ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """One training, in plain values: it travels to another process.

    Attributes:
        data: file with the images.
        limit: training images, a tenth of them left out for validation, which nothing here looks at.
    """

    table: Skeleton
    seed: int
    data: str
    limit: int
    epochs: int
    batch_size: int
    learning_rate: float

    def key(self, graph: Graph) -> dict[str, Any]:
        """What the result depends on."""
        settings = {k: v for k, v in vars(self).items() if k not in ("table", "data")}
        return {"network": graph.id, "data": Path(self.data).name, **settings}


@cache
def images(data: str, limit: int) -> DataSplits:
    """The data set; a process reads it once."""
    from nas_engine.data import load_data

    return load_data(f"npz:{data}", validation=0.1, limit=limit)


def trained(task: Training) -> dict[str, float]:
    """Test accuracy after the last epoch, and seconds."""
    import torch

    from nas_engine.config import Optimizer
    from nas_engine.evaluate import judge
    from nas_engine.train import NetworkProgram, train
    from search_spaces import Network

    torch.set_num_threads(1)
    started = time.perf_counter()
    data = images(task.data, task.limit)
    torch.manual_seed(task.seed)
    module = Network(network(task.table, data.input_shape, len(data.classes)))
    settings = Optimizer(batch_size=task.batch_size, learning_rate=task.learning_rate)
    epochs = list(
        train(NetworkProgram(module), data, settings, epochs=task.epochs, seed=task.seed, augment=data.augment)
    )
    found = judge(module, data, data.test)
    seconds = time.perf_counter() - started
    return {
        "accuracy": found.accuracy,
        "test_loss": found.loss,
        "train_loss": epochs[-1].loss,
        "seconds": round(seconds, 1),
    }


def all_trained(tasks: dict[str, tuple[Training, Graph]], record: Record, processes: int) -> None:
    """Do the trainings that the record lacks, and tell of each."""
    known = [row["asked"] for row in record.rows]
    missing = {name: task for name, (task, graph) in tasks.items() if task.key(graph) not in known}
    print(f"{len(missing)} of {len(tasks)} trainings to do", flush=True)
    if not missing:
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        waiting = {pool.submit(trained, task): name for name, task in missing.items()}
        for done, future in enumerate(as_completed(waiting), 1):
            name, row = waiting[future], future.result()
            task, graph = tasks[name]
            record.append({"asked": task.key(graph), "name": name, **row})
            print(f"{done}/{len(missing)} {name}: {100 * row['accuracy']:.2f} %, {row['seconds']:.0f} s", flush=True)


# ---- figures -----------------------------------------------------------------------------------------------


def latencies(graphs: Sequence[Graph], rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
    """For each runtime, latency relative to the first network with quartiles, and the first one's milliseconds."""
    found = {}
    for runtime in ("torch", "onnxruntime"):
        profile = DeviceProfile.detect(runtime=runtime)  # type: ignore[arg-type]
        rows = in_rounds({"": graphs}, profile, rounds=rounds, seconds=seconds, clock="cpu")[""]
        found[runtime] = {"base_ms": round(float(rows[:, 0].min()), 4), **Ratios.of(rows).told()}
    return found


def row_of(variant: Variant, graph: Graph, base: Graph, accuracies: Sequence[float]) -> dict[str, Any]:
    """A network's figures but for latency."""
    table, scaling = variant.table, variant.scaling
    deviation = stdev(accuracies) if len(accuracies) > 1 else None
    return {
        "rule": variant.rule,
        "factor": variant.factor,
        "multipliers": {k: round(v, 3) for k, v in vars(scaling).items()},
        "blocks": [row.repeats for row in table.rows if row.repeats],
        "channels": [row.width for row in table.rows if row.width],
        "resolution": table.resolution,
        "params": graph.cost.params,
        "macs": graph.cost.macs,
        "macs_ratio": round(graph.cost.macs / base.cost.macs, 3),
        "activations_ratio": round(activations(graph) / activations(base), 3),
        "accuracy": round(mean(accuracies), 5),
        "sd": None if deviation is None else round(deviation, 5),
        "accuracies": [round(a, 5) for a in accuracies],
    }


def claims(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """For each factor, compound and dwr against the best single dimension, in points of accuracy."""
    for factor in sorted({row["factor"] for row in rows if row["rule"] != "base"}):
        at = {row["rule"]: row for row in rows if row["factor"] == factor and row["rule"] != "base"}
        best = max((at[name] for name in SINGLE), key=lambda row: row["accuracy"])
        for name in ("compound", "dwr"):
            difference = at[name]["accuracy"] - best["accuracy"]
            error = _standard_error(at[name]["accuracies"], best["accuracies"])
            told = {"factor": factor, "rule": name, "best_single": best["rule"], "points": round(100 * difference, 2)}
            yield {**told, "standard_error": error and round(100 * error, 2)}


def _standard_error(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Of the difference of two means."""
    if min(len(one), len(other)) < 2:
        return None
    return sqrt(sum(stdev(values) ** 2 / len(values) for values in (one, other)))


def show(rows: Sequence[dict[str, Any]], times: dict[str, dict[str, Any]]) -> None:
    """The table for people."""
    print("\nrule, factor: blocks, channels, pixels | MACs | test accuracy | latency torch, ONNX Runtime")
    for i, row in enumerate(rows):
        spread = "" if row["sd"] is None else f" +- {100 * row['sd']:.2f}"
        told = ", ".join(f"{times[r]['ratio'][i]:.2f} {times[r]['quartiles'][i]}" for r in times)
        print(
            f"{row['rule']}, {row['factor']:g}: {row['blocks']}, {row['channels']}, {row['resolution']} | "
            f"{row['macs_ratio']:.3f} | {100 * row['accuracy']:.2f}{spread} | {told}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/fashion_mnist/fashion_mnist.npz"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--factors", nargs="+", type=float, default=[2.0], help="of MACs")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--limit", type=int, default=11_000, help="training images, a tenth left out")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10, help="of timing")
    parser.add_argument("--seconds", type=float, default=0.2, help="for each network and round")
    asked = parser.parse_args()
    if not asked.data.exists():
        print(f"skipped: no file {asked.data}; give an npz with --data")
        return
    measure(asked)


def measure(asked: argparse.Namespace, base: Skeleton | None = None) -> dict[str, Any]:
    """Train, time and publish."""
    data = images(str(asked.data), asked.limit)
    shape, classes = data.input_shape, len(data.classes)
    found = variants(base or micro(), asked.factors, shape, classes)
    graphs = [network(v.table, shape, classes) for v in found]
    for v, graph in zip(found, graphs, strict=True):
        gap = graph.cost.macs / (v.factor * graphs[0].cost.macs) - 1
        if abs(gap) > TOLERANCE:
            print(f"{v.rule} at {v.factor:g} times the MACs comes no nearer than {100 * gap:+.1f} %")
    how = (str(asked.data), asked.limit, asked.epochs, asked.batch_size, asked.learning_rate)
    tasks = {
        f"{v.rule} x{v.factor:g} seed {seed}": (Training(v.table, seed, *how), graph)
        for seed in range(asked.seeds)
        for v, graph in zip(found, graphs, strict=True)
    }
    record = Record(common.RESULTS / "scaling_runs.jsonl")
    all_trained(tasks, record, asked.processes)
    accuracies = [_accuracies(record, [t.key(g) for t, g in tasks.values() if g is graph]) for graph in graphs]
    rows = [row_of(v, graph, graphs[0], a) for v, graph, a in zip(found, graphs, accuracies, strict=True)]
    times = latencies(graphs, asked.rounds, asked.seconds)
    show(rows, times)
    figures = _figures(asked, rows, times, base or micro(), shape)
    common.publish("scaling", figures)
    return figures


def _accuracies(record: Record, keys: Sequence[dict[str, Any]]) -> list[float]:
    return [next(row["accuracy"] for row in record.rows if row["asked"] == key) for key in keys]


def _figures(
    asked: argparse.Namespace, rows: list[dict[str, Any]], times: dict[str, Any], base: Skeleton, shape: Sequence[int]
) -> dict[str, Any]:
    published = skeleton("efficientnet_b0")
    settings = {k: getattr(asked, k) for k in ("seeds", "epochs", "limit", "batch_size", "learning_rate")}
    return {
        **settings,
        "data": asked.data.name,
        "rows": rows,
        "latency": times,
        "claims": list(claims(rows)),
        "growth": {
            base.name: growth(base, (1, 2, 3, 4), shape),
            published.name: growth(published, (1, 2, 3, 4, 5, 6), (3,)),
        },
        "activations": {"measured": exponents(published), "law": {k: v for k, v in LAW.items() if v is not None}},
    }


if __name__ == "__main__":
    main()
