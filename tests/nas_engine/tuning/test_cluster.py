"""Ray: started once, silent, its folders swept, Ctrl-C deferred while it starts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from nas_engine.tuning import cluster


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
        cluster._sweep(tmp_path)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["else", alive.name]


def test_an_address_nobody_listens_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(cluster.ClusterError, match=f"no Ray cluster answers at 127.0.0.1:{port}"):
        cluster._probe(f"127.0.0.1:{port}")
    cluster._probe("local")
    cluster._probe("auto")


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
    assert first.is_relative_to(Path(cluster._session.folder if cluster._session else ""))


def test_importing_the_package_imports_neither_ray_nor_optuna_nor_torch() -> None:
    program = (
        "import sys, nas_engine.tuning, nas_engine.interrupt\n"
        "print(sorted({'ray', 'optuna', 'torch', 'duckdb', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
