"""How few labels of a public table a sampler needs to find a good network. Prints one JSON line last.

    python -m benchmarks.search --table FILE --space nasbench201|nasbench_graph|table --signal COLUMN --target COLUMN
        --sampler NAME --queries Q --seeds K [--choices a,b,c | --digits COLUMN] [--groups COLUMN] [--jobs J]
        [--confirm C] [--first-seed 0]

The sampler is an Optuna sampler in an ordinary study; it sees `signal`, and what is reported is `target` of the member
of the best signal so far. The 12-epoch validation accuracy as signal is what a user has; the target itself as signal is
the setting of most papers. Every label that is read counts as a query; a member proposed again is answered from memory,
as a search of the engine does, and after 50 such answers a random new one is read. Members are read in the canonical
form of the space; with `--groups` the first row of each group stands for all of them.

`--jobs J` keeps J queries under way at a time, each for a random time, so that the sampler proposes before it knows.
`--confirm C` spends the last C queries on the target of the members of the best signal, and reports the best of these.

Figures: mean and standard deviation over the seeds of the reported target, its mean distance to the best of the table,
the median number of queries until the member of the best target was read (null where more than half of the searches
did not), and seconds a query that the sampler takes; `at` has the mean target after fewer queries. `median_rank` is
the place of the reported target among all networks of the table, the best being 1, and `in_top_permille` the share of
searches whose place is among the best 0.1 %; `rank_at` has the median place after fewer queries.
"""

from __future__ import annotations

import argparse
import heapq
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from benchmarks.common import publish_row
from benchmarks.tables import Labelled, label, read
from nas_engine.tuning import SamplerSettings, architecture_of, distributions, make_sampler, samplers
from nas_engine.tuning.sampling import REJECTED
from search_spaces import SearchSpace

REPEATS = 50
CHECKPOINTS = (20, 30, 50, 100, 150, 200, 300, 400)


@dataclass(frozen=True)
class Labels:
    """Signal and target of every network of a table, by the code of its canonical member."""

    space: SearchSpace
    row_of: dict[str, int]
    signal: np.ndarray
    target: np.ndarray

    @classmethod
    def of(cls, table: Labelled, signal: str, target: str) -> Labels:
        """One row a network: that of the canonical member, or the first of its group where there are groups."""
        first: dict[int, int] = {}
        row_of: dict[str, int] = {}
        grouped = len(set(table.groups.tolist())) < len(table.groups)
        for row, (member, group) in enumerate(zip(table.members, table.groups.tolist(), strict=True)):
            if grouped:
                row_of.setdefault(table.space.canonical(member).code, first.setdefault(group, row))
            elif table.space.canonical(member).code == member.code:
                row_of[member.code] = row
        return cls(table.space, row_of, table.column(signal), table.column(target))

    def values(self, row: int) -> list[float]:
        """Signal and target of a row."""
        return [float(self.signal[row]), float(self.target[row])]

    @property
    def best(self) -> float:
        """The best target of all networks."""
        return float(self.target[list(self.row_of.values())].max())

    def ranks(self, targets: np.ndarray) -> np.ndarray:
        """Places of targets among those of all networks, 1 for the best; equal ones share the first of their places."""
        every = np.sort(self.target[list(self.row_of.values())])
        return 1 + len(every) - np.searchsorted(every, targets, side="right")


@dataclass(frozen=True)
class Search:
    """The rows read by one search, in the order in which they were asked for, and seconds the sampler took."""

    rows: list[int]
    sampler_s: float


def search(labels: Labels, sampler: str, queries: int, seed: int, jobs: int = 1) -> Search:
    """Search with `queries` labels, `jobs` of them under way at a time.

    Where the signal is the target, nothing changes once the best of all was read, and the search ends.
    """
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rng = np.random.default_rng([seed, 1])
    settings = SamplerSettings(labels.space, seed=seed, trials=queries)
    study = optuna.create_study(direction="maximize", sampler=make_sampler(sampler, settings))
    rows: list[int] = []
    running: list[tuple[float, int, optuna.Trial, int]] = []
    spent, now = 0.0, 0.0
    best = labels.signal[list(labels.row_of.values())].max()
    ends = np.array_equal(labels.signal, labels.target)
    while len(rows) < queries or running:
        if ends and rows and labels.signal[rows[-1]] >= best:
            break
        if len(rows) < queries and len(running) < jobs:
            started = time.perf_counter()
            trial, row = next_read(study, labels, set(rows), rng)
            spent += time.perf_counter() - started
            rows.append(row)
            heapq.heappush(running, (now + rng.lognormal(0, 0.5), trial.number, trial, row))
        else:
            now, _, trial, row = heapq.heappop(running)
            started = time.perf_counter()
            study.tell(trial, float(labels.signal[row]))
            spent += time.perf_counter() - started
    return Search(rows, spent)


def next_read(
    study: optuna.Study, labels: Labels, read: set[int], rng: np.random.Generator
) -> tuple[optuna.Trial, int]:
    """The study's next trial whose label has not been read, and its row.

    Others are answered from memory; after many of them a random member is asked for.
    """
    for _ in range(REPEATS):
        trial, row = _next(study, labels)
        if row is not None and row not in read:
            return trial, row
        trial.set_user_attr(REJECTED, "not in the table" if row is None else "read before")
        if row is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, labels.values(row)[: len(study.directions)])
    new = [code for code, row in labels.row_of.items() if row not in read]
    study.enqueue_trial(labels.space.decode(new[rng.integers(len(new))]).values)
    trial, row = _next(study, labels)
    assert row is not None
    return trial, row


def _next(study: optuna.Study, labels: Labels) -> tuple[optuna.Trial, int | None]:
    """The study's next trial, and its row."""
    trial = study.ask(distributions(labels.space))
    member = labels.space.canonical(architecture_of(labels.space, trial.params))
    return trial, labels.row_of.get(member.code)


def reported(labels: Labels, rows: list[int], queries: int, confirm: int) -> float:
    """The target that a search of `queries` labels, the last `confirm` of them on targets, ends with."""
    seen = np.array(rows[: queries - confirm])
    order = np.argsort(-labels.signal[seen], kind="stable")
    return float(labels.target[seen[order[: max(1, confirm)]]].max())


def figures(labels: Labels, searches: list[Search], queries: int, confirm: int) -> dict[str, Any]:
    """What the searches came to."""
    best = labels.best
    after = {
        q: np.array([reported(labels, s.rows, q, confirm) for s in searches])
        for q in {*CHECKPOINTS, queries}
        if confirm < q <= queries
    }
    ends, marks = after[queries], [q for q in CHECKPOINTS if q in after]
    firsts = [next((i for i, r in enumerate(s.rows, 1) if labels.target[r] >= best - 1e-9), None) for s in searches]
    median = float(np.median([np.inf if first is None else first for first in firsts]))
    return {
        "mean_target": round(float(ends.mean()), 4),
        "std_target": round(float(ends.std()), 4),
        "mean_regret": round(best - float(ends.mean()), 4),
        "median_rank": float(np.median(labels.ranks(ends))),
        "in_top_permille": round(float((labels.ranks(ends) <= max(1, len(labels.row_of) // 1000)).mean()), 4),
        "queries_to_optimum_median": median if np.isfinite(median) else None,
        "sampler_s_per_query": round(sum(s.sampler_s for s in searches) / sum(len(s.rows) for s in searches), 4),
        "at": {str(q): round(float(after[q].mean()), 4) for q in marks},
        "rank_at": {str(q): float(np.median(labels.ranks(after[q]))) for q in marks},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path("../shared/data/nasbench201/nasbench201.parquet"))
    parser.add_argument(
        "--space", default="nasbench201", help="a space of networks, or table with --choices or --digits"
    )
    parser.add_argument("--choices", default="", help="columns that are the choices of the space table")
    parser.add_argument("--digits", help="column whose digits are the choices of the space table")
    parser.add_argument("--signal", default="cifar100_test_acc_200ep")
    parser.add_argument("--target", default="cifar100_test_acc_200ep")
    parser.add_argument("--sampler", default="gcn", choices=sorted(set(samplers) - {"predicted"}))
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--groups", help="column whose equal values mean the same network")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--confirm", type=int, default=0, help="the last queries, on targets of the best")
    args = parser.parse_args()
    choices = [c for c in args.choices.split(",") if c]
    columns = list(dict.fromkeys([args.signal, args.target]))
    table = label(read(args.table), args.space, columns, choices, args.groups, digits=args.digits)
    labels = Labels.of(table, args.signal, args.target)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    searches = [search(labels, args.sampler, args.queries - args.confirm, seed, args.jobs) for seed in seeds]
    asked = {
        key: value.name if isinstance(value, Path) else value
        for key, value in vars(args).items()
        if value not in (None, "")
    }
    publish_row("search", asked, figures(labels, searches, args.queries, args.confirm))


if __name__ == "__main__":
    main()
