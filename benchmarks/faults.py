"""What a search survives: workers, nodes and drivers killed, files torn, disks full. Prints one JSON line last.

    python -m benchmarks.faults [--only driver|losses|torn|disk] [--keep DIRECTORY]

A small search of digits is run by the command line as a process of its own on a cluster of two nodes, each of real
processes too (`ray start`): once undisturbed, then with faults in the midst of its stages. Whenever the driver ended,
the same command is given again. What there is at the end must be what the undisturbed run left: the record of the
search (one trial at a time), the scores, the table and the choice, all less what is timed.

- driver: kill -9 of the driver in each stage.
- losses: kill -9 of a worker and of a whole node under it, in the sample and the search stage, the driver living on.
- torn: the driver killed and a file cut in its middle.
- disk: no space left where the run lies, until the driver gives up; then there is space again.

faults, survived; trials_lost: trials of the undisturbed run whose end is missing; extra_work_s: seconds of work since
the last file written before each fault, or in the file that was torn, which is what had to be done again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import publish
from benchmarks.nodes import Nodes
from nas_engine.failures import DEFECT

CONFIG: dict[str, Any] = {
    "threads": 1,
    "data": {"source": "digits", "limit": 400},
    "device": {"measure_seconds": 3},
    "space": {"name": "nasbench201", "channels": 4, "cells": 1, "stages": 2},
    "objectives": {"accuracy": "max", "params": "min"},
    "constraints": ["params <= 4000"],
    "supernet": {"epochs": 8},
    "sample": {"architectures": 128, "workers": 2},
    "predictor": {"name": "gcn", "members": 2, "epochs": 40},
    "table": {"workers": 2},
    "search": {"trials": 5, "epochs": 4, "grace_epochs": 2, "threads": 1},
    "export": {"networks": 1, "formats": ["model.py"]},
}
_WAIT_SECONDS = 300.0
_TIMED = {"latency_ms", "latency_spread_ms", "latency_ms_predicted", "pareto", "chosen", "reason", "test_accuracy"}

# ---- a run, and when something happens to it ---------------------------------------------------------------


class Driver:
    """A run under way: `nas-engine search` as a process.

    Args:
        config: the file; the run lies beside it, in the directory `run`.
        environment: of the process.
    """

    def __init__(self, config: Path, environment: dict[str, str]) -> None:
        self.path = config.parent / "run"
        self._said = config.with_name("said.txt")
        command = [str(Path(sys.executable).with_name("nas-engine")), "search", str(config)]
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
            )

    @property
    def last_words(self) -> str:
        """The last line on its standard error."""
        return (self._said.read_text(errors="replace").strip().splitlines() or [""])[-1]

    def until(self, moment: Callable[[Path], bool]) -> None:
        """Wait until something can be seen in the run's directory."""
        end = time.monotonic() + _WAIT_SECONDS
        while not moment(self.path):
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the driver did not get there; it said: {self.last_words}")
            time.sleep(0.005)

    def end(self) -> int:
        """Wait for it to end by itself; its exit code."""
        try:
            return self.process.wait(_WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise RuntimeError(f"the driver does not end; it said: {self.last_words}") from None


def seen(name: str) -> Callable[[Path], bool]:
    """A file or a folder with something in it that matches a pattern is there."""
    return lambda path: any(path.glob(name))


def rows(name: str, count: int, text: str = "") -> Callable[[Path], bool]:
    """So many whole lines with a text are in a file."""

    def moment(path: Path) -> bool:
        with suppress(FileNotFoundError):
            return sum(text in line for line in (path / name).read_text().split("\n")[:-1]) >= count
        return False

    return moment


def trained(trial: int, epochs: int = 1) -> Callable[[Path], bool]:
    """A trial has so many epochs in the record."""
    return rows("search/trials.jsonl", epochs, f'"event":"epoch","trial":{trial},')


@dataclass(frozen=True)
class Fault:
    """What happens, in which stage.

    Attributes:
        moment: when.
        strike: does it; returns seconds of work it undid beside what was under way.
        delay: seconds after the moment.
    """

    name: str
    stage: str
    moment: Callable[[Path], bool]
    strike: Callable[[Driver], float]
    delay: float = 0.0


def unsaved_seconds(path: Path) -> float:
    """How long ago the run wrote anything."""
    times = []
    for file in path.rglob("*"):
        with suppress(FileNotFoundError):
            if file.is_file():
                times.append(file.stat().st_mtime)
    return max(0.0, time.time() - max(times)) if times else 0.0


# ---- faults ------------------------------------------------------------------------------------------------


def kill_driver(driver: Driver) -> float:
    """Kill -9."""
    driver.process.kill()
    driver.process.wait()
    return 0.0


def tearing(name: str, seconds: Callable[[Path], float] = lambda path: 0.0) -> Callable[[Driver], float]:
    """Kill -9, and a file is torn."""

    def strike(driver: Driver) -> float:
        kill_driver(driver)
        undone = seconds(driver.path)
        tear(driver.path / name)
        return undone

    return strike


def tear(file: Path) -> None:
    """Cut the last line of a record, or any other file, in its middle."""
    content = file.read_bytes()
    begin = content.rstrip(b"\n").rfind(b"\n") + 1 if file.suffix == ".jsonl" else 0
    file.write_bytes(content[: begin + (len(content) - begin) // 2])


def lose_worker(nodes: Nodes, title: str) -> Callable[[Driver], float]:
    """Kill -9 of a worker process."""

    def strike(driver: Driver) -> float:
        nodes.workers(title)[0].kill()
        return 0.0

    return strike


def lose_node(nodes: Nodes, title: str) -> Callable[[Driver], float]:
    """Kill -9 of all processes of the node that a worker runs on; another node joins later."""

    def strike(driver: Driver) -> float:
        nodes.lose(nodes.node_of(nodes.workers(title)[0]))
        nodes.add()
        return 0.0

    return strike


def fill_disk(driver: Driver) -> float:
    """No space is left, until the driver has given up.

    Where the run does not lie on a small file system of its own, the driver's files cannot grow any more instead.
    """
    ballast = driver.path.parent / "ballast"
    if os.path.ismount(driver.path.parent):
        fill(ballast)
    else:
        without_space(driver.process.pid)
    code = driver.end()
    ballast.unlink(missing_ok=True)
    if code in (0, DEFECT):
        raise RuntimeError(f"exit code {code} on a full disk: {driver.last_words}")
    return 0.0


def without_space(pid: int) -> None:
    """No file of a process can grow any more: its writes fail (EFBIG), as they do (ENOSPC) on a full disk."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (16, resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]))


def fill(ballast: Path) -> None:
    """Write a file until no byte more fits on its file system."""
    size = 2**20
    with ballast.open("wb", buffering=0) as file:
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2


@contextmanager
def small_disk(folder: Path, megabytes: int = 48) -> Iterator[Path]:
    """A file system of its own at a folder where this process may mount one, else just the folder."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


# ---- what the faults are -----------------------------------------------------------------------------------


def driver_faults() -> list[Fault]:
    """One in each stage."""
    moments = {
        "device": (seen("device/inputs.json"), 0.3),
        "supernet": (seen("supernet/checkpoint.pt"), 0.1),
        "sample": (rows("sample/scores.jsonl", 4), 0.05),
        "predict": (seen("predict/trust.json"), 0.0),
        "table": (seen("table/parts/*"), 0.0),
        "search": (trained(1), 0.2),
        "choose": (seen("choose/inputs.json"), 0.2),
        "export": (seen("export/inputs.json"), 0.2),
    }
    return [Fault("driver killed", stage, moment, kill_driver, delay) for stage, (moment, delay) in moments.items()]


def torn_faults() -> list[Fault]:
    """Files that are continued after a kill."""

    def in_supernet(path: Path) -> float:
        return _seconds_in(path / "supernet" / "checkpoint.pt")

    def in_trial(path: Path) -> float:
        return _seconds_in(path / "search" / "trials" / "0003.pt")

    supernet, scores = "supernet/checkpoint.pt", "sample/scores.jsonl"
    return [
        Fault(f"{supernet} torn", "supernet", seen(supernet), tearing(supernet, in_supernet), 0.2),
        Fault(f"{scores} torn", "sample", rows(scores, 4), tearing(scores)),
        Fault("trials.jsonl torn", "search", trained(0, 2), tearing("search/trials.jsonl")),
        Fault("seconds.jsonl torn", "search", trained(1, 1), tearing("search/seconds.jsonl")),
        Fault("optuna.journal torn", "search", trained(2, 1), tearing("search/optuna.journal")),
        Fault("checkpoint of a trial torn", "search", trained(3, 2), tearing("search/trials/0003.pt", in_trial)),
    ]


def _seconds_in(checkpoint: Path) -> float:
    """Seconds of training that a checkpoint holds."""
    from nas_engine.train import finished_epochs

    return sum(epoch.seconds for epoch in finished_epochs(checkpoint))


def loss_faults(nodes: Nodes) -> list[Fault]:
    """The actors that score are of class `_Worker`, those that train of Tune's `ImplicitFunc`."""
    scores = "sample/scores.jsonl"
    return [
        Fault("worker killed", "sample", rows(scores, 8), lose_worker(nodes, "_Worker")),
        Fault("node killed", "sample", rows(scores, 32), lose_node(nodes, "_Worker")),
        Fault("worker killed", "search", trained(1), lose_worker(nodes, "ImplicitFunc"), 0.1),
        Fault("node killed", "search", trained(3), lose_node(nodes, "ImplicitFunc"), 0.1),
    ]


def disk_faults() -> list[Fault]:
    """In stages that write checkpoints and records."""
    return [
        Fault("disk full", "supernet", seen("supernet/checkpoint.pt"), fill_disk),
        Fault("disk full", "sample", rows("sample/scores.jsonl", 4), fill_disk),
        Fault("disk full", "search", trained(1), fill_disk),
        Fault("disk full", "export", seen("export/inputs.json"), fill_disk),
    ]


# ---- runs with and without them ----------------------------------------------------------------------------


@dataclass
class Suffered:
    """A fault and what came of it."""

    run: str
    name: str
    stage: str
    undone_s: float
    survived: bool = False
    why: str = ""


def run_through(config: Path, environment: dict[str, str], faults: Sequence[Fault] = ()) -> list[Suffered]:
    """Run the command, let the faults happen, give it again whenever it has ended, until it is done.

    Raises:
        RuntimeError: a fault came too late, or the command does not work any more.
    """
    suffered = []
    driver = Driver(config, environment)
    try:
        for fault in faults:
            driver.until(fault.moment)
            time.sleep(fault.delay)
            undone = unsaved_seconds(driver.path)
            undone += fault.strike(driver)
            if (driver.path / fault.stage / "done.json").exists():
                raise RuntimeError(f"{fault.name} came after stage {fault.stage} had ended")
            suffered.append(Suffered(config.parent.name, fault.name, fault.stage, round(undone, 3)))
            if driver.process.poll() is not None:
                driver = Driver(config, environment)
        if driver.end() != 0:
            raise RuntimeError(f"after {suffered[-1:]} the driver said: {driver.last_words}")
    finally:
        kill_driver(driver)
    return suffered


def make_config(folder: Path, **changes: Any) -> Path:
    """The configuration file of a run in `folder`."""
    path = folder / "asked.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**CONFIG, "name": "run", "results": str(folder), **changes}))
    return path


def outcome(path: Path) -> dict[str, Any]:
    """What faults must not change: all that a run found out, less what is timed."""
    import duckdb

    events = [json.loads(line) for line in (path / "search" / "trials.jsonl").read_text().splitlines()]
    for row in events:
        row.get("costs", {}).pop("latency_ms", None)
    chosen = json.loads((path / "choose" / "chosen.json").read_text())
    query = f"SELECT code, accuracy, params FROM '{path}/table/table.parquet' ORDER BY code"
    with duckdb.connect(":memory:") as connection:
        table = connection.execute(query).fetchall()
    return {
        "scores": sorted((path / "sample" / "scores.jsonl").read_text().splitlines()),
        "table": table,
        "events": events,
        "networks": [{k: v for k, v in n.items() if k not in _TIMED} for n in chosen["networks"]],
        "exported": sorted(p.name for p in (path / "export").iterdir() if p.is_dir()),
        "done": sorted(p.parent.name for p in path.glob("*/done.json")),
    }


def ended(path: Path) -> set[tuple[str, str]]:
    """Code and state of the trials that are over."""
    record = path / "search" / "trials.jsonl"
    events = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    codes = {row["trial"]: row["code"] for row in events if row["event"] == "ask"}
    return {(codes[row["trial"]], row["state"]) for row in events if row["event"] == "end"}


def judged(
    config: Path, environment: dict[str, str], faults: Sequence[Fault], whole: Path
) -> tuple[list[Suffered], int]:
    """The faults of a run and whether it ends like the undisturbed run `whole`; and how many trials were lost.

    No fault of a run counts as survived if its end is another one.
    """
    name, path = config.parent.name, config.parent / "run"
    try:
        suffered = run_through(config, environment, faults)
        there, wanted = outcome(path), outcome(whole)
        differing = [key for key in wanted if there[key] != wanted[key]]
        why = f"differs from the undisturbed run in: {', '.join(differing)}" if differing else ""
    except RuntimeError as e:
        suffered, why = [Suffered(name, fault.name, fault.stage, 0.0) for fault in faults], str(e)
    for one in suffered:
        one.survived, one.why = not why, why
    return suffered, len(ended(whole) - ended(path))


def suffer(folder: Path, kinds: Sequence[str]) -> dict[str, Any]:
    """All of it; the figures."""
    suffered: list[Suffered] = []
    lost = 0
    with Nodes() as nodes:
        environment = nodes.environment
        started = time.monotonic()
        run_through(make_config(folder / "whole"), {**environment, "NAS_ENGINE_CACHE": str(folder / "cache")})
        undisturbed = time.monotonic() - started
        faults = {
            "driver": driver_faults,
            "losses": lambda: loss_faults(nodes),
            "torn": torn_faults,
            "disk": disk_faults,
        }
        for kind in kinds:
            place = small_disk(folder / kind) if kind == "disk" else _folder(folder / kind)
            with place as here:
                own = {**environment, "NAS_ENGINE_CACHE": str(folder / f"cache-{kind}")}
                found, missing = judged(make_config(here), own, faults[kind](), folder / "whole" / "run")
            suffered += found
            lost += missing
            for one in found:
                print("survived" if one.survived else "NOT SURVIVED", one.name, "in", one.stage, one.why, flush=True)
    return {
        "faults": len(suffered),
        "survived": sum(one.survived for one in suffered),
        "trials_lost": lost,
        "extra_work_s": round(sum(one.undone_s for one in suffered), 2),
        "undisturbed_s": round(undisturbed, 1),
        "each": [asdict(one) for one in suffered],
    }


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    path.mkdir(parents=True)
    yield path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ("driver", "losses", "torn", "disk")
    parser.add_argument("--only", choices=kinds)
    parser.add_argument("--keep", type=Path, help="a new directory for the runs, which are removed by default")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # nodes and mounts go with us
    chosen = [asked.only] if asked.only else list(kinds)
    if asked.keep is not None:
        figures = suffer(asked.keep.absolute(), chosen)
    else:
        with tempfile.TemporaryDirectory() as folder:
            figures = suffer(Path(folder), chosen)
    if asked.only:  # the kept figures are of all kinds
        print(json.dumps(figures))
    else:
        publish("faults", figures)


if __name__ == "__main__":
    main()
