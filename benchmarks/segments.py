"""Segment-wise search through noisy scores, on a table of known accuracies. Prints one JSON line last.

    python -m benchmarks.segments [--noise 1.0] [--evaluations 600] [--segments 2] [--seeds 10] [--predictor ridge]

The table's accuracies with Gaussian noise, in their standard deviations, stand for a supernet; every strategy has the
same number of scores. Figures are of the true accuracy of the pick: mean over the seeds, standard error of the mean,
and the share of picks among the true best 1 %.

- best_score: the member of the best noisy score.
- whole_space: the best predicted of all members, by one fit to random ones.
- segments: the best predicted by a segment-wise search.
- segments_by_cost: the same, with super-cells from three ranges of the column `--cost`; `cost_share_*` are the best
  predicted members of at most that share of the largest cost, read off the same ranking.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import publish
from predictors import make_predictor
from predictors.segments import SegmentSearch
from search_spaces import Architecture, make_space
from search_spaces.tabular import TableSpace

MACRO = (
    Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "nasbench_macro" / "nasbench_macro_cifar10.csv.gz"
)
SHARES = (1.0, 0.75, 0.5)
CHECKED = 0.2


class Truth:
    """A table's members with their true accuracies and costs, and noisy scores of them."""

    def __init__(self, space: TableSpace, cost: str, noise: float) -> None:
        self.space, self.noise = space, noise
        self.codes = [a.code for a in space.enumerate()]
        self.accuracy = {code: space.score(space.decode(code)) for code in self.codes}
        self.cost = {code: float(space.row(space.decode(code))[cost]) for code in self.codes}
        self.largest = max(self.cost.values())

    def noisy(self, seed: int) -> dict[str, float]:
        values = np.array(list(self.accuracy.values()))
        noise = self.noise * values.std() * np.random.default_rng([seed, 77]).standard_normal(len(values))
        return dict(zip(self.codes, values + noise, strict=True))

    def costs(self, members: Sequence[Architecture]) -> np.ndarray:
        return np.array([self.cost[a.code] for a in members])

    def picks(self, ranked: Sequence[str]) -> list[float]:
        """True accuracy of the first code under each share of the largest cost."""
        return [
            self.accuracy[next(c for c in ranked if self.cost[c] <= share * self.largest + 1e-9)] for share in SHARES
        ]

    def top(self, share: float) -> float:
        """Where the best 1 % begin among the members of at most that share of the largest cost."""
        return float(np.quantile([self.accuracy[c] for c in self.codes if self.cost[c] <= share * self.largest], 0.99))


def best_score(truth: Truth, seed: int, evaluations: int) -> list[str]:
    scores = truth.noisy(seed)
    drawn = np.random.default_rng(seed).choice(truth.codes, evaluations, replace=False)
    return sorted(drawn.tolist(), key=lambda code: -scores[code])


def searched(
    truth: Truth, seed: int, evaluations: int, *, segments: int, check: float, predictor: str, by_cost: bool
) -> list[str]:
    """Codes of the last segment, the best predicted first."""
    scores, each = truth.noisy(seed), evaluations // segments
    checked = int(check * each)
    search = SegmentSearch(
        truth.space,
        lambda space: make_predictor(predictor, space, seed=seed),
        segments=segments,
        samples=each - checked,
        check=checked,
        cost=truth.costs if by_cost else None,
        seed=seed,
    )
    while (members := search.ask()) is not None:
        search.tell([scores[a.code] for a in members])
    return search.ranking().codes


def summary(truth: Truth, picks: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Mean, standard error and top share of the picks `(seeds, shares)`."""
    figures = {}
    for share, column in zip(SHARES, np.array(picks).T, strict=True):
        figures[f"cost_share_{share:g}"] = {
            "accuracy": round(float(column.mean()), 3),
            "error": round(float(column.std(ddof=1) / len(column) ** 0.5), 3) if len(column) > 1 else None,
            "in_top_1_percent": round(float(np.mean(column >= truth.top(share))), 3),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=MACRO, help="a complete table of a space, CSV or Parquet")
    parser.add_argument("--digits", default="arch", help="column whose characters are the choices")
    parser.add_argument("--target", default="mean_acc", help="column of the true accuracies")
    parser.add_argument("--cost", default="flops", help="column of the cost")
    parser.add_argument("--noise", type=float, default=1.0, help="in standard deviations of the target")
    parser.add_argument("--evaluations", type=int, default=600)
    parser.add_argument("--segments", type=int, default=2)
    parser.add_argument("--predictor", default="ridge")
    parser.add_argument("--seeds", type=int, default=10)
    asked = parser.parse_args()
    space = make_space("table", {"path": str(asked.table), "digits": asked.digits, "target": asked.target})
    if not isinstance(space, TableSpace):
        parser.error("the table did not make a space of a table")
    truth = Truth(space, asked.cost, asked.noise)
    search = partial(searched, predictor=asked.predictor)
    strategies: dict[str, Callable[[Truth, int, int], list[str]]] = {
        "best_score": best_score,
        "whole_space": partial(search, segments=1, check=0, by_cost=False),
        "segments": partial(search, segments=asked.segments, check=CHECKED, by_cost=False),
        "segments_by_cost": partial(search, segments=asked.segments, check=CHECKED, by_cost=True),
    }
    figures: dict[str, Any] = {k: v for k, v in vars(asked).items() if k != "table"} | {"table": asked.table.name}
    for name, strategy in strategies.items():
        picks = [truth.picks(strategy(truth, seed, asked.evaluations)) for seed in range(asked.seeds)]
        figures[f"strategy_{name}"] = summary(truth, picks)
        print(name, figures[f"strategy_{name}"], flush=True)
    publish("segments", figures)


if __name__ == "__main__":
    main()
