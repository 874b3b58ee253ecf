"""The Optuna study of a search, in step with the record: kept where the two agree, rebuilt from the record if not."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search_spaces import SearchSpace
from search_spaces.errors import RunError

from ..config import Bound
from .history import RUNNING, TRAINED, History
from .sampling import REJECTED, distributions

STUDY = "search"


class _Journal(JournalFileBackend):
    """A journal file that waits neither for the disk nor for a lock.

    The run's directory belongs to one process, and what a crash loses is rebuilt from the record; a wait at every
    parameter of every proposal is what a search would otherwise spend its time on.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with self._path.open("ab") as file:
            file.write("".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode())


@dataclass(frozen=True)
class Judge:
    """What a proposal is worth to the sampler: objective values and constraint values.

    Attributes:
        objectives: metric to `max` or `min`.
        bounds: on costs and on accuracy.
    """

    objectives: Mapping[str, str]
    bounds: tuple[Bound, ...]

    @property
    def directions(self) -> list[StudyDirection]:
        return [StudyDirection.MAXIMIZE if d == "max" else StudyDirection.MINIMIZE for d in self.objectives.values()]

    def values(self, costs: Mapping[str, float], accuracy: float) -> list[float]:
        """One value an objective."""
        return [float(accuracy if name == "accuracy" else costs[name]) for name in self.objectives]

    def broken(self, costs: Mapping[str, float]) -> list[Bound]:
        """Bounds on costs that do not hold."""
        return [b for b in self.bounds if b.metric != "accuracy" and not b.holds(costs[b.metric])]

    def constraints(self, costs: Mapping[str, float], accuracy: float | None) -> dict[str, float]:
        """Constraint values as Optuna wants them: zero or less where a bound holds; accuracy once it is known."""
        known = dict(costs) if accuracy is None else {**costs, "accuracy": accuracy}
        values = {}
        for bound in self.bounds:
            if bound.metric in known:
                excess = bound.excess(known[bound.metric])
                values[str(bound)] = min(excess, 0.0) if bound.holds(known[bound.metric]) else max(excess, 1e-12)
        return values


def open_study(
    storage: Path | str, history: History, space: SearchSpace, judge: Judge, sampler: BaseSampler
) -> optuna.Study:
    """The study that holds exactly the proposals of the record.

    Args:
        storage: path of a journal file, or the URL of a database (`sqlite:///...`) that Optuna knows.
        sampler: proposes the next trials.

    Raises:
        RunError: the storage cannot be read or written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    expected = expected_trials(history, space, judge)
    try:
        study = _stored(storage, judge, sampler)
        if study is None or _essence(study.get_trials(deepcopy=False)) != _essence(expected):
            _remove(storage)
            study = optuna.create_study(
                study_name=STUDY, storage=_open(storage), directions=judge.directions, sampler=sampler
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # names of objectives are an experimental feature of Optuna
                study.set_metric_names(list(judge.objectives))
            study.add_trials(expected)
    except OSError as e:
        raise RunError(f"cannot use {storage} ({e}); free space or choose another directory, and start again") from e
    return study


def expected_trials(history: History, space: SearchSpace, judge: Judge) -> list[FrozenTrial]:
    """The record's proposals as Optuna trials, in order."""
    by_ask = {trial.ask: trial for trial in history.trials.values()}
    trials = []
    for number, row in enumerate(history.proposals):
        trial = by_ask.get(number)
        accuracy, values, state = None, row.get("values"), TrialState.FAIL
        if trial is not None and trial.state == RUNNING:
            state = TrialState.RUNNING
        elif trial is not None and trial.state in TRAINED and trial.accuracy is not None:
            accuracy = trial.accuracy
            values = judge.values(row["costs"], accuracy)
        trials.append(_frozen(row, state if values is None else TrialState.COMPLETE, values, space))
        for name, value in judge.constraints(row["costs"], accuracy).items():
            trials[-1].set_constraint(name, value)
    return trials


def _frozen(row: Mapping[str, Any], state: TrialState, values: list[float] | None, space: SearchSpace) -> FrozenTrial:
    now = datetime.now()
    rejected = {REJECTED: row["reason"]} if row["event"] == "reject" else {}
    trial = optuna.trial.create_trial(
        state=TrialState.COMPLETE if values is not None else TrialState.FAIL,
        values=values,
        params=dict(row["params"]),
        distributions=distributions(space),
        user_attrs={"code": row["code"], **rejected},
        system_attrs=dict(row["attributes"]),
    )
    trial.state, trial.datetime_start = state, now
    if state == TrialState.RUNNING:
        trial.datetime_complete = None
    return trial


def _essence(trials: Iterable[FrozenTrial]) -> list[tuple[Any, ...]]:
    """What of a study's trials the next proposals depend on."""
    return [(t.state, t.params, t.values, t.constraints) for t in trials]


def _stored(storage: Path | str, judge: Judge, sampler: BaseSampler) -> optuna.Study | None:
    """The study as stored, None where there is none that can be read."""
    if isinstance(storage, Path) and not storage.exists():
        return None
    try:
        study = optuna.load_study(study_name=STUDY, storage=_open(storage), sampler=sampler)
        study.get_trials(deepcopy=False)
    except OSError:
        raise
    except Exception:  # whatever a damaged journal makes Optuna stumble over, the record replaces it
        return None
    return study if study.directions == judge.directions else None


def _open(storage: Path | str) -> BaseStorage | str:
    if not isinstance(storage, Path):
        return storage
    storage.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(_Journal(storage))


def _remove(storage: Path | str) -> None:
    if isinstance(storage, Path):
        storage.unlink(missing_ok=True)
    elif STUDY in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name=STUDY, storage=storage)
