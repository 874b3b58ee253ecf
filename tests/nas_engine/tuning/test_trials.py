"""Searches that train for real, under Ray Tune: undisturbed, with a lost worker, killed, interrupted, failing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from nas_engine.config import make_config
from nas_engine.tuning import SearchJob, read_trials, search, search_recorded
from nas_engine.tuning.history import Trial
from search_spaces import SearchSpace
from search_spaces.errors import RunError

Jobs = Callable[..., SearchJob]
SETTINGS: dict[str, Any] = {
    "trials": 3,
    "epochs": 8,
    "grace_epochs": 2,
    "reduction": 2,
    "inherit": False,
    "constraints": ["params <= 2000"],
    "data": {"limit": 300},
}
PROGRAM = Path(__file__).with_name("program.py")

pytestmark = pytest.mark.timeout(180)


def content(directory: Path) -> bytes:
    path = directory / "search" / "trials.jsonl"
    return path.read_bytes() if path.exists() else b""


def real(job: SearchJob) -> Callable[[Trial], Iterator[dict[str, Any]]]:
    """Trains for real, in this process."""
    from nas_engine.train.candidate import candidate_of
    from nas_engine.tuning.worker import epochs_of

    def train(trial: Trial) -> Iterator[dict[str, Any]]:
        request = candidate_of(job.config, job.space, trial.code, trial.number, job.directory)
        return (result.model_dump() for result in epochs_of(request))

    return train


def test_a_checkpoint_that_is_ahead_of_the_record_brings_all_its_epochs(job: Jobs) -> None:
    """A search that was killed may have heard of the first epoch only while the third was on the disk."""
    made = job(**SETTINGS)
    trial = Trial(0, 0, next(made.space.enumerate()).code, {})
    epochs = real(made)(trial)
    ahead = [next(epochs) for _ in range(3)]
    again = list(real(made)(trial))
    assert again[:3] == ahead
    assert [result["epoch"] for result in again] == list(range(1, SETTINGS["epochs"] + 1))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, space: SearchSpace) -> bytes:
    """The record of the search in this process, without Ray."""
    from predictors.cost import make_cost_model

    from .conftest import make_small_config

    settings = {**SETTINGS}
    sections = {key: settings.pop(key) for key in ("constraints", "data")}
    costs = {name: make_cost_model(name) for name in ("params", "macs")}
    job = SearchJob(make_small_config(settings, **sections), space, tmp_path_factory.mktemp("whole"), costs)
    assert search_recorded(job, real(job)).state == "finished"
    return content(job.directory)


@pytest.mark.usefixtures("ray_cluster")
def test_as_without_ray(job: Jobs, undisturbed: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    made = job(**SETTINGS, progress=lambda event, details: told.append(event))
    outcome = search(made)
    assert outcome.state == "finished"
    assert content(made.directory) == undisturbed
    assert told.count("step") == sum(1 + t.epochs for t in read_trials(made.directory))
    assert all((made.folder / "trials" / f"{n:04d}.pt").exists() for n in range(3))
    assert {p.name for p in made.folder.iterdir()} == {"trials.jsonl", "seconds.jsonl", "optuna.journal", "trials"}
    assert search(made) == outcome, "nothing is left to do"
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("ray_cluster")
def test_a_lost_worker_goes_on_from_its_checkpoint(
    job: Jobs, undisturbed: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    killed: list[int] = []

    def progress(event: str, details: dict[str, Any]) -> None:
        if event == "step" and "trial 1, epoch 1," in details["text"] and not killed:
            workers = [p for p in psutil.Process().children(recursive=True) if "ImplicitFunc" in p.name()]
            for worker in workers:
                killed.append(worker.pid)
                worker.kill()

    made = job(**SETTINGS, progress=progress)
    assert search(made).state == "finished"
    assert killed
    assert content(made.directory) == undisturbed
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("ray_cluster")
def test_failures_and_divergence(job: Jobs, tmp_path: Path) -> None:
    """A trial that fails is repeated, then recorded with its reason; one that diverges is not repeated."""
    settings = {**SETTINGS, "trials": 1, "epochs": 2, "max_failures": 1}
    failing = job(**{**settings, "inherit": True}, directory=tmp_path / "failing")
    assert search(failing).failed == 1
    (trial,) = read_trials(failing.directory)
    assert trial.error is not None
    assert trial.error.startswith("RunError: no supernet weights at")
    wild = {"learning_rate": 1e9, "clip_norm": None, "warmup_epochs": 0}
    diverging = job(**settings, optimizer=wild, directory=tmp_path / "diverging")
    assert search(diverging).diverged == 1
    (trial,) = read_trials(diverging.directory)
    assert trial.error is not None
    assert "loss became" in trial.error


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_concurrent_trials(job: Jobs) -> None:
    made = job(**{**SETTINGS, "concurrency": 2, "trials": 4})
    outcome = search(made)
    assert outcome.finished + outcome.stopped == 4
    assert len({t.code for t in read_trials(made.directory)}) == 4


@pytest.mark.usefixtures("ray_cluster")
def test_errors_under_tune_arrive_as_they_were(job: Jobs) -> None:
    def progress(event: str, details: dict[str, Any]) -> None:
        raise RunError("cannot write: no space left; free space and start again")

    made = job(**SETTINGS, progress=progress)
    with pytest.raises(RunError, match="^cannot write: no space left"):
        search(made)
    again = replace(made, progress=lambda event, details: None)
    assert search_recorded(again, real(again)).state == "finished"


@pytest.mark.usefixtures("ray_cluster")
def test_a_space_from_a_file(job: Jobs, tmp_path: Path, space: SearchSpace) -> None:
    """Workers import the user's file themselves."""
    path = tmp_path / "myspace.py"
    path.write_text(
        "from search_spaces import register_space\n"
        "from search_spaces.nasbench201 import NasBench201\n"
        "@register_space('own')\n"
        "class Own(NasBench201):\n"
        "    pass\n"
    )
    from search_spaces import make_space

    parameters = {"channels": 4, "cells": 1, "stages": 2}
    own = make_space(f"{path}:own", {**parameters, "input_shape": (1, 8, 8), "classes": 10})
    made = job(over=own, **{**SETTINGS, "trials": 1})
    named = made.config.model_copy(update={"space": made.config.space.model_copy(update={"name": f"{path}:own"})})
    assert search(replace(made, config=named)).finished == 1
    assert make_space(f"{path}:own", parameters).size == own.size, "without a warning of a name that is taken"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_under_a_uri_on_a_cluster(job: Jobs, undisturbed: bytes, tmp_path: Path) -> None:
    """The driver is killed and goes on with another cache, as on another machine; then the node of a trial is lost."""
    from benchmarks.nodes import Nodes

    made = job(**SETTINGS)
    config = made.config.model_copy(update={"results": f"file://{tmp_path}/bucket"})
    record = tmp_path / "bucket" / "run" / "search" / "trials.jsonl"

    def wait_for(process: subprocess.Popen[str], lines: int) -> None:
        while (record.read_bytes().count(b"\n") if record.exists() else 0) < lines:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)

    with Nodes(count=2) as nodes:

        def start(cache: str) -> subprocess.Popen[str]:
            command = [sys.executable, str(PROGRAM), "-", json.dumps(config.model_dump(mode="json"))]
            environment = {**nodes.environment, "XDG_CACHE_HOME": str(tmp_path / cache)}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            return subprocess.Popen(command, text=True, env=environment, **pipes)  # type: ignore[call-overload, no-any-return]

        first = start("a")
        wait_for(first, 3)
        first.kill()
        first.communicate()
        before = record.read_bytes()
        assert undisturbed.startswith(before)
        second = start("b")
        wait_for(second, before.count(b"\n") + 2)
        (worker, *_) = nodes.workers("ImplicitFunc")
        nodes.lose(nodes.node_of(worker))
        assert second.communicate() == ("finished\n", "")
    assert record.read_bytes() == undisturbed
    assert not (tmp_path / "a" / "nas-engine" / "runs").samefile(tmp_path / "b" / "nas-engine" / "runs")


@pytest.mark.parametrize(
    ("device", "search", "cluster_gpus", "expected"),
    [
        ("cuda", {"threads": 2, "gpus": 0.25}, [1.0], {"cpu": 2, "gpu": 0.25}),
        ("cuda", {"threads": 1, "gpus": 2}, [2.0], {"cpu": 1, "gpu": 2.0}),
        ("cuda", {"threads": 1, "concurrency": 3}, [1.0], {"cpu": 1, "gpu": 0.333}),
        ("cuda", {"threads": 1, "concurrency": 2}, [4.0, 4.0], {"cpu": 1, "gpu": 1.0}),
        ("cpu", {"threads": 3, "gpus": 0.5}, [1.0], {"cpu": 3, "gpu": 0.0}),
    ],
)
def test_what_a_trial_asks_for(
    device: str,
    search: dict[str, Any],
    cluster_gpus: list[float],
    expected: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from nas_engine.tuning import cluster
    from nas_engine.tuning.trials import resources_of

    monkeypatch.setattr(cluster, "resources", lambda name: cluster_gpus)
    assert resources_of(make_config({"device": {"name": device}, "search": search})) == expected


class TestPrograms:
    """Searches in processes of their own."""

    def start(self, job: SearchJob) -> subprocess.Popen[str]:
        command = [sys.executable, str(PROGRAM), str(job.directory), json.dumps(job.config.model_dump(mode="json"))]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload, no-any-return]

    def wait_for(self, process: subprocess.Popen[str], job: SearchJob, lines: int) -> None:
        while content(job.directory).count(b"\n") < lines:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)

    def test_killed_and_started_again(self, job: Jobs, undisturbed: bytes) -> None:
        made = job(**SETTINGS)
        process = self.start(made)
        self.wait_for(process, made, 14)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert content(made.directory) != undisturbed
        process = self.start(made)
        assert process.communicate() == ("finished\n", "")
        assert content(made.directory) == undisturbed

    @pytest.mark.slow
    def test_interrupted_and_started_again(self, job: Jobs, undisturbed: bytes) -> None:
        """Ctrl-C goes to the whole process group, as a terminal sends it."""
        made = job(**SETTINGS)
        process = self.start(made)
        self.wait_for(process, made, 6)
        os.killpg(process.pid, signal.SIGINT)
        printed, said = process.communicate()
        assert printed == "interrupted\n"
        assert said.strip().splitlines() == [
            "Stopping after the piece of work under way; press Ctrl-C again to leave at once."
        ]
        process = self.start(made)
        assert process.communicate() == ("finished\n", "")
        assert content(made.directory) == undisturbed
