"""The directory of a compression or a scaling: what is asked for, and a file for each piece of work that is done.

A piece whose file is there is not done again; files come whole or not at all. That, and the training loop's own
checkpoints, is all that going on after a kill needs.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.errors import RunError

from ..files import Progress, read_json, write_json
from ..interrupt import never
from ..progress import silent
from ..run import differences

REQUEST = "request.json"
_SPENT = "spent.json"


class Workplace:
    """The files of one piece of work of a user's.

    Args:
        path: the directory; made when it is held.
        command: what the user gave, for messages.
        elsewhere: how another directory is chosen, for messages.
    """

    def __init__(self, path: Path, command: str = "", elsewhere: str = "give another --out") -> None:
        self.path = path
        self.command = command
        self.elsewhere = elsewhere

    def file(self, name: str) -> Path:
        return self.path / name

    def once(self, name: str, work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """What a piece of work found: from its file, or from doing it now."""
        path = self.file(f"{name}.json")
        if not path.exists():
            write_json(path, dict(work()))
        return dict(read_json(path))

    @contextmanager
    def held(self, request: Mapping[str, Any]) -> Iterator[None]:
        """Hold the directory for this process, and note what is asked for.

        Raises:
            RunError: another process holds it, it was begun with something else, or it holds other things.
        """
        from filelock import FileLock, Timeout

        self._make()
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=1)
        except Timeout:
            raise RunError(
                f"{str(self.path)!r} is in use by another process; wait for it, or {self.elsewhere}"
            ) from None
        except OSError as e:
            raise RunError(f"cannot write to {str(self.path)!r}: {e.strerror}; {self.elsewhere}") from e
        started = time.perf_counter()
        try:
            self._check(request)
            yield
        finally:
            write_json(self.file(_SPENT), {"seconds": self.spent + time.perf_counter() - started})
            lock.release()

    @property
    def spent(self) -> float:
        """Seconds of the attempts that have ended."""
        path = self.file(_SPENT)
        return float(read_json(path)["seconds"]) if path.exists() else 0.0

    def _make(self) -> None:
        if self.path.is_dir() and not self.file(REQUEST).exists():
            others = [p.name for p in self.path.iterdir() if not p.name.startswith(".")]
            if others:
                raise RunError(f"{str(self.path)!r} holds other things ({', '.join(others[:3])}); {self.elsewhere}")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise RunError(f"cannot make {str(self.path)!r}: {e.strerror}; {self.elsewhere}") from e

    def _check(self, request: Mapping[str, Any]) -> None:
        path = self.file(REQUEST)
        if not path.exists():
            write_json(path, dict(request))
            return
        changed = differences(read_json(path), dict(request))
        if changed:
            raise RunError(
                f"{str(self.path)!r} was begun with {'; '.join(changed[:4])}. Set these back, {self.elsewhere}, or "
                f"remove {shlex.quote(str(self.path))} to begin anew"
            )


@dataclass(frozen=True)
class Stages:
    """Pieces of work that are done once, each told of as the stages of a run are.

    Attributes:
        stop: asked before each; once true it ends with `Interrupted`.
    """

    place: Workplace
    progress: Progress = silent
    stop: Callable[[], bool] = never

    def __call__(self, name: str, title: str, work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """What a piece found: from its file, or from doing it now."""
        self.ask()
        known = self.place.file(f"{name}.json").exists()
        text = f"{title}: done before" if known else title
        self.progress("stage", {"name": name, "state": "skipped" if known else "start", "text": text})
        found = self.place.once(name, work)
        if not known:
            self.progress("stage", {"name": name, "state": "done", "text": str(found.get("text", ""))})
        return found

    def ask(self) -> None:
        """Raise `Interrupted` where it is time to stop."""
        from ..pipeline import Interrupted  # whose stages may have use for workplaces

        if self.stop():
            raise Interrupted(f"stopped; go on with: {self.place.command or 'the same command'}")
