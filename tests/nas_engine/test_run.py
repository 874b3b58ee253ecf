"""Run directories: what is done and what is not, locks, changed settings, and runs as their users read them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nas_engine.config import Config, load_config, make_config
from nas_engine.run import STAGES, Run, RunDirectory, config_at
from search_spaces.errors import EngineError, RunError
from tests.nas_engine.synthetic import begin_stage, build_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests copy it before they change it."""
    return build_run(tmp_path_factory.mktemp("results"), name="whole").path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Run:
    shutil.copytree(finished, tmp_path / "results" / "whole")
    return Run.open(tmp_path / "results" / "whole")


@contextmanager
def another_process_holding(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A living process that has the run at `path`."""
    program = (
        "import sys; from pathlib import Path; from nas_engine.run import RunDirectory\n"
        f"with RunDirectory(Path({str(path)!r})).locked(): print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# ---- stages ------------------------------------------------------------------------------------------------


def test_a_stage_is_done_from_its_end_until_it_begins_again(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "r")
    for name in ("device", "supernet", "sample"):
        assert directory.done(name) is None
        directory.begin(name, {"x": 1})
        assert directory.done(name) is None
        directory.end(name, {"text": name}, 2.0)
        assert directory.done(name) == {"text": name, "seconds": 2.0}
    directory.begin("supernet", {"x": 1})
    assert directory.done("device") is not None
    assert directory.done("supernet") is None
    assert directory.done("sample") is None


def test_time_of_interrupted_attempts_counts(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "r")
    directory.begin("supernet", {})
    directory.interrupted("supernet", 3.0)
    directory.begin("supernet", {})
    directory.interrupted("supernet", 4.0)
    directory.begin("supernet", {})
    directory.end("supernet", {}, 5.0)
    assert directory.done("supernet") == {"seconds": 12.0}
    directory.begin("supernet", {})  # more of it is asked for
    directory.end("supernet", {}, 1.0)
    assert directory.done("supernet") == {"seconds": 13.0}


def test_a_stage_begun_from_nothing_drops_what_followed_the_old_one(tmp_path: Path) -> None:
    """Scores by old shared weights must not be taken for scores by new ones."""
    directory = RunDirectory(tmp_path / "r")
    for name in ("device", "supernet", "sample", "search"):
        directory.begin(name, {})
        (directory.stage(name) / "rows.jsonl").write_text("{}\n")
        directory.end(name, {}, 1.0)
    directory.begin("search", {})  # goes on: its own record stays
    assert (directory.stage("search") / "rows.jsonl").exists()
    shutil.rmtree(directory.stage("supernet"))  # the way out that a changed setting is answered with
    directory.begin("supernet", {"epochs": 3})
    assert (directory.stage("device") / "rows.jsonl").exists()
    assert not directory.stage("sample").exists()
    assert not directory.stage("search").exists()


def test_a_setting_that_is_younger_than_the_run_counts_as_usual(tmp_path: Path) -> None:
    directory, settings = RunDirectory(tmp_path / "r"), Config().supernet.model_dump(mode="json")
    older = {k: v for k, v in settings.items() if k != "random_members"}
    directory.begin("supernet", {"supernet": older})
    (directory.stage("supernet") / "history.jsonl").write_text("{}\n")
    directory.check({"supernet": {"supernet": settings}})
    with pytest.raises(RunError, match="random_members 2, now 5"):
        directory.check({"supernet": {"supernet": {**settings, "random_members": 5}}})


def test_changed_settings_are_named_with_both_values(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "r")
    directory.begin("supernet", {"supernet": {"epochs": 40, "optimizer": {"momentum": 0.9}}, "seed": [1, 2]})
    directory.check({"supernet": {"supernet": "anything, as the stage has made nothing yet"}})
    (directory.stage("supernet") / "checkpoint.pt").write_bytes(b"")
    directory.check({"supernet": {"supernet": {"epochs": 40, "optimizer": {"momentum": 0.9}}, "seed": (1, 2)}})
    directory.check({"search": {"not begun": "so anything goes"}})
    with pytest.raises(
        RunError, match=r"begun with supernet\.epochs 40, now 3; supernet\.optimizer\.momentum 0\.9, now 0"
    ):
        directory.check({"supernet": {"supernet": {"epochs": 3, "optimizer": {"momentum": 0}}, "seed": [1, 2]}})
    with pytest.raises(RunError, match=r"seed \[1, 2\], now \[1\].*--set name=NEW.*remove .*supernet"):
        directory.check({"supernet": {"supernet": {"epochs": 40, "optimizer": {"momentum": 0.9}}, "seed": [1]}})


def test_a_new_directory_notes_configuration_and_versions(tmp_path: Path) -> None:
    config = make_config({"name": "r", "results": str(tmp_path)})
    directory = RunDirectory(config.directory)
    directory.create(config)
    assert load_config(tmp_path / "r" / "config.yaml") == config
    made = (tmp_path / "r" / "run.json").read_text()
    assert '"torch"' in made
    directory.create(config)
    assert (tmp_path / "r" / "run.json").read_text() == made


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    directory = RunDirectory(tmp_path / "file" / "r")
    with pytest.raises(RunError, match="choose another with --set results=DIRECTORY"):
        directory.create(Config())
    with pytest.raises(RunError, match="choose another with --set results=DIRECTORY"), directory.locked():
        pass


# ---- locks -------------------------------------------------------------------------------------------------


def test_a_run_belongs_to_one_living_process(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "r")
    assert not directory.in_use
    with another_process_holding(directory.path) as process:
        assert directory.in_use
        with pytest.raises(RunError, match=r"in use by another process.*--set name=NEW"), directory.locked():
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not directory.in_use
        with directory.locked():
            assert directory.in_use
    assert not directory.in_use


def test_the_lock_is_released_on_an_error_and_does_not_nest(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "r")
    with pytest.raises(ZeroDivisionError), directory.locked():  # noqa: PT012
        with pytest.raises(RunError, match="in use"), RunDirectory(directory.path).locked():
            pass
        raise ZeroDivisionError
    with directory.locked():
        pass


# ---- opening -----------------------------------------------------------------------------------------------


def test_a_run_opens_by_path_name_and_from_within(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path.parent.parent)
    for path in ("results/whole", "whole", "results/whole/", "results/whole/config.yaml"):
        assert Run.open(path).path == Path("results/whole")
    monkeypatch.chdir("results/whole")
    assert Run.open(".").path == run.path
    assert Run.open("../whole").chosen == run.chosen


def test_an_unknown_run_is_answered_with_the_nearest(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path.parent.parent)
    with pytest.raises(RunError, match=r"'hole' is not a run: did you mean 'whole'\?"):
        Run.open("hole")
    monkeypatch.chdir("/")
    with pytest.raises(RunError, match="there is no run under results/ yet"):
        Run.open("whole")


def test_a_run_goes_on_where_it_lies(run: Run, tmp_path: Path) -> None:
    moved = tmp_path / "else where" / "renamed"
    moved.parent.mkdir()
    run.path.rename(moved)
    opened = Run.open(moved)
    assert opened.config.directory == moved
    assert opened.command == f"nas-engine search '{moved}/config.yaml'"
    for path in (moved, moved / "config.yaml"):
        assert config_at(path).directory == moved
        assert config_at(path, ["name=new"]).directory == moved.parent / "new"
        assert config_at(path, ["search.trials=99"]).search.trials == 99
    # a user's own file of that name, in no run's directory, is taken as it is
    shutil.copy(moved / "config.yaml", tmp_path / "config.yaml")
    assert config_at(tmp_path / "config.yaml") == load_config(tmp_path / "config.yaml")


def test_a_damaged_run_says_which_file(run: Run) -> None:
    (run.path / "choose" / "chosen.json").write_text("{")
    with pytest.raises(RunError, match=r"chosen\.json is damaged"):
        _ = run.chosen
    (run.path / "config.yaml").write_text("a: [")
    with pytest.raises(EngineError, match="is not YAML"):
        Run.open(run.path)


# ---- reading -----------------------------------------------------------------------------------------------


def test_status_of_every_kind_of_stage(tmp_path: Path) -> None:
    made = build_run(tmp_path, name="half", until="sample")
    begin_stage(made, "predict")
    states = {row["stage"]: row["state"] for row in made.status}
    assert list(states) == list(STAGES)
    assert {states[name] for name in ("device", "supernet", "sample")} == {"done"}
    assert states["predict"] == "begun"
    assert states["table"] == "waiting"


def test_space_and_architectures(run: Run) -> None:
    assert run.space.input_shape == (1, 8, 8)
    for row in run.chosen["networks"]:
        assert run.architecture(row["code"]).id == row["id"]


def test_pareto_rows_are_beaten_by_none(run: Run) -> None:
    front = run.pareto
    assert 0 < len(front) < len(run.chosen["networks"])
    for _, a in front.iterrows():
        beaten = (front.accuracy > a.accuracy) & (front.latency_ms < a.latency_ms)
        assert not beaten.any()


def test_best_is_the_most_accurate_among_those_that_meet_the_condition(run: Run) -> None:
    networks: list[dict[str, Any]] = run.chosen["networks"]
    assert run.best()["accuracy"] == max(r["accuracy"] for r in networks)
    limit = sorted(r["latency_ms"] for r in networks)[3]
    found = run.best(f"latency_ms <= {limit} and params > 0")
    assert found["accuracy"] == max(r["accuracy"] for r in networks if r["latency_ms"] <= limit)
    with pytest.raises(RunError, match=r"none of the \d+ trained networks .* 'latency_ms < 0'; loosen it"):
        run.best("latency_ms < 0")


@pytest.mark.parametrize("where", ["latency < 2", "latency_ms <", "code < 3", "__import__('os')"])
def test_a_condition_that_cannot_be_read_is_one_line(run: Run, where: str) -> None:
    with pytest.raises(EngineError) as caught:
        run.best(where)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("until", ["device", "predict", "search"])
def test_what_is_not_there_yet_is_told_with_the_command(tmp_path: Path, until: str) -> None:
    early = build_run(tmp_path, until=until)
    with pytest.raises(RunError, match="has not chosen networks yet; continue it with: nas-engine search"):
        early.best()
    if until != "search":
        with pytest.raises(RunError, match="has no table yet; make it with: nas-engine table build"):
            early.query()
