"""The Optuna study in a database: the record stays the truth, and runs that share the database do not meet.

SQLite always; PostgreSQL where NAS_ENGINE_POSTGRES names a database that may be written to, such as
`postgresql+psycopg://postgres@127.0.0.1:5432/test`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from nas_engine.config import make_config
from nas_engine.tuning import SearchJob, recorded, search_recorded
from nas_engine.tuning.study import Database, storage_of
from search_spaces.errors import ConfigError, RunError

Jobs = Callable[..., SearchJob]
Curves = Callable[[str], list[float]]
SETTINGS: dict[str, Any] = {"sampler": "tpe", "trials": 5, "epochs": 3, "grace_epochs": 1}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    given = os.environ.get("NAS_ENGINE_POSTGRES")
    if not given:
        pytest.skip("NAS_ENGINE_POSTGRES names no database")
    return given


def content(job: SearchJob) -> bytes:
    return (job.folder / "trials.jsonl").read_bytes()


def kept(job: SearchJob) -> optuna.Study:
    place = storage_of(job.config, job.directory)
    assert isinstance(place, Database)
    return optuna.load_study(study_name=place.study, storage=place.url)


def test_the_record_is_that_of_a_journal(url: str, job: Jobs, accuracies: Curves, tmp_path: Path) -> None:
    """Two runs of one name share a database; one is cut short, so that the study is ahead of its record."""
    whole = job(directory=tmp_path / "whole", **SETTINGS)
    search_recorded(whole, recorded(accuracies))
    first, second = (job(directory=tmp_path / name, storage_url=url, **SETTINGS) for name in ("a", "b"))
    for made in (first, second):
        search_recorded(made, recorded(accuracies))
        assert content(made) == content(whole)
        assert not (made.folder / "optuna.journal").exists()
    assert kept(first).study_name != kept(second).study_name
    lines = content(first).splitlines(keepends=True)
    (first.folder / "trials.jsonl").write_bytes(b"".join(lines[:6]))
    search_recorded(first, recorded(accuracies))
    assert content(first) == content(whole)
    assert [t.values for t in kept(first).trials] == [t.values for t in kept(second).trials]
    for made in (first, second):
        optuna.delete_study(study_name=kept(made).study_name, storage=url)


def test_a_study_that_is_in_step_is_kept(url: str, job: Jobs, accuracies: Curves) -> None:
    part = job(storage_url=url, **{**SETTINGS, "trials": 3})
    search_recorded(part, recorded(accuracies))
    before = [t._trial_id for t in kept(part).trials]
    more = job(storage_url=url, **SETTINGS)
    search_recorded(more, recorded(accuracies))
    assert [t._trial_id for t in kept(more).trials][: len(before)] == before
    optuna.delete_study(study_name=kept(more).study_name, storage=url)


def test_a_study_has_the_name_of_its_run_and_place(tmp_path: Path) -> None:
    def name(directory: Path, **given: Any) -> str:
        config = make_config({"name": "mine", "search": {"storage": "sqlite:///x.db"}, **given})
        place = storage_of(config, directory)
        assert isinstance(place, Database)
        return place.study

    here = name(tmp_path)
    assert here.startswith("mine-")
    assert here == name(tmp_path)
    assert here != name(tmp_path / "other")
    (tmp_path / "run.json").write_text('{"id": "1"}')
    assert here != name(tmp_path)
    under = name(tmp_path, results="s3://bucket/runs")
    assert under == name(tmp_path, results="s3://bucket/runs") != name(tmp_path)


@pytest.mark.parametrize(
    ("storage", "error", "message"),
    [
        (
            "postgresql+pg8000://user@host/db",
            ConfigError,
            r"needs a module .*pg8000.*pip install 'nas-engine\[postgres\]'",
        ),
        ("nonsense", ConfigError, "'nonsense' is no URL of a database"),
        ("oracles://host/db", ConfigError, "is no URL of a database"),
        (
            "postgresql+psycopg://user@127.0.0.1:9/db",
            RunError,
            "the database of search.storage fails .*the record is whole",
        ),
        ("sqlite:////no/such/folder/x.db", RunError, "the database of search.storage fails .*unable to open"),
    ],
)
def test_storages_that_cannot_be_used(
    job: Jobs, accuracies: Curves, storage: str, error: type[Exception], message: str
) -> None:
    if "psycopg" in storage:
        pytest.importorskip("psycopg")
    with pytest.raises(error, match=message) as raised:
        search_recorded(job(storage_url=storage, **SETTINGS), recorded(accuracies))
    assert "\n" not in str(raised.value)


def test_a_password_is_not_written_into_a_run() -> None:
    with pytest.raises(ConfigError, match="must not hold a password"):
        make_config({"search": {"storage": "postgresql://me:secret@host/db"}})


def test_a_database_that_goes_away(job: Jobs, accuracies: Curves, tmp_path: Path) -> None:
    """The error is one line and the record whole; the search goes on without the database."""
    from sqlalchemy.exc import OperationalError

    from nas_engine.tuning.study import explained

    error = OperationalError("SELECT 1", {}, Exception("server closed the connection\nunexpectedly"))
    assert "server closed the connection unexpectedly" in str(explained(error))
    url = f"sqlite:///{tmp_path / 'gone.db'}"
    part = job(storage_url=url, **{**SETTINGS, "trials": 2})
    search_recorded(part, recorded(accuracies))
    (tmp_path / "gone.db").unlink()
    rest = replace(job(**SETTINGS), directory=part.directory)
    search_recorded(rest, recorded(accuracies))
    whole = job(directory=tmp_path / "whole", **SETTINGS)
    search_recorded(whole, recorded(accuracies))
    assert content(rest) == content(whole)
