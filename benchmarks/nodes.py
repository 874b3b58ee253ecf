"""A Ray cluster on this machine whose nodes are real processes, to be lost one by one: `ray start --block` each.

The head has no CPUs, so that all work is done on nodes that can be lost.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

_START_SECONDS = 120.0
_END_SECONDS = 20.0


class Nodes:
    """The cluster as a context manager; `environment` is what its drivers need.

    Args:
        count: of nodes beside the head.
        cpus: of each.
    """

    def __init__(self, count: int = 2, cpus: int = 1) -> None:
        self._count = count
        self._cpus = cpus
        self._processes: list[subprocess.Popen[bytes]] = []
        self._logs: dict[int, Path] = {}
        self._token = secrets.token_hex(32)
        self._folder = tempfile.TemporaryDirectory(prefix="nodes-", ignore_cleanup_errors=True)
        with socket.socket() as free:
            free.bind(("", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables of all processes of the cluster, drivers among them."""
        ours = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token, "OMP_NUM_THREADS": "1"}
        return {**os.environ, **ours, "RAY_ADDRESS": self.address}

    def __enter__(self) -> Nodes:
        port = self.address.rpartition(":")[2]
        head = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"]
        try:
            self._await(self._start(*head, f"--temp-dir={self._folder.name}"))
            for _ in range(self._count):  # one after the other: two at a time time out in Ray now and then
                self._await(self.add())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End all nodes, the head last."""
        for process in reversed(self._processes):
            everything = _descent(process.pid)
            process.terminate()
            psutil.wait_procs(everything, _END_SECONDS)
            for left in everything:
                _kill(left)
            process.wait()
        self._processes.clear()
        self._folder.cleanup()

    def add(self) -> subprocess.Popen[bytes]:
        """Begin to start a node; it joins seconds later."""
        return self._start(f"--address={self.address}", f"--num-cpus={self._cpus}")

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {key: value for key, value in self.environment.items() if key != "RAY_ADDRESS"}
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments, "--block"]
        log = Path(self._folder.name) / f"start-{len(self._logs)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, "--disable-usage-stats", f"--object-store-memory={128 * 2**20}"],
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._logs[process.pid] = log
        self._processes.append(process)
        return process

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        log = self._logs[process.pid]
        until = time.monotonic() + _START_SECONDS
        while "Ray runtime started" not in log.read_text():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"a Ray node did not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)

    def workers(self, title: str) -> list[psutil.Process]:
        """Processes of actors whose class is called so, on any node."""
        found = [p for node in self._processes[1:] for p in _descent(node.pid) if _name(p).startswith(f"ray::{title}")]
        return sorted(found, key=lambda p: p.pid)

    def node_of(self, worker: psutil.Process) -> subprocess.Popen[bytes]:
        """The node that a worker runs on."""
        parents = {p.pid for p in worker.parents()}
        return next(node for node in self._processes if node.pid in parents)

    def lose(self, node: subprocess.Popen[bytes]) -> None:
        """Kill all processes of a node at once (SIGKILL), as when its machine is switched off."""
        for process in _descent(node.pid):
            _kill(process)
        node.wait()
        self._processes.remove(node)


def _descent(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def _name(process: psutil.Process) -> str:
    """The title of a process, as Ray sets it."""
    try:
        return " ".join(process.cmdline()) or process.name()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""
