"""Ray, started or joined once a process and kept silent.

Ray holds nothing of worth here, so its session lives in a temporary folder of ours that goes with the process; folders
that killed processes left behind are known by their free lock and swept at the next start.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from search_spaces.errors import EngineError

_PREFIX = "nas-engine-ray-"
_OBJECT_STORE_BYTES = 128 * 2**20  # what travels is small: codes, scores, requests
_REACH_SECONDS = 5.0
_LONGEST_TEMPORARY_PATH = 24  # Unix sockets lie 80 characters deeper, and 107 are allowed
_SETTINGS = {
    "RAY_AUTH_MODE": "token",  # left unset, Ray prints a warning
    "RAY_AIR_NEW_OUTPUT": "0",  # else Tune prints its configuration although it is asked not to
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray announces a future change
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the record holds every result
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `nas_engine.interrupt` handles Ctrl-C
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


class ClusterError(EngineError):
    """A Ray cluster that cannot be started or joined."""


@dataclass
class _Session:
    """What this process started: CPUs that Ray counts (None for a joined cluster) and the folder it works in."""

    cpus: int | None
    folder: Path
    lock: FileLock


_session: _Session | None = None


def quiet_ray() -> Any:
    """The `ray` module, imported under settings that keep it and Tune silent; what the user set is left alone."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module=r"ray(\.|$)")
    ray = importlib.import_module("ray")
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    # the line of the raylet about a dead worker obeys no public setting; Ray's own debugger uses this switch
    with suppress(ImportError):
        vars(importlib.import_module("ray._private.worker"))["_worker_logs_enabled"] = False
    return ray


def start(cpus: int = 1, address: str | None = None) -> None:
    """Start Ray in this process, or join a cluster; nothing is done where it runs already.

    Args:
        cpus: how many CPUs Ray must be able to hand out on a cluster of its own. A cluster started earlier with
            fewer is started again.
        address: cluster to join; by default the environment variable RAY_ADDRESS, else Ray is started on this
            machine, even beside a cluster that runs there.

    Raises:
        ClusterError: Ray does not start, or the cluster cannot be reached.
    """
    global _session
    ray = quiet_ray()
    if _session is not None and ray.is_initialized():
        if _session.cpus is None or _session.cpus >= cpus:
            return
        shutdown()
    if ray.is_initialized():
        return  # the user's own program started it
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _probe(address)
    cpus = max(cpus, os.cpu_count() or 1)
    _session = _open_session(None if address != "local" else cpus)
    try:
        with sigint_deferred():  # an interrupted start leaves Ray half alive, and it crashes at exit
            ray.init(**_arguments(address, cpus, _session.folder))
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as e:
        shutdown()
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        where = "on this machine" if address == "local" else f"at {address}"
        advice = "free memory and disk" if address == "local" else "check RAY_ADDRESS and RAY_AUTH_MODE, or unset them"
        raise ClusterError(f"Ray {where} cannot be used ({type(e).__name__}: {reason}); {advice}") from e


def _probe(address: str) -> None:
    """Ask whether anything listens at `host:port`; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "//" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()
    except OSError as e:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({e.strerror or e}); start one there with `ray start --head`, "
            "or unset RAY_ADDRESS to work on this machine"
        ) from None


def _arguments(address: str, cpus: int, folder: Path) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "address": address,
        "log_to_driver": False,
        "logging_level": logging.CRITICAL,
        "configure_logging": True,
    }
    if address == "local":
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # for this process and what it starts
        arguments |= {
            "num_cpus": cpus,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_temp_dir": str(folder),
        }
    return arguments


def shutdown() -> None:
    """End what `start` began; a cluster that the user started is left alone."""
    global _session
    if _session is None:
        return
    session, _session = _session, None
    with sigint_deferred():
        quiet_ray().shutdown()
        session.lock.release()
        shutil.rmtree(session.folder, ignore_errors=True)


def _leave() -> None:
    """The end of the process: a late Ctrl-C has nothing left to stop."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    shutdown()


def scratch() -> Path:
    """A folder that is removed with the cluster; for what Tune writes and nobody reads."""
    start()
    if _session is None:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder
    return Path(tempfile.mkdtemp(dir=_session.folder, prefix="tune-"))


def resources(name: str) -> list[float]:
    """What each node of the running cluster has of a resource: `CPU` or `GPU`."""
    return [float(node["Resources"].get(name, 0.0)) for node in quiet_ray().nodes() if node["Alive"]]


def gpu_share(users: int) -> float:
    """GPUs for each of so many users at a time: at most one, and a part of one where there are more users."""
    share = sum(resources("GPU")) / users
    return 1.0 if share >= 1 else int(share * 1000) / 1000


def demand(threads: int, *, gpu: bool = False) -> None:
    """Make sure that some node can do the work at all; Ray would wait for one for ever.

    Raises:
        ClusterError: no node has so many CPUs, or none has a GPU.
    """
    most = max(resources("CPU"), default=0.0)
    if most < threads:
        raise ClusterError(f"no node of the Ray cluster has {threads} CPUs, at most {most:g}; set search.threads lower")
    if gpu and not sum(resources("GPU")):
        raise ClusterError("no node of the Ray cluster has a GPU; set device.name to cpu, or join a cluster with one")


def _open_session(cpus: int | None) -> _Session:
    base = tempfile.gettempdir()
    if len(base) > _LONGEST_TEMPORARY_PATH and os.access("/tmp", os.W_OK):
        base = "/tmp"
    _sweep(Path(base))
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    lock = FileLock(folder / ".lock")
    lock.acquire(timeout=0)
    atexit.register(_leave)
    return _Session(cpus, folder, lock)


def _sweep(base: Path) -> None:
    """Remove folders of processes that are gone: their lock went with them, whatever namespace they lived in."""
    for folder in base.glob(f"{_PREFIX}*"):
        if not (folder / ".lock").exists() or not os.access(folder, os.W_OK):
            continue
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            continue
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def sigint_deferred() -> Iterator[None]:
    """Ctrl-C within the block is delivered at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = signal.signal(signal.SIGINT, lambda signum, _: arrived.append(signum))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
        for signum in arrived:
            signal.raise_signal(signum)
