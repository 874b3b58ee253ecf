"""How well a predictor ranks NAS-Bench-201, without leaks. Prints one JSON line last.

    python -m benchmarks.predictors_nb201 [--seeds 5] [--n 50 100 200] [--predictor gcn] [--data PATH]

One cell of each isomorphism class (6,466), so that no class is both learned from and predicted. For each seed, `n`
random cells are learned from with their 200-epoch test accuracy, and all others are predicted.

- tau_mean, tau_sd: Kendall's tau on the others, over the seeds. fit_s: CPU seconds of a fit, mean.
- held_out_tau: what the predictor itself says of its ranking, from folds it held out of the `n`.
- best20_mean: best accuracy among the `n` and the 20 predicted best, in %.
- within_1_std, within_2_std: share of true accuracies within one and two predicted standard deviations (a normal
  distribution has 0.68 and 0.95).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import publish
from predictors import kendall_tau, make_predictor
from search_spaces import Architecture, Graph, SearchSpace, make_space

EDGES = ("0_1", "0_2", "1_2", "0_3", "1_3", "2_3")
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")  # codes of the file
LABELS = {"cifar10": "cifar10_test_acc_200ep", "cifar100": "cifar100_test_acc_200ep"}


def cells(path: Path, space: SearchSpace) -> tuple[pd.DataFrame, list[Architecture]]:
    """The first cell of each isomorphism class, as rows of the file and as architectures."""
    frame = pd.read_parquet(path).drop_duplicates("unique_str", ignore_index=True)
    codes = frame[[f"op_{edge}" for edge in EDGES]].to_numpy()
    names = [f"edge{edge.replace('_', '')}" for edge in EDGES]
    return frame, [space.architecture({n: OPERATIONS[c] for n, c in zip(names, row, strict=True)}) for row in codes]


def one_seed(
    name: str, space: SearchSpace, members: list[Architecture], sketches: list[Graph], y: np.ndarray, n: int, seed: int
) -> dict[str, float]:
    """Fit to `n` random cells and judge the rest."""
    order = np.random.default_rng(seed).permutation(len(y))
    seen, unseen = order[:n], order[n:]
    started = time.process_time()
    predictor = make_predictor(name, space, seed=seed).fit([members[i] for i in seen], y[seen])
    seconds = time.process_time() - started
    mean, std = predictor.predict([members[i] for i in unseen], sketches=[sketches[i] for i in unseen])
    errors = np.abs(mean - y[unseen]) / std
    tried = unseen[np.argsort(-mean)[:20]]
    return {
        "tau": kendall_tau(y[unseen], mean),
        "fit_s": seconds,
        "held_out_tau": np.nan if predictor.held_out is None else predictor.held_out.tau,
        "best20": float(max(y[seen].max(), y[tried].max())),
        "within_1_std": float((errors < 1).mean()),
        "within_2_std": float((errors < 2).mean()),
    }


def measure(path: Path, name: str, sizes: Sequence[int], seeds: int) -> list[dict[str, Any]]:
    """One row for each data set and size."""
    space = make_space("nasbench201")
    frame, members = cells(path, space)
    sketches = [space.sketch(a) for a in members]
    rows = []
    for dataset, label in LABELS.items():
        y = frame[label].to_numpy(dtype=float)
        for n in sizes:
            runs = pd.DataFrame([one_seed(name, space, members, sketches, y, n, seed) for seed in range(seeds)])
            mean, sd = runs.mean(), runs.std(ddof=0)
            row = {"dataset": dataset, "n": n, "tau_mean": mean["tau"], "tau_sd": sd["tau"], "fit_s": mean["fit_s"]}
            row |= {"best20_mean": mean["best20"], "best20_sd": sd["best20"]}
            row |= {k: mean[k] for k in ("held_out_tau", "within_1_std", "within_2_std")}
            rows.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--n", type=int, nargs="+", default=[50, 100, 200], help="cells learned from")
    parser.add_argument("--predictor", default="gcn")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/nasbench201/nasbench201.parquet"))
    arguments = parser.parse_args()
    if not arguments.data.exists():
        print(f"skipped: no file {arguments.data}; give the table of NAS-Bench-201 with --data")
        return
    rows = measure(arguments.data, arguments.predictor, arguments.n, arguments.seeds)
    publish("predictors_nb201", {"predictor": arguments.predictor, "seeds": arguments.seeds, "rows": rows})


if __name__ == "__main__":
    main()
