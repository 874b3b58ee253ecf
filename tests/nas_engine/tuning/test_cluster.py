"""Ray: started once, silent, its folders swept, Ctrl-C deferred while it starts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from nas_engine.config import make_config
from nas_engine.files import Scratch
from nas_engine.tuning import MemberJob, cluster, pool
from search_spaces import SearchSpace
from search_spaces.errors import ConfigError


def test_ctrl_c_is_deferred_to_the_end_of_the_block() -> None:
    reached = []

    def start() -> None:
        with cluster.sigint_deferred():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            reached.append(True)

    # a shell that starts this in the background has SIGINT ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            start()
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached


def test_folders_of_processes_that_are_gone_are_swept(tmp_path: Path) -> None:
    gone, alive, other = (tmp_path / name for name in (f"{cluster._PREFIX}1", f"{cluster._PREFIX}2", "else"))
    for folder in (gone, alive, other):
        folder.mkdir()
        (folder / ".lock").touch()
    with FileLock(alive / ".lock"):
        Scratch.sweep(cluster._PREFIX, tmp_path)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["else", alive.name]


def test_an_address_nobody_listens_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(cluster.ClusterError, match=f"no Ray cluster answers at 127.0.0.1:{port}"):
        cluster._probe(f"127.0.0.1:{port}")
    cluster._probe("local")
    cluster._probe("auto")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://10.0.0.1:10001", "an address of Ray Client.*--address auto, or give HOST:PORT"),
        ("10.0.0.1", "'10.0.0.1' is no address of a Ray cluster; give HOST:PORT"),
        ("http://10.0.0.1:8265", "is no address of a Ray cluster"),
        ("host:six", "is no address of a Ray cluster"),
        ("127.0.0.1:99999", "no Ray cluster answers at 127.0.0.1:99999"),
    ],
)
def test_addresses_that_are_none(address: str, message: str) -> None:
    with pytest.raises(cluster.ClusterError, match=message):
        cluster._probe(address)


def test_what_went_wrong_is_told_in_one_line() -> None:
    mismatch = RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.50.0\n    Python: 3.12.1")
    text = cluster._start_problem("10.0.0.1:6379", mismatch)
    assert "Ray: 2.50.0 Python: 3.12.1" in text
    assert text.endswith("use the same versions of Ray and Python on all machines")
    denied = cluster._start_problem("10.0.0.1:6379", ConnectionError("Unauthenticated: InvalidAuthToken " + "x" * 900))
    assert denied.endswith(
        "check the address, and that RAY_AUTH_MODE and the token are the same on head, workers and here"
    )
    assert len(denied) < 500
    assert "start one with `ray start --head`" in cluster._start_problem("auto", ConnectionError("none"))


@pytest.mark.parametrize(("gpus", "share", "expected"), [(0.25, 1.0, 0.25), (None, 0.5, 0.5), (2, 0.5, 2.0)])
def test_what_a_worker_asks_for(
    gpus: float | None, share: float, expected: float, monkeypatch: pytest.MonkeyPatch, space: SearchSpace
) -> None:
    monkeypatch.setattr(cluster, "gpu_share", lambda users: share)
    config = make_config({"device": {"name": "cuda"}, "sample": {"gpus": gpus}})
    task = MemberJob.of(config, space, Path("run"))
    assert pool._gpus(task, 2) == expected
    assert pool._gpus(replace(task, device="cpu"), 2) == 0.0


@pytest.mark.parametrize(
    ("threads", "gpus", "message"),
    [
        (8, None, None),
        (9, None, "has 9 CPUs, at most 8"),
        (2, 1.0, None),
        (4, 1.0, "has 4 CPUs and 1 GPUs at once"),
        (1, 2.0, "has 1 CPUs and 2 GPUs at once"),
    ],
)
def test_what_no_node_has_is_told(
    threads: int, gpus: float | None, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "resources", {"CPU": [8.0, 2.0], "GPU": [0.0, 1.0]}.__getitem__)
    if message is None:
        cluster.demand(threads, gpus)
        return
    with pytest.raises(cluster.ClusterError, match=message):
        cluster.demand(threads, gpus)


def test_no_gpu_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "resources", {"CPU": [8.0], "GPU": [0.0]}.__getitem__)
    with pytest.raises(cluster.ClusterError, match="no node of the Ray cluster has a GPU; set device.name to cpu"):
        cluster.demand(1, 0.0)


def test_parts_of_several_gpus_cannot_be_had() -> None:
    for section in ("search", "sample"):
        with pytest.raises(ConfigError, match=rf"{section}.gpus: a part of a GPU or whole GPUs .* not 1.5"):
            make_config({section: {"gpus": 1.5}})


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("ray_cluster")
def test_started_once_and_with_what_is_needed() -> None:
    ray = cluster.quiet_ray()
    address = ray.get_runtime_context().gcs_address
    cluster.start(1)
    assert ray.get_runtime_context().gcs_address == address
    assert ray.cluster_resources()["CPU"] >= 2
    cluster.demand(2)
    with pytest.raises(cluster.ClusterError, match="has 4096 CPUs"):
        cluster.demand(4096)
    first, second = cluster.scratch(), cluster.scratch()
    assert first != second
    assert first.is_relative_to(Path(cluster._session.scratch.folder if cluster._session else ""))


def test_importing_the_package_imports_neither_ray_nor_optuna_nor_torch() -> None:
    program = (
        "import sys, nas_engine.tuning, nas_engine.interrupt\n"
        "print(sorted({'ray', 'optuna', 'torch', 'duckdb', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
