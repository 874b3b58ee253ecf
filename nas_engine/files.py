"""Files that survive a kill at any moment, and folders that do not: atomic replacement, records, scratch."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from search_spaces.errors import RunError


class WriteError(RunError):
    """A file that cannot be written: the disk is full, or the place is not ours to write to."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, flushed to disk, when the block ends without an error."""
    # not tempfile: its files are private, and these should be as readable as any other the user makes
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    except OSError as e:
        raise WriteError(f"cannot write {path}: {e.strerror or e}; free space or choose another directory") from e
    except Exception as e:  # of a library that tells of a full disk in words
        full = os.strerror(errno.ENOSPC)
        if full not in str(e):
            raise
        raise WriteError(f"cannot write {path}: {full}; free space or choose another directory") from e
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(data, indent=1, default=str) + "\n")


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines, atomically; `Record` reads them."""
    write_text(path, "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """Read JSON; a damaged file is a `RunError` that says which."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"no file {path}: the run is incomplete; start it again with its command") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise RunError(f"{path} is damaged ({e}); remove it and start the run again with its command") from None


def write_torch(path: Path, state: Any) -> None:
    """Save tensors and plain values atomically, to be read by `read_torch`."""
    import torch

    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as e:  # torch covers an error of the file by one of its own
            raise e.__context__ if isinstance(e.__context__, OSError) else e from None


def read_torch(path: Path) -> Any:
    """Load what `write_torch` wrote; `weights_only`, so nothing in the file is executed."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as e:
        raise RunError(f"{path} is damaged ({type(e).__name__}); remove it and start the run again") from None


class Record:
    """An append-only file of JSON lines, each on the disk before anybody acts on it.

    A line torn by a kill is not read, and is cut off before the next one is added: readers beside a running
    writer change nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            self._read()

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                self.rows.append(json.loads(line))
            except json.JSONDecodeError:
                raise RunError(f"{self.path}, line {number} is damaged; remove that line and start again") from None

    def append(self, row: dict[str, Any], *, durable: bool = True) -> None:
        """Add a row; it is on the disk when this returns.

        Args:
            durable: False for a row that survives any kill, but a loss of power only once a durable one follows it.
        """
        line = json.dumps(row, separators=(",", ":")) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                _cut_torn_line(file)
                file.write(line.encode())
                file.flush()
                if durable:
                    os.fsync(file.fileno())
        except OSError as e:
            raise WriteError(f"cannot write {self.path}: {e.strerror or e}; free space and start again") from e
        self.rows.append(json.loads(line))

    def sync(self) -> None:
        """Make sure that all rows are on the disk."""
        if self.path.exists():
            _sync(self.path)


def _cut_torn_line(file: BinaryIO) -> None:
    """Cut what follows the last newline of a file opened for appending."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Scratch:
    """A temporary folder that goes with its process.

    One that a killed process left is known by its free lock, and swept when another of the same prefix is made.
    """

    def __init__(self, prefix: str, base: str | None = None) -> None:
        place = Path(base or tempfile.gettempdir())
        self.sweep(prefix, place)
        self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        self._lock = FileLock(self.folder / ".lock")
        self._lock.acquire(timeout=0)

    def close(self) -> None:
        """Remove it."""
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def sweep(prefix: str, base: Path) -> None:
        """Remove folders of processes that are gone: their lock went with them, whatever namespace they lived in."""
        for folder in base.glob(f"{prefix}*"):
            if not (folder / ".lock").exists() or not os.access(folder, os.W_OK):
                continue
            lock = FileLock(folder / ".lock")
            try:
                lock.acquire(timeout=0)
            except (Timeout, OSError):
                continue
            lock.release()
            shutil.rmtree(folder, ignore_errors=True)


Progress = Callable[[str, dict[str, Any]], None]
"""Where stages tell how far they are: `progress(event, details)`; see `nas_engine.progress`."""
