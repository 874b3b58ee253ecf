"""Files torn, a disk without space, nodes lost: the same command goes on, and the record is the undisturbed one.

What else can be killed is in `test_trials.py`, `test_pool.py` and `tests/nas_engine/test_pipeline.py`; all faults
together, on a cluster of real nodes, are `python -m benchmarks.faults`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import fill, small_disk, suffer, tear, without_space
from nas_engine.config import make_config
from nas_engine.context import Context
from nas_engine.interrupt import Interrupt
from nas_engine.remote import node_files
from nas_engine.stages import supernet
from nas_engine.train.candidate import candidate_of
from nas_engine.tuning import SearchJob, search, search_recorded
from nas_engine.tuning.history import Trial
from nas_engine.tuning.worker import brought, epochs_of
from search_spaces import SearchSpace
from search_spaces.errors import RunError
from tests.small import SMALL

Jobs = Callable[..., SearchJob]
SETTINGS: dict[str, Any] = {
    "trials": 3,
    "epochs": 4,
    "grace_epochs": 2,
    "reduction": 2,
    "inherit": False,
    "constraints": ["params <= 2000"],
    "data": {"limit": 300},
}
PROGRAM = Path(__file__).with_name("program.py")

pytestmark = pytest.mark.timeout(180)


def content(job: SearchJob) -> bytes:
    path = job.folder / "trials.jsonl"
    return path.read_bytes() if path.exists() else b""


def real(job: SearchJob, stop: Interrupt | None = None, after: int = 0) -> Callable[[Trial], Iterator[dict[str, Any]]]:
    """Trains in this process as a worker does; asks for the end after some epochs."""
    count = 0

    def train(trial: Trial) -> Iterator[dict[str, Any]]:
        nonlocal count
        request = candidate_of(job.config, job.space, trial.code, trial.number, job.directory)
        for result in epochs_of(brought(request, node_files(job.directory, None))):
            count += 1
            if stop is not None and count == after:
                stop.set()
            yield result.model_dump()

    return train


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, space: SearchSpace) -> bytes:
    """The record of a search that nothing happened to."""
    from predictors.cost import make_cost_model

    from .conftest import make_small_config

    settings = {**SETTINGS}
    sections = {key: settings.pop(key) for key in ("constraints", "data")}
    costs = {name: make_cost_model(name) for name in ("params", "macs")}
    job = SearchJob(make_small_config(settings, **sections), space, tmp_path_factory.mktemp("whole"), costs)
    assert search_recorded(job, real(job)).state == "finished"
    return content(job)


@pytest.mark.parametrize("name", ["trials.jsonl", "seconds.jsonl", "optuna.journal", "trials/0001.pt"])
def test_a_torn_file(job: Jobs, undisturbed: bytes, name: str) -> None:
    stop = Interrupt()
    part = job(**SETTINGS, stop=stop)
    assert search_recorded(part, real(part, stop, after=6)).state == "interrupted"
    assert content(part) != undisturbed
    tear(part.folder / name)
    made = job(**SETTINGS)
    assert search_recorded(made, real(made)).state == "finished"
    assert content(made) == undisturbed


def test_torn_shared_weights_are_trained_again(tmp_path: Path) -> None:
    def train(name: str, stop_after: int = 99) -> tuple[list[str], bytes]:
        stop, told = Interrupt(), []

        def progress(event: str, details: dict[str, Any]) -> None:
            told.append(event)
            if details.get("done") == stop_after:
                stop.set()

        config = make_config({**SMALL, "supernet": {"epochs": 3}, "results": str(tmp_path), "name": name})
        supernet(Context(config, progress, stop))
        weights = tmp_path / name / "supernet" / "weights.safetensors"
        return told, weights.read_bytes() if weights.exists() else b""

    _, whole = train("whole")
    assert train("torn", stop_after=2)[1] == b""
    tear(tmp_path / "torn" / "supernet" / "checkpoint.pt")
    told, weights = train("torn")
    assert "warning" in told
    assert weights == whole


@pytest.mark.usefixtures("ray_cluster")
def test_a_full_disk_is_no_fault_of_a_candidate(job: Jobs, undisturbed: bytes, tmp_path: Path) -> None:
    """Checkpoints, which workers write, do not fit any more where short lines of the record still do."""
    with small_disk(tmp_path / "disk", megabytes=2) as folder:
        if not folder.is_mount():
            pytest.skip("a file system of its own cannot be mounted here")
        ballast = folder / "ballast"

        def progress(event: str, details: dict[str, Any]) -> None:
            if event == "step" and "trial 1, epoch 1" in details["text"]:
                fill(ballast)

        with pytest.raises(RunError, match=r"^cannot write .*No space left"):
            search(job(**SETTINGS, directory=folder / "run", progress=progress))
        ballast.unlink()
        made = job(**SETTINGS, directory=folder / "run")
        assert b"failed" not in content(made)
        assert search(made).state == "finished"
        assert content(made) == undisturbed


def test_a_full_disk(job: Jobs, undisturbed: bytes) -> None:
    """The search ends with one line that says so; with space again it goes on."""
    made = job(**SETTINGS)
    command = [sys.executable, str(PROGRAM), str(made.directory), json.dumps(made.config.model_dump(mode="json"))]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while b'"event":"epoch","trial":1' not in content(made):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    without_space(process.pid)
    _, said = process.communicate()
    assert process.returncode != 0
    assert "Error: cannot write" in said.strip().splitlines()[-1]
    assert content(made) != undisturbed
    assert search_recorded(made, real(made)).state == "finished"
    assert content(made) == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_workers_and_nodes_are_lost(tmp_path: Path) -> None:
    figures = suffer(tmp_path / "runs", ["losses"])
    assert figures["survived"] == figures["faults"] == 4, figures["each"]
    assert figures["trials_lost"] == 0
