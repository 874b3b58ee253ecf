"""How well a device's latency or energy is predicted from N measurements. Prints one JSON line last.

    python -m benchmarks.latency --table FILE --column COL --space nasbench201 --train N --seeds K
        [--model regression|ridge|boosting|gp|flops] [--priors FILE ...] [--without REGEX] [--groups unique_str]
        [--measured-as unique_str] [--first-seed 0]

For each seed, N random rows are learned from and the others predicted; cells are named by the column `arch_str`. Rows
where the column is missing or not above 0 are left out, and their number is told. With `--groups` the first row of each
group stands for it, so that no network is both learned from and predicted. With `--measured-as` all rows stay, but one
whose group was measured once is described as the group's first row, the one that was measured.

`--column a,b` or `--column each` gives the mean over several columns beside the figures of each. `--priors` names
tables with other devices' measurements of the same space (the same file may be given): all their columns are used but
those of the device that is predicted (its name without data set, batch and quantity) and those that match `--without`.

Models: `regression` is the product's; the floors are what a dozen lines give: `ridge` on one-hot choices and MACs,
`boosting` (LightGBM) and `gp` (one length scale) on the same, of log(cost + median), and `flops`, a monotone curve of
MACs.

Figures are medians over the seeds, `_sd` their spread: spearman, kendall_tau, within_10_percent (share of the rows),
median_error (of |predicted / measured - 1|), fit_s (seconds, counting the networks aside).
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import publish_row
from benchmarks.tables import read
from predictors.cost import make_cost_model
from predictors.cost.blocks import BlockCounts
from predictors.cost.regression import SETTINGS, HeldOut, Regression
from predictors.cost.transfer import OtherDevices
from search_spaces import Architecture, SearchSpace, make_space
from search_spaces.errors import DataError, did_you_mean

Learner = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]
"""From rows learned from, rows to predict, costs of the former and a seed to costs of the latter."""

_NAMING = ("arch_index", "arch_str", "unique_str")
_ASIDE = r"cifar100?|imagenet16|ninapro|darcy|latency|energy|arithmetic|intensity|ms|mj|\d+"


@dataclass
class Cells:
    """Rows of a table as members of a space, with everything that models read of them.

    Attributes:
        described: the row that describes each row's network, int64 `(n,)`.
        representatives: the rows that are used.
    """

    space: SearchSpace
    frame: pd.DataFrame
    members: list[Architecture]
    described: np.ndarray
    representatives: np.ndarray

    @cached_property
    def counter(self) -> BlockCounts:
        return BlockCounts(self.space)

    @cached_property
    def counts(self) -> np.ndarray:
        """Block counts of each row, float64 `(n, F)`."""
        return self.counter.of(map(self.space.graph, self.members))[self.described]

    @cached_property
    def plain(self) -> np.ndarray:
        """One-hot choices, then MACs in millions, float64 `(n, F + 1)`."""
        indices = np.array([a.indices for a in self.members])
        hot = [indices[:, [i]] == np.arange(len(c.options)) for i, c in enumerate(self.space.choices)]
        macs = make_cost_model("macs").costs(map(self.space.graph, self.members)) / 1e6
        return np.concatenate([*hot, macs[:, None]], axis=1).astype(float)[self.described]


def read_cells(path: Path, space: str, groups: str | None, measured_as: str | None) -> Cells:
    """A table whose column `arch_str` names the members."""
    frame, made = read(path), make_space(space)
    for column in ("arch_str", groups, measured_as):
        if column and column not in frame:
            raise DataError(f"the table has no column {column!r}: {did_you_mean(column, frame.columns)}")
    members = [made.from_text(text) for text in frame["arch_str"]]
    rows = np.arange(len(frame))
    first = (
        frame[measured_as].map(dict(zip(frame[measured_as][::-1], rows[::-1], strict=True))) if measured_as else rows
    )
    kept = rows if groups is None else np.flatnonzero(~frame[groups].duplicated())
    return Cells(made, frame, members, np.asarray(first), kept)


def device_of(column: str) -> str:
    """`cifar100_raspi4_latency` is of raspi4, `titan_rtx_256` of titan_rtx."""
    return "_".join(part for part in column.split("_") if not re.fullmatch(_ASIDE, part)) or column


def measured_columns(frame: pd.DataFrame) -> list[str]:
    """Columns of positive numbers that do not name cells."""
    return [c for c in frame.select_dtypes("number") if c not in _NAMING and (frame[c] > 0).mean() > 0.5]


# ---- models --------------------------------------------------------------------------------------------------------


def _regression(cells: Cells, others: OtherDevices | None) -> Learner:
    counts = cells.counts

    def learn(seen: np.ndarray, unseen: np.ndarray, cost: np.ndarray, seed: int) -> np.ndarray:
        model = Regression.fit(
            cells.space,
            [cells.members[i] for i in seen],
            cost,
            priors=others,
            seed=seed,
            settings=replace(SETTINGS, folds=0),
            counter=cells.counter,
            counts=counts[seen],
        )
        return model.of_counts(counts[unseen])[0]

    return learn


def _floor(cells: Cells, name: str) -> Learner:
    """scikit-learn or LightGBM on one-hot choices and MACs, of the logarithm that the regression takes."""

    def learn(seen: np.ndarray, unseen: np.ndarray, cost: np.ndarray, seed: int) -> np.ndarray:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), _estimator(name, seed))
        offset = SETTINGS.offset * float(np.median(cost))
        model.fit(cells.plain[seen], np.log(cost + offset))
        return np.maximum(np.exp(model.predict(cells.plain[unseen])) - offset, cost.min() / 2)

    return learn


def _estimator(name: str, seed: int) -> Any:
    if name == "ridge":
        from sklearn.linear_model import RidgeCV

        return RidgeCV(np.logspace(-3, 3, 13))
    if name == "boosting":
        from lightgbm import LGBMRegressor

        return LGBMRegressor(
            n_estimators=400, learning_rate=0.05, num_leaves=8, n_jobs=1, random_state=seed, verbose=-1
        )
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(1.0) * RBF(5.0) + WhiteKernel(0.1)
    return GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed)


def _flops(cells: Cells) -> Learner:
    def learn(seen: np.ndarray, unseen: np.ndarray, cost: np.ndarray, seed: int) -> np.ndarray:
        from sklearn.isotonic import IsotonicRegression

        macs = cells.plain[:, -1]
        curve = IsotonicRegression(out_of_bounds="clip").fit(macs[seen], np.log(cost))
        return np.exp(curve.predict(macs[unseen])) * (1 + 1e-9 * macs[unseen])  # plateaus rank by MACs

    return learn


MODELS = ("regression", "ridge", "boosting", "gp", "flops")


# ---- measuring -----------------------------------------------------------------------------------------------------


def other_devices(cells: Cells, files: list[Path], column: str, without: str | None) -> OtherDevices | None:
    """Patterns of the devices in some tables, the device of the column aside."""
    wanted = {}
    index = cells.frame["arch_str"]
    for file in files:
        frame = read(file).set_index("arch_str")
        for name in measured_columns(frame):
            if device_of(name) != device_of(column) and not (without and re.search(without, name)):
                wanted[f"{file.stem}/{name}"] = frame[name].reindex(index).to_numpy(dtype=float)
    if not wanted:
        return None
    whole = np.all([np.isfinite(v) & (v > 0) for v in wanted.values()], axis=0)
    rows = np.intersect1d(cells.representatives, np.flatnonzero(whole))
    members = [cells.members[i] for i in rows]
    tables = {name: values[rows] for name, values in wanted.items()}
    return OtherDevices.learn(cells.space, members, tables, counter=cells.counter, counts=cells.counts[rows])


def measure(cells: Cells, column: str, model: str, n: int, seeds: range, others: OtherDevices | None) -> dict[str, Any]:
    """Median and spread of all figures over the seeds."""
    if column not in cells.frame:
        raise DataError(f"the table has no column {column!r}: {did_you_mean(column, cells.frame.columns)}")
    cost = cells.frame[column].to_numpy(dtype=float)
    rows = cells.representatives[np.isfinite(cost[cells.representatives]) & (cost[cells.representatives] > 0)]
    if len(rows) < 2 * n:
        raise DataError(f"{len(rows)} rows with a cost in {column!r}; --train {n} leaves too few to predict")
    learner = _regression(cells, others) if model == "regression" else _flops(cells) if model == "flops" else None
    runs = []
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(rows)
        seen, unseen = order[:n], order[n:]
        started = time.perf_counter()
        predicted = (learner or _floor(cells, model))(seen, unseen, cost[seen], seed)
        figures = vars(HeldOut.of(cost[unseen], predicted)).copy()
        figures["fit_s"] = time.perf_counter() - started
        runs.append({k: v for k, v in figures.items() if k != "networks"})
        print({"column": column, "seed": seed, **{k: round(v, 4) for k, v in runs[-1].items()}}, flush=True)
    frame = pd.DataFrame(runs)
    spread = {f"{k}_sd": v for k, v in frame.std(ddof=0).items() if k != "fit_s"}
    figures = {k: round(float(v), 4) for k, v in {**frame.median(), **spread}.items()}
    return {**figures, "rows": len(rows), "left_out": len(cells.representatives) - len(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path("../shared/data/hw_nas_bench/hw_nas_bench_nb201.parquet"))
    parser.add_argument("--column", default="cifar100_raspi4_latency", help="a column, several, or each")
    parser.add_argument("--space", default="nasbench201", help="a space that reads the column arch_str")
    parser.add_argument("--train", type=int, default=100, help="measurements learned from")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--model", default="regression", choices=MODELS)
    parser.add_argument("--priors", type=Path, nargs="*", default=[], help="tables of other devices' measurements")
    parser.add_argument("--without", help="regular expression of columns that are no priors")
    parser.add_argument("--groups", help="column whose equal values mean the same network; one row of each is used")
    parser.add_argument("--measured-as", help="column whose equal values share the measurement of the first row")
    a = parser.parse_args()
    if not a.table.exists():
        print(f"skipped: no file {a.table}; give a table with --table")
        return
    cells = read_cells(a.table, a.space, a.groups, a.measured_as)
    columns = measured_columns(cells.frame) if a.column == "each" else a.column.split(",")
    seeds = range(a.first_seed, a.first_seed + a.seeds)
    found = {}
    for column in columns:
        others = other_devices(cells, a.priors, column, a.without) if a.model == "regression" else None
        found[column] = measure(cells, column, a.model, a.train, seeds, others)
    figures = next(iter(found.values()))
    if len(found) > 1:
        means = pd.DataFrame(found).T.mean().round(4).to_dict()
        figures = {**means, "columns": found}
    asked = {"table": a.table.stem, "column": a.column, "model": a.model, "train": a.train, "groups": a.groups}
    asked |= {"measured_as": a.measured_as, "priors": [p.stem for p in a.priors]}
    publish_row("latency", {**asked, "seeds": a.seeds, "first_seed": a.first_seed}, figures)


if __name__ == "__main__":
    main()
