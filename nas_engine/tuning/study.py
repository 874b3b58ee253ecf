"""The Optuna study of a search, in step with the record: kept where the two agree, rebuilt from the record if not."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search_spaces import SearchSpace
from search_spaces.errors import ConfigError, EngineError, RunError

from ..config import Bound, Config
from ..files import read_json
from .history import RUNNING, TRAINED, History
from .sampling import REJECTED, distributions

STUDY = "search"
_LONGEST_REASON = 240


@dataclass(frozen=True)
class Database:
    """A database that keeps the study of a run and may keep those of others.

    Attributes:
        url: as SQLAlchemy takes it, such as `postgresql+psycopg://user@host/database`.
        study: a name that no other run's study has.
    """

    url: str
    study: str = STUDY

    def __str__(self) -> str:
        return re.sub(r"//[^/@]*@", "//", self.url).partition("?")[0]


def storage_of(config: Config, directory: Path, url: str | None = None) -> Path | Database:
    """Where the study of a run is kept: a journal in its directory, or the database at a URL.

    Args:
        directory: of the run, whose `run.json` tells it from others of its name and place.
        url: instead of `search.storage`.
    """
    url = url or config.search.storage
    if url is None:
        return directory / "search" / "optuna.journal"
    made = directory / "run.json"
    identity = read_json(made).get("id") if made.exists() else None
    place = [identity or platform.node(), config.uri or str(directory.absolute())]
    return Database(url, f"{config.name}-{hashlib.sha256(json.dumps(place).encode()).hexdigest()[:12]}")


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
    storage: Path | Database, history: History, space: SearchSpace, judge: Judge, sampler: BaseSampler
) -> optuna.Study:
    """The study that holds exactly the proposals of the record.

    Args:
        storage: path of a journal file, or a database.
        sampler: proposes the next trials.

    Raises:
        RunError: the storage cannot be read or written.
        ConfigError: a database that this Python has no module for, or a URL that makes no sense.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    expected = expected_trials(history, space, judge)
    try:
        study = _stored(storage, judge, sampler)
        if study is None or _essence(study.get_trials(deepcopy=False)) != _essence(expected):
            _remove(storage)
            study = optuna.create_study(
                study_name=_name(storage), storage=_open(storage), directions=judge.directions, sampler=sampler
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # names of objectives are an experimental feature of Optuna
                study.set_metric_names(list(judge.objectives))
            study.add_trials(expected)
    except OSError as e:
        raise RunError(f"cannot use {storage} ({e}); free space or choose another directory, and start again") from e
    except Exception as e:
        raise explained(e) from e
    return study


def explained(error: Exception) -> Exception:
    """What a user can do about an error of a database; other errors as they are."""
    if not isinstance(error, StorageInternalError) and not type(error).__module__.startswith("sqlalchemy."):
        return error
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    words = re.sub(r"\[(SQL|parameters): .*", "", " ".join(str(cause).split())).split("(Background on")[0].strip()
    return RunError(
        f"the database of search.storage fails ({words[:_LONGEST_REASON]}); mend it, or keep the study in a file of "
        "the run (--set search.storage=null), and start again: the record is whole, the study is made of it"
    )


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


def _name(storage: Path | Database) -> str:
    return STUDY if isinstance(storage, Path) else storage.study


def _stored(storage: Path | Database, judge: Judge, sampler: BaseSampler) -> optuna.Study | None:
    """The study as stored, None where there is none that can be read."""
    if isinstance(storage, Path) and not storage.exists():
        return None
    try:
        study = optuna.load_study(study_name=_name(storage), storage=_open(storage), sampler=sampler)
        study.get_trials(deepcopy=False)
    except (OSError, EngineError):
        raise
    except Exception as e:  # whatever a damaged journal makes Optuna stumble over, the record replaces it
        if explained(e) is not e:
            raise
        return None
    return study if study.directions == judge.directions else None


def _open(storage: Path | Database) -> BaseStorage:
    if not isinstance(storage, Path):
        return _connected(storage)
    storage.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(_Journal(storage))


def _connected(database: Database) -> BaseStorage:
    """The database, whose connections are tried before use: a firewall or a restart may have cut them."""
    from sqlalchemy.exc import ArgumentError

    try:
        return optuna.storages.RDBStorage(database.url, engine_kwargs={"pool_pre_ping": True})
    except ImportError as e:
        module = (e.__cause__ or e).args[0]
        raise ConfigError(
            f"search.storage {str(database)!r} needs a module that is not installed ({module}); for PostgreSQL: "
            "pip install 'nas-engine[postgres]' and a URL that begins with postgresql+psycopg://"
        ) from None
    except (ArgumentError, ValueError) as e:
        words = " ".join(str(e).split())[:_LONGEST_REASON]
        raise ConfigError(
            f"search.storage {str(database)!r} is no URL of a database ({words}); give one such as "
            "postgresql+psycopg://user@host/database or sqlite:///file.db"
        ) from None


def _remove(storage: Path | Database) -> None:
    if isinstance(storage, Path):
        storage.unlink(missing_ok=True)
        return
    opened = _open(storage)
    if storage.study in optuna.get_all_study_names(opened):
        optuna.delete_study(study_name=storage.study, storage=opened)
