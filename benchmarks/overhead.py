"""Seconds a trial that the engine adds around a training of no work, beside bare Ray Tune and bare Optuna.

    python -m benchmarks.overhead [--trials 100] [--repeats 5] [--concurrency 2] [--sampler predicted] [--members 40000]

Three loops, in turn, `repeats` times, so that noise hits all alike: the engine's search (sampler over the lookup table,
record, Optuna journal, early stopping, requests, Ray Tune) whose trials report one epoch and train nothing; Ray Tune
alone with actor reuse, as many trials at a time and the same report; Optuna alone, ask and tell with its journal file.
Seconds are counted from the end of the first trial to the end of the last one, as processes are started once a search:

- engine_s, tune_s, optuna_s: seconds a trial, median of the repeats, with `_spread`, least and most.
- ratio: engine_s over tune_s of the same turn; added_s: their difference.
- startup_s: until the end of the first trial, engine and Ray Tune, where Ray runs already.
- members_per_s: batches of codes scored by two long-lived actors as in the sample stage, with a network of no work.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.common import publish
from nas_engine.config import Config, make_config
from nas_engine.tuning import MemberJob, SearchJob, distributions, score_members, search
from nas_engine.tuning import cluster as ray_cluster
from predictors.cost import make_cost_model
from predictors.table import TableWriter, table_schema
from search_spaces import SearchSpace, make_space

SHAPE = {"input_shape": (1, 8, 8), "classes": 10}
EPOCH = {"epoch": 1, "accuracy": 0.5, "loss": 1.0, "train_loss": 1.0, "seconds": 0.0}


@dataclass(frozen=True)
class Paid:
    """What one loop took: until the end of the first trial, and a trial after that; seconds."""

    startup: float
    trial: float

    @classmethod
    def between(cls, started: float, ends: Sequence[float]) -> Paid:
        """From the moments at which trials ended, in any order."""
        return cls(min(ends) - started, (max(ends) - min(ends)) / (len(ends) - 1))


def no_training(config: dict[str, Any]) -> None:
    """A trial that does all that `worker.tune_trial` does but train."""
    from ray import tune

    from nas_engine.remote import node_files
    from nas_engine.train import Candidate
    from nas_engine.tuning.worker import brought

    files = node_files(Path(config["directory"]), config["uri"])
    request = brought(Candidate.model_validate_json(config["request"]), files)
    files.push(request.checkpoint)
    tune.report(dict(EPOCH))


def write_table(path: Path, job: SearchJob) -> Path:
    """A lookup table of all members, their predictions drawn at random."""
    rng = np.random.default_rng(0)
    members = list(dict.fromkeys(job.space.canonical(a) for a in job.space.enumerate()))
    figures = {
        "code": [a.code for a in members],
        "id": [a.id for a in members],
        "accuracy": rng.uniform(0.3, 0.7, len(members)),
        "accuracy_std": rng.uniform(0.01, 0.02, len(members)),
        "params": [job.costs["params"].cost(job.space.graph(a)) for a in members],
        "macs": [job.costs["macs"].cost(job.space.graph(a)) for a in members],
    }
    schema = pa.schema([field for field in table_schema(job.space, job.costs) if field.name in figures])
    with TableWriter(path, schema, {}) as writer:
        writer.write(pa.record_batch([pa.array(figures[f.name], f.type) for f in schema], schema=schema))
    return path


def make_job(directory: Path, trials: int, concurrency: int, sampler: str = "predicted", **told: Any) -> SearchJob:
    """A search in NAS-Bench-201 with a bound and two objectives; trials end after one epoch."""
    space = make_space("nasbench201", SHAPE)
    settings = {"sampler": sampler, "trials": trials, "epochs": 1, "grace_epochs": 1, "concurrency": concurrency}
    config = make_config(
        {
            "data": {"source": "digits"},
            "space": {"name": "nasbench201"},
            "objectives": {"accuracy": "max", "params": "min"},
            "constraints": ["params <= 1e9"],
            "search": {**settings, "threads": 1, "inherit": False},
        }
    )
    costs = {name: make_cost_model(name) for name in ("params", "macs")}
    return SearchJob(config, space, directory, costs, **told)


def engine(trials: int, concurrency: int, sampler: str, table: Path) -> Paid:
    """The engine's search, with a copy of the lookup table in its run."""
    ends: list[float] = []

    def progress(event: str, details: dict[str, Any]) -> None:
        if event == "trial":
            ends.append(time.time())

    with tempfile.TemporaryDirectory() as folder:
        job = make_job(Path(folder), trials, concurrency, sampler, progress=progress)
        (job.directory / "table").mkdir()
        shutil.copy(table, job.directory / "table" / "table.parquet")
        started = time.time()
        outcome = search(job, no_training)
    if outcome.finished != trials:
        raise RuntimeError(f"{outcome.finished} of {trials} trials finished")
    return Paid.between(started, ends)


def bare_tune(trials: int, concurrency: int, space: SearchSpace) -> Paid:
    """Ray Tune with its own random draws, nothing else."""
    from ray import tune

    def report(config: dict[str, Any]) -> None:
        tune.report({**EPOCH, "ended": time.time()})

    started = time.time()
    grid = tune.Tuner(
        tune.with_resources(report, {"cpu": 1}),
        param_space={choice.name: tune.choice(choice.options) for choice in space.choices},
        tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=concurrency, reuse_actors=True),
        run_config=tune.RunConfig(name="bare", storage_path=str(ray_cluster.scratch()), verbose=0),
    ).fit()
    ends = [result.metrics["ended"] for result in grid if result.metrics]
    if len(ends) != trials:
        raise RuntimeError(f"{len(ends)} of {trials} trials reported")
    return Paid.between(started, ends)


def bare_optuna(trials: int, space: SearchSpace) -> Paid:
    """Optuna with its own journal file: ask, one intermediate value, tell."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ends = []
    with tempfile.TemporaryDirectory() as folder:
        storage = JournalStorage(JournalFileBackend(str(Path(folder) / "journal")))
        study = optuna.create_study(
            storage=storage, sampler=optuna.samplers.RandomSampler(seed=0), direction="maximize"
        )
        started = time.time()
        for _ in range(trials):
            trial = study.ask(distributions(space))
            trial.report(EPOCH["accuracy"], 1)
            study.tell(trial, EPOCH["accuracy"])
            ends.append(time.time())
    return Paid.between(started, ends)


@dataclass(frozen=True)
class NoNetwork(MemberJob):
    """Scores members by nothing; codes, decoding and results travel as they do in the sample stage."""

    def open(self) -> Callable[[Sequence[str]], list[tuple[str, dict[str, float]]]]:
        from nas_engine.evaluate import MemberScore

        space = make_space(self.space, self.parameters)

        def work(codes: Sequence[str]) -> list[tuple[str, dict[str, float]]]:
            return [(space.decode(code).code, asdict(MemberScore(0.5, 1.0, 0.5, 0.5))) for code in codes]

        return work


def members_a_second(count: int, workers: int = 2) -> float:
    """Codes scored in a second by actors that have begun."""
    config: Config = make_config({"data": {"source": "digits"}, "space": {"name": "nasbench201"}})
    space = make_space("nasbench201", SHAPE)
    rng = np.random.default_rng(0)
    codes = [space.sample(rng).code for _ in range(count)]
    moments: list[float] = []
    score_members(NoNetwork.of(config, space, Path(), workers), codes, lambda code, score: moments.append(time.time()))
    if len(moments) != count:
        raise RuntimeError(f"{len(moments)} of {count} members scored")
    return (count - 1) / (moments[-1] - moments[0])


def compare(trials: int, repeats: int, concurrency: int, sampler: str) -> dict[str, Any]:
    """The three loops in turn."""
    space = make_space("nasbench201", SHAPE)
    ray_cluster.start(concurrency)
    ours, tune, optuna = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        table = write_table(Path(folder) / "table.parquet", make_job(Path(folder), trials, concurrency))
        for _ in range(repeats):
            ours.append(engine(trials, concurrency, sampler, table))
            tune.append(bare_tune(trials, concurrency, space))
            optuna.append(bare_optuna(trials, space))
    pairs = list(zip(ours, tune, strict=True))
    return {
        **spread("engine_s", [paid.trial for paid in ours]),
        **spread("tune_s", [paid.trial for paid in tune]),
        **spread("optuna_s", [paid.trial for paid in optuna]),
        **spread("added_s", [a.trial - b.trial for a, b in pairs]),
        **spread("ratio", [a.trial / b.trial for a, b in pairs]),
        "engine_startup_s": round(statistics.median(paid.startup for paid in ours), 3),
        "tune_startup_s": round(statistics.median(paid.startup for paid in tune), 3),
    }


def spread(name: str, values: Sequence[float]) -> dict[str, Any]:
    """Median, and least and most."""
    return {name: round(statistics.median(values), 5), f"{name}_spread": [round(f(values), 5) for f in (min, max)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--sampler", default="predicted")
    parser.add_argument("--members", type=int, default=40_000)
    asked = parser.parse_args()
    figures = compare(asked.trials, asked.repeats, asked.concurrency, asked.sampler)
    rates = [members_a_second(asked.members) for _ in range(asked.repeats)]
    settings = {"trials": asked.trials, "repeats": asked.repeats, "concurrency": asked.concurrency}
    publish("overhead", {**figures, **spread("members_per_s", rates), **settings, "sampler": asked.sampler})


if __name__ == "__main__":
    main()
