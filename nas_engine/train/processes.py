"""The processes that train the shared weights of a run together: started here, or by `torchrun` on several machines.

This process is rank 0; it alone touches the run. The others, its helpers, know the configuration, read the data for
themselves and are told by rank 0 when to end. They end with it in any case: their standard input is a pipe that
closes when it dies. What went wrong in a helper is written down in a folder of theirs, and told by rank 0.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.errors import ConfigError, EngineError, RunError

from ..config import Config, load_config
from ..context import Context
from ..failures import explain
from ..files import Scratch, write_json
from .parallel import Alone, ConnectionLostError, Team, join, joined, leave, take_device

if TYPE_CHECKING:
    from search_spaces import Supernet

    from .loop import Epoch

_PREFIX = "nas-engine-helpers-"
_PATIENCE = timedelta(minutes=30)  # for a machine that is gone without a word; a process that ends is noticed at once
_LAST_WORDS = 5.0  # seconds that helpers are given to say why they ended
_WAIT = 0.05


class HelperError(RunError):
    """A process that helped to train ended before its work was done."""


@contextmanager
def gathered(context: Context) -> Iterator[Alone | None]:
    """The processes that train the shared weights; None where the user asked for the end before all were there.

    `supernet.processes` of them on this machine, or those that `torchrun` started.

    Raises:
        EngineError: what kept a helper from its work, or from going on with it.
    """
    team = joined()
    count = context.config.supernet.processes if context.config.supernet.epochs else 1
    if team is not None:
        team.called = team.agree(True)
        yield team
    elif count == 1:
        yield Alone()
    else:
        with Helpers(context.config, count) as helpers:
            try:
                yield helpers.join(context.stop)
            except ConnectionLostError as e:
                raise helpers.reason() or e from e


class Helpers:
    """Processes of this machine that take part in one training; a context manager, at whose end they end.

    Args:
        config: of the run.
        count: processes in all, this one included.

    Raises:
        ConfigError: more processes than GPUs.
    """

    def __init__(self, config: Config, count: int) -> None:
        self._device, self._count = config.device.name, count
        take_device(self._device, 0, count)
        self._scratch = Scratch(_PREFIX)
        self.folder = self._scratch.folder
        (self.folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        self.processes = [self._start(rank) for rank in range(1, count)]

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "nas_engine.train", "--helper", str(rank), str(self._count), str(self.folder)]
        with (self.folder / f"{rank}.log").open("wb") as log:
            # a session of its own: Ctrl-C is for rank 0, which tells the others
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)

    def __enter__(self) -> Helpers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for process in self.processes:
            if process.stdin is not None:
                process.stdin.close()
            if joined() is None:  # it may be too early for it to notice
                process.kill()
        for process in self.processes:
            try:
                process.wait(timeout=_LAST_WORDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        leave()
        self._scratch.close()

    def join(self, stop: Callable[[], bool]) -> Team | None:
        """Join the training once all helpers are ready; None where the user asked for the end before.

        Raises:
            EngineError: what kept one from it.
        """
        while not all((self.folder / f"{rank}.ready").exists() for rank in range(1, self._count)):
            if stop():
                return None
            if any(process.poll() is not None for process in self.processes):
                raise self.reason() or HelperError("a process that helps to train ended; give the same command again")
            time.sleep(_WAIT)
        return _join(self.folder, 0, self._count, self._device)

    def reason(self) -> EngineError | None:
        """Why a helper ended, None while all are alive or went because rank 0 did."""
        until = time.monotonic() + _LAST_WORDS
        while all(process.poll() is None for process in self.processes) and time.monotonic() < until:
            time.sleep(_WAIT)
        told = [found for rank, process in enumerate(self.processes, 1) if (found := self._told(rank, process))]
        return told[0] if told else None

    def _told(self, rank: int, process: subprocess.Popen[bytes]) -> EngineError | None:
        failure = self.folder / f"{rank}.failure"
        place = f"process {rank} of the {self._count} that train the shared weights"
        if failure.exists():
            code, text = json.loads(failure.read_text(encoding="utf-8"))
            error = HelperError(f"{place}: {text.removeprefix('error: ')}")
            error.exit_code = code
            return error
        status = process.poll()
        if status is None or status == _LEFT:
            return None
        if status < 0:
            by = signal.Signals(-status)
            why = f"was killed by {by.name}{_MEMORY if by == signal.SIGKILL else ''}"
        else:
            lines = (self.folder / f"{rank}.log").read_text(errors="replace").splitlines()
            why = f"ended with code {status}: {lines[-1][:200] if lines else 'no message'}"
        return HelperError(f"{place} {why}; the same command goes on from the last epoch")


_LEFT = 3  # exit code of a helper that ended because others had
_MEMORY = " (by the system, if memory ran out)"


def _join(folder: Path, rank: int, size: int, device: str) -> Team:
    """Join helpers of this machine, by a file: nothing of it can be reached from others."""
    from torch import distributed

    store = distributed.FileStore(str(folder / "meeting"), size)
    before = {name: os.environ.get(name) for name in _INTERFACES}
    os.environ.update(_INTERFACES)
    try:
        return join(device, _PATIENCE, store=store, rank=rank, size=size)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_LOOPBACK = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
# gloo and NCCL are to talk within this machine, whatever its name resolves to
_INTERFACES = {f"{library}_SOCKET_IFNAME": _LOOPBACK for library in ("GLOO", "NCCL")} if _LOOPBACK else {}


# ---- what a helper does ----------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """Entry point of `python -m nas_engine.train`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="torchrun ... -m nas_engine.train",
        description="Train the shared weights of a run by all processes that torchrun started; "
        "then go on with: nas-engine search CONFIG",
    )
    parser.add_argument(
        "config", nargs="?", help="YAML file, or the directory of a run, under the same path everywhere"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of it")
    parser.add_argument("--helper", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.helper:
        rank, size, folder = asked.helper
        return _help(int(rank), int(size), Path(folder))
    if asked.config is None:
        parser.error("no configuration was given")
    try:
        _rendezvous(asked.config, asked.set)
    except Exception as e:
        code, text = explain(e)
        print(text, file=sys.stderr)
        return code
    return 0


def _help(rank: int, size: int, folder: Path) -> int:
    """The life of a helper that rank 0 started."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        context = Context(load_config(folder / "config.yaml"))
        take_device(context.config.device.name, rank, size)
        net = prepared(context, size)
        (folder / f"{rank}.ready").touch()
        team = _join(folder, rank, size, context.config.device.name)
        _work(context, net, team)
    except ConnectionLostError:
        return _LEFT
    except Exception as e:
        write_json(folder / f"{rank}.failure", explain(e))
        return 1
    finally:
        leave()
    return 0


def _end_with_input() -> None:
    """End this process when rank 0 is gone, at whatever it is."""
    sys.stdin.buffer.read()
    os._exit(_LEFT)


def prepared(context: Context, local: int) -> Supernet:
    """Fresh shared weights, with the data read, in one of `local` processes of this machine."""
    import torch

    from search_spaces import Supernet

    torch.set_num_threads(max(1, context.config.training_threads // local))
    _ = context.data
    torch.manual_seed(context.config.seed)
    return Supernet(context.space, kernel_transform=context.config.supernet.kernel_transform)


def _work(context: Context, net: Supernet, team: Alone) -> None:
    """Go through all epochs, as long as rank 0 does."""
    for _ in shared_training(context, net, team):
        if not team.agree(True):
            return


def shared_training(context: Context, net: Supernet, team: Alone, checkpoint: Path | None = None) -> Iterator[Epoch]:
    """The epochs of the shared weights, the same on all processes.

    Raises:
        ConfigError: the processes were not asked for the same.
    """
    from . import supernet_program, train
    from .candidate import augmentation

    config, settings = context.config, context.config.supernet
    asked = config.model_dump_json(include={"seed", "data", "space", "supernet"})
    team.same("configurations", asked)
    team.same("data", context.data.fingerprint)
    return train(
        supernet_program(net, config.seed, settings),
        context.data,
        settings.optimizer,
        epochs=settings.epochs,
        seed=config.seed,
        augment=augmentation(config.data, context.data),
        checkpoint=checkpoint,
        device=config.device.name,
        team=team,
    )


def _rendezvous(config: str, overrides: Iterable[str]) -> None:
    """What a process that torchrun started does: rank 0 continues the run, the others help it."""
    from ..run import config_at

    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise ConfigError("this is for torchrun: torchrun --nproc-per-node 2 -m nas_engine.train CONFIG")
    asked = config_at(config, overrides)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    take_device(asked.device.name, int(os.environ.get("LOCAL_RANK", 0)), here)
    team = join(asked.device.name, _PATIENCE)
    team.local = here
    try:
        if team.leads:
            _lead(asked, team)
            return
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for rank 0, with which the others end
        if team.agree(True):  # rank 0 may find that there is nothing to do
            context = Context(asked)
            _work(context, prepared(context, here), team)
    finally:
        leave()


def _lead(config: Config, team: Team) -> None:
    """Continue the run up to its shared weights."""
    from ..interrupt import Interrupt
    from ..pipeline import run_pipeline
    from ..progress import Reporter

    try:
        with Reporter() as reporter, Interrupt() as stop:
            run_pipeline(config, progress=reporter, stop=stop, until="supernet")
    finally:
        if not team.called:
            team.agree(False)
