"""Early stopping of searches for accuracy and cost, on recorded learning curves. Prints one JSON line last.

    python -m benchmarks.stopping [--curves digits|power_laws] [--trials 24] [--epochs 20] [--seeds 20]
    python -m benchmarks.stopping --record 60      trains the digits' curves anew (about 4 minutes on one core)

Random proposals among 60 networks, so that all rules see the same trials. `digits` are networks of NAS-Bench-201
(8 channels, one cell a stage) trained for 20 epochs under a cosine schedule; `power_laws` are noisy made-up curves with
a late gain, 60 others for each seed. Figures of each rule, means over the seeds:

- epochs_saved: share of the epochs of a search that never stops a trial.
- front_stopped: share of the members of that search's front that the rule stopped.
- hypervolume_lost: of the same number of trials, share of that search's hypervolume; a stopped trial counts with the
  accuracy it had reached.
- hypervolume_gained: of the same number of epochs, the saved ones spent on further trials. `_se` are standard errors.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, publish_row
from nas_engine.config import make_config
from nas_engine.tuning import SearchJob, read_hypervolume, recorded, search_recorded
from nas_engine.tuning.history import STOPPED, History, Trial
from predictors.table import pareto
from search_spaces import Architecture, Choice, Graph, SearchSpace, make_space

CURVES = RESULTS / "stopping_curves.json"
RULES = ("front", "asha", "none")
POOL = (10, 6)
DIGITS = {"channels": 8, "cells": 1}


class PoolSpace(SearchSpace):
    """Numbered networks; what they are is not known."""

    name = "pool"

    def __init__(self) -> None:
        super().__init__([Choice("tens", tuple(range(POOL[0]))), Choice("ones", tuple(range(POOL[1])))])

    def graph(self, architecture: Architecture) -> Graph:
        raise NotImplementedError("networks of the pool are known by their curves and costs only")


@dataclass(frozen=True)
class Pool:
    """Shapes: curves `(n, epochs)`; costs `(n,)`."""

    curves: np.ndarray
    costs: np.ndarray

    @staticmethod
    def place(code: str) -> int:
        return int(code[0]) * POOL[1] + int(code[1])


@dataclass(frozen=True)
class PoolJob(SearchJob):
    """A search over the networks of a pool.

    Attributes:
        macs: of each network.
    """

    macs: tuple[float, ...] = ()

    def costs_of(self, architecture: Architecture) -> dict[str, float]:
        return {"macs": self.macs[Pool.place(architecture.code)]}


def digits(seed: int, epochs: int) -> Pool:
    """The recorded curves, the same for each seed."""
    data = json.loads(CURVES.read_text())
    rows = data["networks"][: POOL[0] * POOL[1]]
    return Pool(np.array([row["accuracy"] for row in rows])[:, :epochs], np.array([row["macs"] for row in rows]))


def power_laws(seed: int, epochs: int) -> Pool:
    """`a - b e^-c` with a late gain and noise that fades, both as under a learning rate that falls to zero."""
    rng, n = np.random.default_rng([seed, 5]), POOL[0] * POOL[1]
    costs = rng.uniform(1, 10, n)
    final = 0.6 + 0.3 * (1 - np.exp(-costs / 4)) + rng.normal(0, 0.04, n)
    e = np.arange(1, epochs + 1)
    below, rate = rng.uniform(0.3, 0.8, (n, 1)), rng.uniform(0.4, 1.5, (n, 1))
    late = rng.uniform(0, 0.05, (n, 1)) * (e / epochs) ** 3
    noise = rng.normal(0, 0.02, (n, epochs)) * np.cos(e / epochs * np.pi / 2)
    return Pool(np.clip(final[:, None] - below * e**-rate + late + noise, 0, 1), costs)


SOURCES: Mapping[str, Callable[[int, int], Pool]] = {"digits": digits, "power_laws": power_laws}


@dataclass(frozen=True)
class Outcome:
    trials: list[Trial]
    epochs: int
    hypervolume: float


def search(pool: Pool, rule: str, *, trials: int, seed: int, budget: int | None = None) -> Outcome:
    """One search, until so many trials, or epochs, are done."""
    settings = {"sampler": "random", "trials": trials, "epochs": pool.curves.shape[1], "stopping": rule}
    config = make_config({"seed": seed, "objectives": {"accuracy": "max", "macs": "min"}, "search": settings})
    used = 0

    def curve(code: str) -> Sequence[float]:
        return [float(a) for a in pool.curves[Pool.place(code)]]

    def counted(trial: Trial) -> Iterator[dict[str, Any]]:
        nonlocal used
        for row in recorded(curve)(trial):
            used += 1
            yield row

    with tempfile.TemporaryDirectory() as folder:
        job = PoolJob(
            config,
            PoolSpace(),
            Path(folder),
            {},
            stop=lambda: budget is not None and used >= budget,
            macs=tuple(pool.costs.tolist()),
        )
        search_recorded(job, counted)
        device = {"profile": {"extents": [{"cost": "macs", "largest": float(pool.costs.max())}]}}
        share = read_hypervolume(Path(folder), config, device).last
        return Outcome(list(History(job.folder).trials.values()), used, share)


def judged(pool: Pool, rule: str, trials: int, seed: int) -> dict[str, float]:
    """The figures of a rule in one search; `front_stopped` as counts."""
    budget = trials * pool.curves.shape[1]
    whole = search(pool, "none", trials=trials, seed=seed)
    same_trials = search(pool, rule, trials=trials, seed=seed)
    same_epochs = search(pool, rule, trials=len(pool.costs), seed=seed, budget=budget)
    losses = np.array([[-(t.accuracy or 0.0), t.costs["macs"]] for t in whole.trials])
    front = {whole.trials[i].code for i in pareto(losses)}
    stopped = {t.code for t in same_trials.trials if t.state == STOPPED}
    return {
        "epochs_saved": 1 - same_trials.epochs / budget,
        "front": len(front),
        "front_stopped": len(front & stopped),
        "hypervolume_lost": 1 - same_trials.hypervolume / whole.hypervolume,
        "hypervolume_gained": same_epochs.hypervolume / whole.hypervolume - 1,
    }


def figures(source: str, rule: str, args: argparse.Namespace) -> dict[str, float]:
    rows = [judged(SOURCES[source](s, args.epochs), rule, args.trials, s) for s in range(args.seeds)]
    total = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    found = {
        "epochs_saved": total["epochs_saved"].mean(),
        "front_stopped": total["front_stopped"].sum() / total["front"].sum(),
        "front_members": total["front"].sum(),
        "hypervolume_lost": total["hypervolume_lost"].mean(),
        "hypervolume_gained": total["hypervolume_gained"].mean(),
        "hypervolume_gained_se": total["hypervolume_gained"].std(ddof=1) / len(rows) ** 0.5 if len(rows) > 1 else 0.0,
    }
    return {key: round(float(value), 4) for key, value in found.items()}


def record(count: int, epochs: int) -> None:
    """Train random members of NAS-Bench-201 on the digits from random weights."""
    from nas_engine.train.candidate import candidate_of, train_candidate
    from predictors.cost import make_cost_model

    search_ = {"inherit": False, "epochs": epochs, "threads": 1}
    config = make_config({"data": {"validation": 0.4}, "space": {"name": "nasbench201", **DIGITS}, "search": search_})
    space = make_space("nasbench201", {**DIGITS, "input_shape": (1, 8, 8), "classes": 10})
    rng, macs = np.random.default_rng(0), make_cost_model("macs")
    drawn = (space.canonical(space.sample(rng)) for _ in range(100 * count))
    rows: list[dict[str, Any]] = []
    for member in islice(dict.fromkeys(drawn), count):
        with tempfile.TemporaryDirectory() as folder:
            request = candidate_of(config, space, member.code, len(rows), Path(folder))
            curve = [round(result.accuracy, 5) for result in train_candidate(request)]
        rows.append({"code": member.code, "macs": float(macs.cost(space.graph(member))), "accuracy": curve})
    CURVES.write_text(json.dumps({"space": DIGITS, "networks": rows}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", choices=sorted(SOURCES), default="digits")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--record", type=int, metavar="N", help="train N networks for the digits' curves and end")
    args = parser.parse_args()
    if args.record:
        return record(args.record, args.epochs)
    asked = {key: getattr(args, key) for key in ("curves", "trials", "epochs", "seeds")}
    return publish_row("stopping", asked, {rule: figures(args.curves, rule, args) for rule in RULES})


if __name__ == "__main__":
    main()
