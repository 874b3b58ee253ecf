"""Files that survive a kill at any moment: atomic replacement and append-only records."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from search_spaces.errors import RunError


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
        raise RunError(f"cannot write {path}: {e.strerror or e}; free space or choose another directory") from e
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

    with replacing(path) as temporary:
        torch.save(state, temporary)


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
    """An append-only file of JSON lines, one fsync a line.

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

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; it is on the disk when this returns."""
        line = json.dumps(row, separators=(",", ":")) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                _cut_torn_line(file)
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as e:
            raise RunError(f"cannot write {self.path}: {e.strerror or e}; free space and start again") from e
        self.rows.append(json.loads(line))


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


Progress = Callable[[str, dict[str, Any]], None]
"""Where stages tell how far they are: `progress(event, details)`; see `nas_engine.progress`."""
