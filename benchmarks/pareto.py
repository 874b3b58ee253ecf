"""How much of a public table's Pareto front of accuracy and a cost a sampler finds. Prints one JSON line last.

    python -m benchmarks.pareto --table FILE --join FILE --signal COLUMN --cost COLUMN --sampler NAME
        --queries Q --seeds K [--first-seed 0]

The sampler maximises `signal` and minimises `cost`, which is known of every member beforehand, as a predicted latency
is; `--join` brings the cost from another table by `arch_str`. Queries are counted as in `benchmarks.search`.

Figures: `hypervolume` is that of all networks read, as a share of the hypervolume of the whole table, mean and
standard deviation over the seeds; both objectives lie between 0 and the reference point, which is accuracy 0 and the
largest cost of the table. `missing` counts the same on logarithmic costs and from the median accuracy on, which tells
fronts apart that the first cannot: the share of that area not yet reached. `front_found` is the share of the table's
Pareto front that was read.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import optuna
import torch

from benchmarks.common import publish_row
from benchmarks.search import Labels, next_read
from benchmarks.tables import label, read
from nas_engine.tuning import SamplerSettings, make_sampler, samplers
from predictors.table import pareto

OBJECTIVES = {"accuracy": "max", "latency_ms": "min"}


@dataclass(frozen=True)
class Plane:
    """The networks of a table as points of two losses, each from 0 (best there can be) to 1 (the reference)."""

    points: np.ndarray

    @classmethod
    def linear(cls, labels: Labels) -> Plane:
        """Share of errors, and share of the largest cost."""
        return cls(np.column_stack([1 - labels.signal / 100, labels.target / labels.target.max()]))

    @classmethod
    def sharp(cls, labels: Labels) -> Plane:
        """Quality from the median to the best, cost from the least to the largest on a logarithmic scale."""
        best, middle, cost = labels.signal.max(), np.median(labels.signal), np.log(labels.target)
        return cls(np.column_stack([(best - labels.signal) / (best - middle), (cost - cost.min()) / np.ptp(cost)]))

    def volume(self, rows: list[int]) -> float:
        """Hypervolume of some rows."""
        inside = [row for row in rows if (self.points[row] < 1).all()]
        return float(moocore.hypervolume(self.points[inside], ref=np.ones(2))) if inside else 0.0


def search(labels: Labels, sampler: str, queries: int, seed: int) -> list[int]:
    """Rows in the order in which they were read."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rng = np.random.default_rng([seed, 1])
    costs = {code: {"latency_ms": float(labels.target[row])} for code, row in labels.row_of.items()}
    settings = SamplerSettings(labels.space, seed, OBJECTIVES, trials=queries, costs=lambda a: costs[a.code])
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=make_sampler(sampler, settings))
    rows: list[int] = []
    while len(rows) < queries:
        trial, row = next_read(study, labels, set(rows), rng)
        rows.append(row)
        study.tell(trial, [float(labels.signal[row]), float(labels.target[row])])
    return rows


def figures(labels: Labels, searches: list[list[int]]) -> dict[str, Any]:
    """What the searches came to."""
    every = list(labels.row_of.values())
    linear, sharp = Plane.linear(labels), Plane.sharp(labels)
    front = {every[i] for i in pareto(linear.points[every])}
    volumes = np.array([linear.volume(rows) for rows in searches]) / linear.volume(every)
    missing = 1 - np.array([sharp.volume(rows) for rows in searches]) / sharp.volume(every)
    return {
        "hypervolume": round(float(volumes.mean()), 5),
        "hypervolume_std": round(float(volumes.std()), 5),
        "missing": round(float(missing.mean()), 4),
        "missing_std": round(float(missing.std()), 4),
        "front_found": round(float(np.mean([len(front & set(rows)) / len(front) for rows in searches])), 3),
        "front_size": len(front),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path("../shared/data/nasbench201/nasbench201.parquet"))
    parser.add_argument("--join", type=Path, default=Path("../shared/data/hw_nas_bench/hw_nas_bench_nb201.parquet"))
    parser.add_argument("--signal", default="cifar10_test_acc_200ep", help="accuracy in per cent")
    parser.add_argument("--cost", default="cifar10_raspi4_latency")
    parser.add_argument("--sampler", default="gcn", choices=sorted(set(samplers) - {"predicted"}))
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    args = parser.parse_args()
    frame = read(args.table).merge(read(args.join)[["arch_str", args.cost]], on="arch_str")
    labels = Labels.of(label(frame, "nasbench201", [args.signal, args.cost]), args.signal, args.cost)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    searches = [search(labels, args.sampler, args.queries, seed) for seed in seeds]
    asked = {key: value.name if isinstance(value, Path) else value for key, value in vars(args).items()}
    publish_row("pareto", asked, figures(labels, searches))


if __name__ == "__main__":
    main()
