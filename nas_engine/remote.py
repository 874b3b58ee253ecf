"""Runs under a URI: what lies there is the truth, and each process works on copies of it.

The process that drives a run keeps a working copy in the user's cache directory: it takes over what the URI has when
it begins, and puts there what changed after every event. Workers fetch single files and put their checkpoints there.
"""

from __future__ import annotations

import atexit
import hashlib
import re
import secrets
import time
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path

from search_spaces.errors import RunError

from .files import Scratch, read_json, write_json
from .store import Stamp, Store

INDEX = ".mirror.json"
LEASE = ".lease.json"
_PAUSE_SECONDS = 2.0  # between two looks for changes that need not be at the URI at once, at least
_PAUSE_SHARE = 10.0  # ... and as a multiple of what the last one took
_RECORD = "search/trials.jsonl"  # workers act on its rows: it is put there at once
_LAZY = re.compile(r"(search/trials|baselines)/.*\.pt")  # fetched when they are asked for; workers put them there
_KEPT_HERE = re.compile(r"(.*/)?(\.[^/]*\.tmp|[^/]*\.tmp|optuna\.journal)|\.lock|\.mirror\.json|\.lease\.json")


def working_copy(results: str, name: str = "") -> Path:
    """The folder on this machine where runs under a URI are worked on."""
    from platformdirs import user_cache_path

    return user_cache_path("nas-engine") / "runs" / hashlib.sha256(results.encode()).hexdigest()[:12] / name


# ---- the working copy of the process that drives a run -------------------------------------------------------


class Mirror:
    """A working copy of a run and the URI it is of. An index says which files are the same in both.

    Args:
        store: where the run lies.
        folder: the working copy.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self._files: dict[str, tuple[Stamp, Stamp | None]] = {}
        self.copy = secrets.token_hex(8)
        self.lost: Callable[[], None] = lambda: None
        self._next = 0.0
        self._read_index()

    def _read_index(self) -> None:
        try:
            index = read_json(self.folder / INDEX)
            files = {name: (tuple(there), here and tuple(here)) for name, (there, here) in index["files"].items()}
            self.copy, self._files = str(index["copy"]), files
        except (RunError, KeyError, TypeError, ValueError):
            return  # none yet, or a damaged one: everything is fetched again

    def write_index(self) -> None:
        """Note what is the same here and there, and which copy this is."""
        write_json(self.folder / INDEX, {"uri": self.store.uri, "copy": self.copy, "files": self._files})

    def pull(self) -> None:
        """Make the working copy what the URI has; trial checkpoints are fetched when they are asked for.

        Raises:
            RunError: the URI cannot be read.
        """
        there = {name: stamp for name, stamp in self.store.listing().items() if not _KEPT_HERE.fullmatch(name)}
        here = self._scan()
        for name, stamp in there.items():
            if not self._is_same(name, stamp, here.get(name)):
                if _LAZY.fullmatch(name):
                    (self.folder / name).unlink(missing_ok=True)
                    self._files[name] = stamp, None
                else:
                    self._get(name)
        for name in here.keys() - there.keys():
            (self.folder / name).unlink(missing_ok=True)
        self._files = {name: known for name, known in self._files.items() if name in there}
        self.write_index()

    def _is_same(self, name: str, there: Stamp, here: Stamp | None) -> bool:
        known = self._files.get(name)
        return known is not None and known == (there, here) and (here is not None or bool(_LAZY.fullmatch(name)))

    def _get(self, name: str) -> None:
        stamp = self.store.get(name, self.folder / name)
        if stamp is not None:
            self._files[name] = stamp, _local_stamp(self.folder / name)

    def fetch(self, name: str) -> Path:
        """A file in the working copy, as new as the URI has it; what was written here since stays."""
        stamp = self.store.stamp(name)
        known = self._files.get(name)
        missing = known is not None and known[1] is None
        if stamp is not None and (known is None or known[0] != stamp or missing):
            self._get(name)
        return self.folder / name

    def publish(self, *, soon: bool = True) -> None:
        """Put what changed in the working copy to the URI, what says that a stage is done last.

        Args:
            soon: False where it may wait; then the network is used for a tenth of the time at most.

        Raises:
            RunError: it cannot be written, or another process has taken the run over.
        """
        if not soon and time.monotonic() < self._next and not self._is_changed(_RECORD):
            return
        started = time.monotonic()
        self.lost()
        here = self._scan()
        gone = [name for name, known in self._files.items() if known[1] is not None and name not in here]
        changed = [name for name, stamp in here.items() if self._files.get(name, (None, None))[1] != stamp]
        for name in sorted(gone, key=_removal_order):
            self.store.delete(name)
            del self._files[name]
        for name in sorted(changed, key=lambda name: (name.endswith("/done.json"), here[name][1])):
            self._files[name] = self.store.put(self.folder / name, name), here[name]
        if gone or changed:
            self.write_index()
        took = time.monotonic() - started
        self._next = time.monotonic() + max(_PAUSE_SECONDS, _PAUSE_SHARE * took)

    def _is_changed(self, name: str) -> bool:
        return _local_stamp(self.folder / name) != self._files.get(name, (None, None))[1]

    def forget(self, folder: str) -> None:
        """Remove a stage at the URI, also what workers put there; what says that it began goes first."""
        known = [name for name in self._files if name.startswith(f"{folder}/")]
        if not known:
            return
        for name in ("done.json", "inputs.json"):
            self.store.delete(f"{folder}/{name}")
        self.store.delete_folder(folder)
        for name in known:
            del self._files[name]

    def _scan(self) -> dict[str, Stamp]:
        found = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if not _KEPT_HERE.fullmatch(name) and path.is_file():
                stamp = _local_stamp(path)
                if stamp is not None:
                    found[name] = stamp
        return found


def _local_stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def _removal_order(name: str) -> int:
    return 0 if name.endswith("/done.json") else 1 if name.endswith("/inputs.json") else 2


_MIRRORS: dict[Path, Mirror] = {}


def mirror_of(uri: str, folder: Path) -> Mirror:
    """The mirror that this process keeps of a run; one for each working copy."""
    if folder not in _MIRRORS:
        _MIRRORS[folder] = Mirror(Store.open(uri), folder)
    return _MIRRORS[folder]


def uri_of(folder: Path) -> str | None:
    """The URI that a folder is a working copy of, None where it is none."""
    if not (folder / INDEX).is_file():
        return None
    return str(read_json(folder / INDEX)["uri"])


# ---- files as any process on any node sees them ------------------------------------------------------------


class NodeFiles:
    """The files of a run in this process: in its directory where that is at hand, else fetched from the URI.

    Args:
        directory: of the run, which all nodes see where there is no URI.
        uri: of the run.
    """

    def __init__(self, directory: Path, uri: str | None) -> None:
        self.directory = directory
        self.uri = uri
        self._stamps: dict[str, Stamp | None] = {}

    @property
    def _mirror(self) -> Mirror | None:
        return _MIRRORS.get(self.directory)

    @property
    def is_elsewhere(self) -> bool:
        """Whether this process has to fetch files and bring them back."""
        return self.uri is not None and self._mirror is None

    @cached_property
    def _store(self) -> Store:
        return Store.open(str(self.uri))

    @cached_property
    def _folder(self) -> Path:
        scratch = Scratch("nas-engine-node-")
        atexit.register(scratch.close)
        return scratch.folder

    def _name(self, path: Path) -> str:
        return path.relative_to(self.directory).as_posix()

    def fetch(self, path: Path) -> Path:
        """Where a file of the run is in this process, the newest there is; it may not exist at all.

        Args:
            path: in the run's directory.

        Raises:
            RunError: the URI cannot be read.
        """
        if self.uri is None:
            return path
        name, mirror = self._name(path), self._mirror
        if mirror is not None:
            return mirror.fetch(name)
        copy, stamp = self._folder / name, self._store.stamp(name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if stamp is None:
            copy.unlink(missing_ok=True)
        elif self._stamps.get(name) != stamp or not copy.exists():
            self._store.get(name, copy)
        self._stamps[name] = stamp
        return copy

    def fetch_folder(self, path: Path) -> Path:
        """Where a folder of the run is, with all that is in it."""
        if not self.is_elsewhere:
            return path
        name = self._name(path)
        for file in self._store.listing():
            if file.startswith(f"{name}/"):
                self.fetch(self.directory / file)
        return self._folder / name

    def push(self, path: Path) -> None:
        """Bring back a file of the run that this process wrote where `fetch` said.

        The process that drives the run publishes its own.
        """
        if self.is_elsewhere:
            name = self._name(path)
            self._stamps[name] = self._store.put(self._folder / name, name)

    def drop(self, path: Path) -> None:
        """Remove what was fetched of a file; it stays where it lies."""
        if self.is_elsewhere:
            (self._folder / self._name(path)).unlink(missing_ok=True)

    def delete(self, path: Path) -> None:
        """Remove a file of the run, wherever it lies."""
        path.unlink(missing_ok=True)
        if self.uri is not None:
            self._store.delete(self._name(path))


@lru_cache(maxsize=8)
def node_files(directory: Path, uri: str | None) -> NodeFiles:
    """The files of a run in this process; each process has one of these for each run."""
    return NodeFiles(directory, uri)
