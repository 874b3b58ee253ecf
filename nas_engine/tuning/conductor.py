"""Decides what a search does next; knows trials and epochs, and neither Ray nor torch.

Whoever runs trainings asks `next` for a trial, hands each epoch to `report`, and a failure to `fail`. Every
event is in the record before it has effects, and a conductor made over an unfinished record stands where the
interrupted one stood.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UnsatisfiableError

from ..config import Config
from ..files import Progress
from ..interrupt import never
from .history import DIVERGED, FAILED, FINISHED, RUNNING, STOPPED, History, Trial

if TYPE_CHECKING:
    from predictors.cost import CostModel

    from ..train import Candidate
    from .proposals import Proposals
    from .sampling import Prior
    from .stopping import EarlyStopping


def silent(event: str, details: dict[str, Any]) -> None:
    """Listens to nothing."""


@dataclass(frozen=True)
class SearchJob:
    """What a search is asked for.

    Attributes:
        directory: of the run; the search owns its folder `search/`, and reads `table/table.parquet` where it is.
        costs: cost models by name; those that bounds and objectives name must be among them.
        stop: asked between events; once true the search ends cleanly.
        progress: told of events in this process: `step` when a trial begins and after each epoch, `trial` when it ends.
        storage: URL of the database that keeps the Optuna study, instead of `search.storage`.
    """

    config: Config
    space: SearchSpace
    directory: Path
    costs: Mapping[str, CostModel]
    stop: Callable[[], bool] = never
    progress: Progress = silent
    storage: str | None = None

    @property
    def folder(self) -> Path:
        return self.directory / "search"

    @property
    def table(self) -> Path | None:
        """The lookup table where there is one."""
        path = self.directory / "table" / "table.parquet"
        return path if path.exists() else None

    @cached_property
    def prior(self) -> Prior | None:
        """What the run's predictor says of members; None where it has none, or one that takes long to tell."""
        from predictors import load_predictor
        from predictors.ranked import RankPredictor

        path = self.directory / "predict" / "model"
        if not path.exists():
            return None
        predictor = load_predictor(path, self.space)
        if not isinstance(predictor, RankPredictor):
            return None
        return lambda members: predictor.predict(members)[0]

    def checkpoint(self, trial: int) -> Path:
        """Where the training of a trial is saved."""
        return self.folder / "trials" / f"{trial:04d}.pt"

    def request(self, trial: Trial, directory: Path) -> Candidate:
        """What a process is asked to train, where the run's directory is `directory` for it."""
        from ..train.candidate import candidate_of

        return candidate_of(self.config, self.space, trial.code, trial.number, directory)

    def costs_of(self, architecture: Architecture) -> dict[str, float]:
        """Predicted costs of one member."""
        graph = self.space.graph(architecture)
        return {name: float(model.cost(graph)) for name, model in self.costs.items()}


@dataclass(frozen=True)
class SearchOutcome:
    """How a search ended, and how many of its trials are in each state.

    Attributes:
        state: `finished`; `exhausted` where no member was left that meets the bounds and is new;
            `interrupted` where it was asked to stop.
    """

    state: str
    finished: int
    stopped: int
    failed: int
    diverged: int


class Conductor:
    """A search between its events. Making one reads the record and ends what was decided but not yet noted."""

    def __init__(self, job: SearchJob) -> None:
        self._job = job
        self._settings = job.config.search
        self._quality = job.config.data.quality
        self.history = History(job.folder)
        self.exhausted = False
        if self.history.unfinished or len(self.history.trials) < self._settings.trials:
            self._replay()
        self._resumed = deque(self.history.unfinished)

    @cached_property
    def _proposals(self) -> Proposals:
        from .proposals import Proposals
        from .study import storage_of

        return Proposals(
            self._job.config,
            self._job.space,
            self.history,
            self._job.costs_of,
            table=self._job.table,
            prior=self._job.prior,
            storage=storage_of(self._job.config, self._job.directory, self._job.storage),
        )

    @cached_property
    def _stopping(self) -> EarlyStopping:
        from .stopping import make_stopping

        return make_stopping(self._job.config)

    def _replay(self) -> None:
        """Lead early stopping through the record; a trial whose last epoch decided its end is ended now."""
        decided = {}
        for row in list(self.history.epochs):
            decided[row["trial"]] = self._verdict(self.history.trials[row["trial"]], row)
        for trial in self.history.unfinished:
            state = decided.get(trial.number)
            if state is not None:
                self.history.ended(trial.number, state)

    def _verdict(self, trial: Trial, row: Mapping[str, Any]) -> str | None:
        """How a trial ends after an epoch, None where it goes on."""
        costs = tuple(trial.costs[name] for name in self._job.config.objectives if name != "accuracy")
        stops = self._stopping.stops(trial.number, row["epoch"], row["accuracy"], costs)
        if row["epoch"] >= self._settings.epochs:
            return FINISHED
        return STOPPED if stops else None

    # ---- what runs trainings calls -----------------------------------------------------------------------

    @property
    def remaining(self) -> int:
        """Trials still to be run, counting those that are unfinished."""
        return len(self._resumed) + max(0, self._settings.trials - len(self.history.trials))

    @property
    def begun(self) -> frozenset[int]:
        """Numbers of the trials that are unfinished."""
        return frozenset(trial.number for trial in self.history.unfinished)

    @property
    def over(self) -> bool:
        """Whether nothing is left to be run."""
        return self.outcome().state != "interrupted"

    def next(self) -> Trial | None:
        """The trial to run next: an unfinished one of before, else a new one; None where there is none.

        Raises:
            UnsatisfiableError: the bounds leave nothing to try at all.
        """
        proposals = self._proposals  # opened before anything is reported, so that the study is told of it
        if self._resumed:
            trial = self._resumed.popleft()
            self._tell_step(f"trial {trial.number} goes on after epoch {len(trial.epochs)}")
            return trial
        if self.exhausted or len(self.history.trials) >= self._settings.trials:
            return None
        # left by a record that is gone: a new trial must not go on from another one's weights
        self._job.checkpoint(len(self.history.trials)).unlink(missing_ok=True)
        new = proposals.ask()
        if new is not None:
            self._tell_step(f"trial {new.number} begins")
            return new
        self.exhausted = True
        if not self.history.trials:
            bounds = " and ".join(map(str, self._job.config.bounds))
            raise UnsatisfiableError(
                f"no member was found that meets {bounds}; the nearest one has {proposals.nearest}. "
                "Loosen the bounds (--set constraints=...), or choose a space with smaller members"
            )
        return None

    def report(self, number: int, result: Mapping[str, Any]) -> bool:
        """Note an epoch of a trial; whether the trial goes on. An epoch that is known already changes nothing.

        Args:
            result: the fields of `CandidateResult`.
        """
        trial = self.history.trials[number]
        if trial.state != RUNNING:
            return False
        if trial.epochs and result["epoch"] <= trial.epochs[-1]["epoch"]:
            return True
        known = {key: result[key] for key in ("epoch", "accuracy", "loss", "train_loss")}
        state = self._verdict(trial, known)
        self.history.epoch(number, known, float(result["seconds"]), last=state is not None)
        self._tell_step(f"trial {number}, epoch {known['epoch']}, {self._quality.told(known['accuracy'])}")
        if state is not None:
            self._end(trial, state)
        return state is None

    def fail(self, number: int, error: str, *, diverged: bool = False) -> None:
        """Note that a trial came to no end; it is left out and not tried again."""
        trial = self.history.trials[number]
        if trial.state == RUNNING:
            self._end(trial, DIVERGED if diverged else FAILED, error)

    def outcome(self) -> SearchOutcome:
        """How the search stands; what it says is on the disk."""
        self.history.sync()
        missing = self._settings.trials > len(self.history.trials)
        if self.history.unfinished or (missing and not self.exhausted):
            state = "interrupted"
        else:
            state = "exhausted" if missing else "finished"
        counts = {name: self.history.count(name) for name in (FINISHED, STOPPED, FAILED, DIVERGED)}
        return SearchOutcome(state, **counts)

    # ---- telling -----------------------------------------------------------------------------------------

    def _end(self, trial: Trial, state: str, error: str | None = None) -> None:
        self.history.ended(trial.number, state, error)
        self._proposals.tell(trial)
        accuracy = "" if trial.accuracy is None else f", {self._quality.told(trial.accuracy)}"
        text = f"trial {trial.number} {state} after {len(trial.epochs)} epochs{accuracy}"
        details = {"trial": trial.number, "code": trial.code, "state": state, "accuracy": trial.accuracy}
        self._job.progress("trial", {"text": text + (f": {error}" if error else ""), **details})

    def _tell_step(self, text: str) -> None:
        ended = sum(t.state != RUNNING for t in self.history.trials.values())
        self._job.progress("step", {"text": f"candidates; {text}", "done": ended, "total": self._settings.trials})
