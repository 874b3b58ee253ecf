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
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from search_spaces.errors import EngineError

from ..files import Scratch

_PREFIX = "nas-engine-ray-"
_OBJECT_STORE_BYTES = 128 * 2**20  # what travels is small: codes, scores, requests
_REACH_SECONDS = 5.0
_ANSWER_SECONDS = 120.0  # of all nodes; a first worker process of a node takes its time
_LONGEST_REASON = 240
_LONGEST_TEMPORARY_PATH = 24  # Unix sockets lie 80 characters deeper, and 107 are allowed
_SETTINGS = {
    "RAY_AUTH_MODE": "token",  # left unset, Ray prints a warning
    "RAY_AIR_NEW_OUTPUT": "0",  # else Tune prints its configuration although it is asked not to
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of a configuration mean in a trial what they mean here
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
    """What this process started or joined: CPUs that Ray counts (None for a joined cluster), where, a folder."""

    cpus: int | None
    address: str
    scratch: Scratch


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
        address: cluster to join: `host:port` of its head, or `auto` for the one of this machine; by default the
            environment variable RAY_ADDRESS, else the cluster joined before, else Ray is started on this machine, even
            beside a cluster that runs there.

    Raises:
        ClusterError: Ray does not start, the cluster cannot be reached, or a node of it lacks what workers need.
    """
    global _session
    ray = quiet_ray()
    asked = address or os.environ.get("RAY_ADDRESS")
    if _session is not None and ray.is_initialized():
        if asked in (None, _session.address) and (_session.cpus is None or _session.cpus >= cpus):
            return
        shutdown()
    if ray.is_initialized():
        return  # the user's own program started it
    place = asked or "local"
    _probe(place)
    cpus = max(cpus, os.cpu_count() or 1)
    _session = _open_session(None if place != "local" else cpus, place)
    try:
        # an interrupted start leaves Ray half alive, and it crashes at exit
        with sigint_deferred(), nullcontext() if place == "local" else _stderr_closed():
            ray.init(**_arguments(place, cpus, _session.scratch.folder))
        if place != "local":
            _check_nodes(ray)
    except ClusterError:
        shutdown()
        raise
    except _start_errors() as e:
        shutdown()
        raise ClusterError(_start_problem(place, e)) from e


def _start_errors() -> tuple[type[Exception], ...]:
    own = importlib.import_module("ray.exceptions").RayError
    return (own, RuntimeError, ValueError, OSError)  # also ConnectionError and TimeoutError


def _start_problem(address: str, error: BaseException) -> str:
    """One line on a start that failed: Ray's words, which may be many, and what to do."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if len(reason) > _LONGEST_REASON:
        reason = f"{reason[: _LONGEST_REASON - 3]}..."
    if address == "local":
        return f"Ray on this machine cannot be used ({type(error).__name__}: {reason}); free memory and disk"
    if address == "auto" and isinstance(error, ConnectionError):
        return "no Ray cluster runs on this machine; start one with `ray start --head`, or give --address HOST:PORT"
    advice = "check the address, and that RAY_AUTH_MODE and the token are the same on head, workers and here"
    if "ersion mismatch" in reason:
        advice = "use the same versions of Ray and Python on all machines"
    return f"the Ray cluster at {address} cannot be joined ({type(error).__name__}: {reason}); {advice}"


def _probe(address: str) -> None:
    """Ask whether anything listens at `host:port`; Ray itself would try for minutes."""
    if address.startswith("ray://"):
        raise ClusterError(
            f"{address} is an address of Ray Client, which Ray Tune's callbacks do not pass; run nas-engine on a node "
            "of the cluster with --address auto, or give HOST:PORT of its head (`ray start --head` prints it)"
        )
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in address:
        raise ClusterError(
            f"{address!r} is no address of a Ray cluster; give HOST:PORT, such as 10.0.0.1:6379, or auto"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, OverflowError) as e:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({getattr(e, 'strerror', None) or e}); start one there with "
            "`ray start --head`, or leave out --address and RAY_ADDRESS to work on this machine"
        ) from None


def _check_nodes(ray: Any) -> None:
    """Ask every node of a joined cluster whether it has what workers need.

    Raises:
        ClusterError: naming the first node that has not.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ours = version("nas-engine")

    def look() -> str:  # nested, so that it travels by value to nodes that lack the package
        try:
            from importlib.metadata import version

            import nas_engine  # noqa: F401

            return version("nas-engine")
        except ImportError as e:
            return f"! {e}"

    remote = ray.remote(look)
    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    asked = {
        remote.options(
            num_cpus=0, max_retries=1, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(): name
        for node, name in nodes.items()
    }
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_SECONDS)
    for reference, name in asked.items():
        try:
            found = ray.get(reference) if reference in ready else f"! no answer within {_ANSWER_SECONDS:g} s"
        except ray.exceptions.RayError as e:
            found = f"! {' '.join(str(e).split())[:_LONGEST_REASON]}"
        if found.startswith("!"):
            raise ClusterError(
                f"node {name} of the Ray cluster cannot work ({found[2:]}); install nas-engine {ours} in the Python "
                "environment that its `ray start` runs in"
            )
        if found != ours:
            raise ClusterError(
                f"node {name} of the Ray cluster has nas-engine {found}, this machine {ours}; install the same version"
            )


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
        session.scratch.close()


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
    return Path(tempfile.mkdtemp(dir=_session.scratch.folder, prefix="tune-"))


def resources(name: str) -> list[float]:
    """What each node of the running cluster has of a resource: `CPU` or `GPU`."""
    return [float(node["Resources"].get(name, 0.0)) for node in quiet_ray().nodes() if node["Alive"]]


def gpu_share(users: int) -> float:
    """GPUs for each of so many users at a time: at most one, and a part of one where there are more users."""
    share = sum(resources("GPU")) / users
    return 1.0 if share >= 1 else int(share * 1000) / 1000


def demand(threads: int, gpus: float | None = None) -> None:
    """Make sure that some node can do the work at all; Ray would wait for one for ever.

    Args:
        gpus: None for work that needs none.

    Raises:
        ClusterError: no node has so many CPUs, or none has a GPU, or none has so much of both.
    """
    most = max(resources("CPU"), default=0.0)
    if most < threads:
        raise ClusterError(f"no node of the Ray cluster has {threads} CPUs, at most {most:g}; set search.threads lower")
    if gpus is None:
        return
    if not sum(resources("GPU")):
        raise ClusterError("no node of the Ray cluster has a GPU; set device.name to cpu, or join a cluster with one")
    nodes = zip(resources("CPU"), resources("GPU"), strict=True)
    if not any(cpu >= threads and gpu >= gpus for cpu, gpu in nodes):
        raise ClusterError(
            f"no node of the Ray cluster has {threads} CPUs and {gpus:g} GPUs at once; set search.threads, search.gpus "
            "or sample.gpus lower"
        )


def _open_session(cpus: int | None, address: str) -> _Session:
    base = tempfile.gettempdir()
    if len(base) > _LONGEST_TEMPORARY_PATH and os.access("/tmp", os.W_OK):
        base = "/tmp"
    session = _Session(cpus, address, Scratch(_PREFIX, base))
    atexit.register(_leave)
    return session


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Nothing written to file descriptor 2 within the block arrives.

    Ray's core warns there, once a second and whatever its log level, of a token that is refused.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


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
