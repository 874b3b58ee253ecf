"""Whether a predictor that learns from noisy scores ranks better than these scores do. Prints one JSON line last.

    python -m benchmarks.denoise [--table FILE] [--noise 1.0] [--train 500] [--seeds 5] [--predictor ensemble]

The claim behind fitting a supernet (GCN-NAS): a supernet's score is the true quality plus noise, and a function fitted
to some scores knows more of the quality than the scores themselves. Here the truth is known: the mean test accuracy of
all 6,561 chains of NAS-Bench-Macro. Noise is normal, in standard deviations of the truth.

Medians over the seeds, with the spread: fit_tau, Kendall's tau of the predictions of the rows not learned from with
their truth; raw_tau, the tau of noisy scores of these rows; fit_best, raw_best: truth of the best predicted and of the
best noisy score among as many scores as were learned from, in %.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import publish_row
from predictors import kendall_tau, make_predictor
from search_spaces import Architecture, SearchSpace, make_space


def one_seed(
    name: str, space: SearchSpace, members: list[Architecture], truth: np.ndarray, noise: float, n: int, seed: int
) -> dict[str, float]:
    """Learn from noisy scores of `n` random members and judge the rest by their truth."""
    rng = np.random.default_rng(seed)
    scores = truth + noise * truth.std() * rng.standard_normal(len(truth))
    rows = rng.permutation(len(truth))
    seen, unseen = rows[:n], rows[n:]
    started = time.perf_counter()
    predictor = make_predictor(name, space, seed=seed).fit([members[i] for i in seen], scores[seen])
    seconds = time.perf_counter() - started
    mean, _ = predictor.predict([members[i] for i in unseen])
    return {
        "fit_tau": kendall_tau(truth[unseen], mean),
        "raw_tau": kendall_tau(truth[unseen], scores[unseen]),
        "fit_best": float(truth[unseen][mean.argmax()]),
        "raw_best": float(truth[seen][scores[seen].argmax()]),
        "fit_s": seconds,
    }


def measure(table: Path, name: str, noise: float, n: int, seeds: int) -> dict[str, Any]:
    """Medians and spreads over the seeds."""
    space = make_space("table", {"path": str(table), "digits": "arch", "target": "mean_acc"})
    members = list(space.enumerate())
    truth = np.array([space.score(a) for a in members])
    runs = []
    for seed in range(seeds):
        runs.append(one_seed(name, space, members, truth, noise, n, seed))
        print({"seed": seed, **{k: round(v, 4) for k, v in runs[-1].items()}}, flush=True)
    frame = pd.DataFrame(runs)
    spread = {f"{k}_sd": v for k, v in frame.std(ddof=0).items() if k != "fit_s"}
    return {k: round(float(v), 4) for k, v in {**frame.median(), **spread}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path("../shared/data/nasbench_macro/nasbench_macro_cifar10.csv.gz")
    parser.add_argument("--table", type=Path, default=default)
    parser.add_argument("--noise", type=float, default=1.0, help="in standard deviations of the truth")
    parser.add_argument("--train", type=int, default=500, help="scores learned from")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--predictor", default="ensemble")
    a = parser.parse_args()
    if not a.table.exists():
        print(f"skipped: no file {a.table}; give the table of NAS-Bench-Macro with --table")
        return
    figures = measure(a.table, a.predictor, a.noise, a.train, a.seeds)
    asked = {"table": a.table.name.split(".")[0], "predictor": a.predictor, "noise": a.noise}
    publish_row("denoise", {**asked, "train": a.train, "seeds": a.seeds}, figures)


if __name__ == "__main__":
    main()
