"""Training baselines as trials are trained: in processes of Ray Tune, by the same recipe, resumable.

The record has a line for each epoch and one for each end, each on the disk before it has effects; a baseline that has
ended is not trained again.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config
from ..files import Progress, Record
from ..interrupt import never
from .conductor import silent
from .history import DIVERGED, FAILED, FINISHED, RUNNING

if TYPE_CHECKING:
    from ..train import Given

FOLDER = "baselines"
_SEEDS = 50_000  # of trials and of baselines, apart


@dataclass(frozen=True)
class BaselineJob:
    """What is trained for comparison.

    Attributes:
        directory: of the run; in its folder `baselines` lies one for each id, with `graph.json` and, where a library
            has its own, `initial.safetensors`.
        names: what each baseline is called, by id, in the order of training.
        stop: asked between events; once true the training ends cleanly.
        progress: told of `step` events in this process.
    """

    config: Config
    directory: Path
    names: Mapping[str, str]
    stop: Callable[[], bool] = never
    progress: Progress = silent

    def file(self, id: str, name: str) -> Path:
        return self.directory / FOLDER / id / name

    def request(self, turn: Trained, directory: Path) -> Given:
        """What a process is asked to train, where the run's directory is `directory` for it."""
        from ..train import Given

        search, folder = self.config.search, directory / FOLDER / turn.id
        initial = folder / "initial.safetensors" if self.file(turn.id, "initial.safetensors").exists() else None
        return Given(
            graph=folder / "graph.json",
            initial=initial,
            data=self.config.data,
            seed=self.config.seed,
            trial_seed=seed_of(self.config, turn.id),
            epochs=search.epochs,
            optimizer=search.optimizer,
            device=self.config.device.name,
            threads=search.training_threads,
            checkpoint=folder / "checkpoint.pt",
        )


def seed_of(config: Config, id: str) -> int:
    """The seed of a baseline's training; its own, whatever stands beside it."""
    return config.seed * 100_003 + _SEEDS + zlib.crc32(id.encode()) % _SEEDS


@dataclass
class Trained:
    """What the record knows of a baseline. `state` is as those of trials; `epochs` are the fields of their results."""

    number: int
    id: str
    state: str = RUNNING
    error: str | None = None
    epochs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def accuracy(self) -> float | None:
        """On the validation part after the last epoch."""
        return self.epochs[-1]["accuracy"] if self.epochs else None


def read_trained(path: Path, ids: Sequence[str]) -> dict[str, Trained]:
    """What a record says of some baselines."""
    found = {id: Trained(number, id) for number, id in enumerate(ids)}
    for row in Record(path).rows if path.exists() else ():
        one = found.get(row["id"])
        if one is None:
            continue
        if row["event"] == "epoch":
            one.epochs.append({k: v for k, v in row.items() if k not in ("event", "id")})
        else:
            one.state, one.error = row["state"], row["error"]
    return found


class BaselineConductor:
    """Hands out the baselines of a job that have not ended, and notes what comes of them."""

    def __init__(self, job: BaselineJob) -> None:
        self._job = job
        self._record = Record(job.directory / FOLDER / "trainings.jsonl")
        self.trained = read_trained(self._record.path, list(job.names))
        for one in self._running:
            if len(one.epochs) >= job.config.search.epochs:  # its end was decided, but not noted
                self._end(one, FINISHED)
        self.begun = frozenset(one.number for one in self._running if one.epochs)
        self._waiting = deque(self._running)

    @property
    def _running(self) -> list[Trained]:
        return [one for one in self.trained.values() if one.state == RUNNING]

    @cached_property
    def _by_number(self) -> dict[int, Trained]:
        return {one.number: one for one in self.trained.values()}

    @property
    def remaining(self) -> int:
        return len(self._running)

    @property
    def over(self) -> bool:
        return not self._running

    def next(self) -> Trained | None:
        return self._waiting.popleft() if self._waiting else None

    def report(self, number: int, result: Mapping[str, Any]) -> bool:
        """Note an epoch; whether the training goes on. An epoch that is known already changes nothing."""
        one = self._by_number[number]
        if one.state != RUNNING:
            return False
        if one.epochs and result["epoch"] <= one.epochs[-1]["epoch"]:
            return True
        known = {key: result[key] for key in ("epoch", "accuracy", "loss", "train_loss", "seconds")}
        self._record.append({"event": "epoch", "id": one.id, **known})
        one.epochs.append(known)
        told = self._job.config.data.quality.told(known["accuracy"])
        self._tell(f"{self._job.names[one.id]}, epoch {known['epoch']}, {told}")
        if known["epoch"] >= self._job.config.search.epochs:
            self._end(one, FINISHED)
        return one.state == RUNNING

    def fail(self, number: int, error: str, *, diverged: bool = False) -> None:
        """Note that a training came to no end; it is not tried again."""
        one = self._by_number[number]
        if one.state == RUNNING:
            self._end(one, DIVERGED if diverged else FAILED, error)

    def _end(self, one: Trained, state: str, error: str | None = None) -> None:
        self._record.append({"event": "end", "id": one.id, "state": state, "error": error})
        one.state, one.error = state, error
        self._tell(f"{self._job.names[one.id]} {state}" + (f": {error}" if error else ""))

    def _tell(self, text: str) -> None:
        ended = len(self.trained) - len(self._running)
        self._job.progress("step", {"text": f"baselines; {text}", "done": ended, "total": len(self.trained)})


def train_baselines(job: BaselineJob) -> dict[str, Trained]:
    """Train what has not ended, `search.concurrency` at a time; what the record then says of each baseline.

    Raises:
        RunError: the record is damaged or cannot be written, or Ray ended before its time.
    """
    conductor = BaselineConductor(job)
    if conductor.remaining and not job.stop():
        from .trials import run_trials
        from .worker import tune_baseline

        run_trials(job, conductor, tune_baseline)
    return conductor.trained
