"""How well a predictor ranks a public table from few of its rows. Prints one JSON line last.

    python -m benchmarks.predictor --table FILE --space nasbench201|table --target COLUMN --train N --seeds K
        [--choices a,b,c] [--predictor ensemble] [--groups unique_str] [--extra c,d [--join FILE]] [--first-seed 0]

For each seed, N rows are learned from, the others predicted. With `--groups` the protocol is leak-free: the first row
of each group stands for it, so that no network is both learned from and predicted; without it rows are split at random,
and copies of one network leak. `--extra` names columns, such as zero-cost scores, that every network brings as inputs;
`--join` brings them from another table, by `arch_str`, and leaves rows out that it lacks.

Figures are medians over the seeds, with the spread (standard deviation) beside them:
kendall_tau, spearman: on the rows not learned from. precision_at_10: share of the 10 predicted best that are among the
10 best. regret_at_10: best target minus the best among the 10 predicted best. fit_s: seconds of a fit. rows_per_s: rows
of the whole table predicted a second after the fit, from architectures, reading graphs included.
`--predictor params`, `macs` or any other counted cost ranks by that cost alone: the floor. `--predictor copy` predicts
rows by another of their group, that is by a second training of the same network: the ceiling that noise sets.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import publish_row
from benchmarks.tables import Labelled, label, read
from predictors import kendall_tau, make_predictor, predictors, spearman, top_k_precision, top_k_regret
from predictors.cost import make_cost_model


def one_seed(
    name: str, table: Labelled, target: np.ndarray, extra: np.ndarray | None, n: int, seed: int
) -> dict[str, float]:
    """Learn from `n` random rows and judge the rest."""
    rng = np.random.default_rng(seed)
    if name == "copy":
        return _judged(*_copies(table.groups, target, rng))
    rows = rng.permutation(_first_of_groups(table.groups))
    seen, unseen = rows[:n], rows[n:]
    if name not in predictors:
        costs = make_cost_model(name).costs(table.space.graph(table.members[i]) for i in unseen)
        return _judged(target[unseen], costs)
    mean, fit_s, rows_per_s = _learned(name, table, target, extra, seen, unseen, seed)
    return _judged(target[unseen], mean) | {"fit_s": fit_s, "rows_per_s": rows_per_s}


def _judged(true: np.ndarray, mean: np.ndarray) -> dict[str, float]:
    return {
        "kendall_tau": kendall_tau(true, mean),
        "spearman": spearman(true, mean),
        "precision_at_10": top_k_precision(true, mean, 10),
        "regret_at_10": top_k_regret(true, mean, 10),
    }


def _copies(groups: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Targets of two random rows of each group that has two."""
    frame = pd.DataFrame({"group": groups, "target": target}).sample(frac=1, random_state=rng)
    frame["copy"] = frame.groupby("group").cumcount()
    first, second = (frame[frame["copy"] == i].set_index("group")["target"] for i in (0, 1))
    return first[second.index].to_numpy(), second.to_numpy()


def _first_of_groups(groups: np.ndarray) -> np.ndarray:
    return np.sort(np.unique(groups, return_index=True)[1])


def _learned(
    name: str,
    table: Labelled,
    target: np.ndarray,
    extra: np.ndarray | None,
    seen: np.ndarray,
    unseen: np.ndarray,
    seed: int,
) -> tuple[np.ndarray, float, float]:
    """Predictions of the unseen rows, seconds of the fit, and rows predicted a second."""
    started = time.perf_counter()
    predictor = make_predictor(name, table.space, seed=seed)
    predictor.fit([table.members[i] for i in seen], target[seen], extra=None if extra is None else extra[seen])
    fitted = time.perf_counter()
    predictor.predict(table.members, extra=extra)
    done = time.perf_counter()
    mean, _ = predictor.predict(
        [table.members[i] for i in unseen],
        sketches=[table.sketches[i] for i in unseen],
        extra=None if extra is None else extra[unseen],
    )
    return mean, fitted - started, len(table.members) / (done - fitted)


def measure(table: Labelled, name: str, target: str, extra: list[str], n: int, seeds: range) -> dict[str, Any]:
    """Median and spread of all figures over the seeds."""
    inputs = np.stack([table.column(c) for c in extra], axis=1) if extra else None
    runs = []
    for seed in seeds:
        runs.append(one_seed(name, table, table.column(target), inputs, n, seed))
        print({"seed": seed, **{k: round(v, 4) for k, v in runs[-1].items()}}, flush=True)
    frame = pd.DataFrame(runs)
    spread = {f"{k}_sd": v for k, v in frame.std(ddof=0).items() if k not in ("fit_s", "rows_per_s")}
    return {k: round(float(v), 4) for k, v in {**frame.median(), **spread}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path("../shared/data/nasbench201/nasbench201.parquet"))
    parser.add_argument("--space", default="nasbench201", help="nasbench201, or table with --choices")
    parser.add_argument("--choices", default="", help="columns that are the choices of the space table")
    parser.add_argument("--target", default="cifar10_test_acc_200ep")
    parser.add_argument("--train", type=int, default=100, help="rows learned from")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--predictor", default="ensemble")
    parser.add_argument("--groups", help="column whose equal values mean the same network")
    parser.add_argument("--extra", default="", help="columns that are further inputs")
    parser.add_argument("--join", type=Path, help="another table that holds these columns")
    a = parser.parse_args()
    if not a.table.exists():
        print(f"skipped: no file {a.table}; give a table with --table")
        return
    extra, choices = ([c for c in text.split(",") if c] for text in (a.extra, a.choices))
    frame = read(a.table) if a.join is None else read(a.table).merge(read(a.join)[["arch_str", *extra]], on="arch_str")
    table = label(frame, a.space, [a.target, *extra], choices, a.groups)
    figures = measure(table, a.predictor, a.target, extra, a.train, range(a.first_seed, a.first_seed + a.seeds))
    asked = {"table": a.table.stem, "target": a.target, "predictor": a.predictor, "train": a.train, "groups": a.groups}
    asked |= {"extra": len(extra), "seeds": a.seeds, "first_seed": a.first_seed, "rows": len(table.members)}
    publish_row("predictor", asked, figures)


if __name__ == "__main__":
    main()
