"""A run: one directory, here or under a URI, that holds everything a search made, and from which it resumes.

Each stage owns a folder. `inputs.json` says what the stage was asked for when it began, `done.json` that it
ended; a stage whose `done.json` is there is not repeated. That, and the stages' own checkpoints, is the
whole resume mechanism.
"""

from __future__ import annotations

import platform
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import EngineError, RunError, did_you_mean

from .config import Config, load_config, make_config
from .files import Progress, read_json, write_json, write_text
from .remote import LEASE, Mirror, mirror_of, uri_of, working_copy
from .shapes import space_for
from .store import Store, is_uri, join, split

if TYPE_CHECKING:
    import pandas as pd

    from predictors.table import LookupTable

STAGES = ("device", "supernet", "sample", "predict", "table", "search", "choose", "export", "baselines", "report")
_LIVELY_SECONDS = 60.0
_FETCH_SECONDS = 20.0
_REPORTED = ("torch", "ray", "optuna", "numpy", "onnxruntime")


class RunDirectory:
    """The files of a run, stage by stage; what `pipeline` writes and `Run` reads.

    Args:
        path: the directory.
        uri: what it is a working copy of, None where it is the run itself.
    """

    def __init__(self, path: Path, uri: str | None = None) -> None:
        self.path = path
        self.uri = uri

    @property
    def location(self) -> str:
        """Where the run lies, in the words of its user."""
        return self.uri or str(self.path)

    @property
    def mirror(self) -> Mirror | None:
        return None if self.uri is None else mirror_of(self.uri, self.path)

    def fetch(self, *parts: str) -> Path:
        """The path of a file that workers wrote, wherever they did."""
        mirror = self.mirror
        return self.path.joinpath(*parts) if mirror is None else mirror.fetch("/".join(parts))

    def publish(self, *, soon: bool = True) -> None:
        """Put what changed where the run lies; nothing to do where that is here."""
        mirror = self.mirror
        if mirror is not None:
            mirror.publish(soon=soon)

    def publish_beside(self) -> None:
        """Put where the run lies what was written without holding it; a process here that holds it does that itself."""
        with self._while_free() as free:
            if free:
                self.publish()

    def refresh(self) -> None:
        """Bring a working copy up to date; one that a process here works on is ahead of the URI and left alone."""
        mirror = self.mirror
        if mirror is not None:
            with self._while_free() as free:
                if free:
                    mirror.pull()

    @contextmanager
    def _while_free(self) -> Iterator[bool]:
        """Hold a working copy, for a moment, unless another process does; whether that is so."""
        from filelock import FileLock, Timeout

        if self.uri is None:
            yield False
            return
        self._make()
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def publishing(self, progress: Progress) -> Progress:
        """Tells of an event once what led to it is where the run lies."""
        if self.uri is None:
            return progress

        def tell(event: str, details: dict[str, Any]) -> None:
            self.publish(soon=False)
            progress(event, details)

        return tell

    def stage(self, name: str) -> Path:
        return self.path / name

    def done(self, name: str) -> dict[str, Any] | None:
        """What the stage left when it ended, None while it has not."""
        path = self.stage(name) / "done.json"
        return read_json(path) if path.exists() else None

    def begin(self, name: str, inputs: Mapping[str, Any]) -> None:
        """Note what a stage is asked for; later stages are no longer done.

        Where the stage starts from nothing, what later ones hold came from another beginning and is removed.
        """
        if not (self.stage(name) / "inputs.json").exists():
            self.remove(name)
        done = self.done(name)
        if done is not None:  # more of it is asked for
            write_json(self.stage(name) / "spent.json", {"seconds": done["seconds"]})
        for later in STAGES[STAGES.index(name) :]:
            (self.stage(later) / "done.json").unlink(missing_ok=True)
        write_json(self.stage(name) / "inputs.json", dict(inputs))
        self.publish()

    def end(self, name: str, summary: Mapping[str, Any], seconds: float) -> None:
        before = self.spent(name)
        write_json(self.stage(name) / "done.json", {**summary, "seconds": before + seconds})
        self.publish()

    def spent(self, name: str) -> float:
        """Seconds that earlier attempts of a stage took."""
        path = self.stage(name) / "spent.json"
        return float(read_json(path)["seconds"]) if path.exists() else 0.0

    def interrupted(self, name: str, seconds: float) -> None:
        """Add the seconds of an unfinished attempt."""
        write_json(self.stage(name) / "spent.json", {"seconds": self.spent(name) + seconds})

    def check(self, wanted: Mapping[str, Mapping[str, Any]]) -> None:
        """Compare what begun stages were asked for with what they are asked for now.

        A stage that ended in an error before it made anything, over a mistyped name for example, may be asked anew.

        Raises:
            RunError: naming the keys that differ and the ways out.
        """
        for name, inputs in wanted.items():
            path = self.stage(name) / "inputs.json"
            if not path.exists() or {p.name for p in path.parent.iterdir()} <= {"inputs.json", "spent.json"}:
                continue
            changed = differences(read_json(path), dict(inputs), usual=Config().model_dump(mode="json"))
            if changed:
                raise RunError(
                    f"run {self.location!r} was begun with {'; '.join(changed[:4])}. Set these back, choose another "
                    f"name (--set name=NEW), or remove {self._shown(name)!r} to repeat the run from that stage"
                )

    def create(self, config: Config) -> None:
        """Make the directory and note the configuration and the versions it runs under."""
        self._make()
        write_text(self.path / "config.yaml", config.to_yaml())
        if not (self.path / "run.json").exists():
            versions = {name: version(name) for name in _REPORTED}
            made = {"id": secrets.token_hex(8), "created": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
            machine = {"python": platform.python_version(), "versions": versions, "machine": platform.platform()}
            write_json(self.path / "run.json", {**made, **machine})
        self.publish()

    def _shown(self, stage: str) -> str:
        return str(self.stage(stage)) if self.uri is None else join(self.uri, stage)

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise RunError(f"cannot make {self.path}: {e.strerror}; choose another with --set results=DIRECTORY") from e

    @property
    def in_use(self) -> bool:
        """Whether a living process holds the run."""
        from filelock import FileLock, Timeout

        if not (self.path / ".lock").exists():
            return False
        try:
            with FileLock(self.path / ".lock", timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a directory that may not be written to cannot be held either
            return False

    @property
    def is_held_elsewhere(self) -> bool:
        """Whether another machine seems to be at work on a run under a URI; as far as the clocks agree."""
        mirror = self.mirror
        stamp = None if mirror is None else mirror.store.stamp(LEASE)
        return stamp is not None and abs(time.time() - stamp[1] / 1e9) < _LIVELY_SECONDS

    @contextmanager
    def locked(self, note: Callable[[str], None] = lambda text: None) -> Iterator[None]:
        """Hold the run for this process. A lock dies with its process, so a killed run is free again.

        Under a URI there is a lease beside the lock of the working copy; it is the URI's content that is worked on.

        Args:
            note: told why it takes long.

        Raises:
            RunError: a living process holds it, or the URI cannot be used.
        """
        with self._locked_here(), self._leased(note):
            yield

    @contextmanager
    def _leased(self, note: Callable[[str], None]) -> Iterator[None]:
        from .lease import Lease

        mirror = self.mirror
        if mirror is None:
            yield
            return
        mirror.write_index()  # the identity of the copy is known before anything is held in its name
        lease = Lease(mirror.store, mirror.copy)
        lease.acquire(note)
        try:
            mirror.pull()
            mirror.lost = lease.check
            yield
            mirror.publish()
        except EngineError:
            with suppress(RunError):  # the first error is the one to tell
                mirror.publish()
            raise
        finally:
            mirror.lost = lambda: None
            with suppress(RunError):
                lease.release()

    @contextmanager
    def _locked_here(self) -> Iterator[None]:
        from filelock import FileLock, Timeout

        self._make()
        lock = FileLock(self.path / ".lock")
        try:
            # `in_use` of another process holds it for a moment, a reader of a URI while it fetches what is new
            lock.acquire(timeout=1 if self.uri is None else _FETCH_SECONDS)
        except Timeout:
            raise RunError(
                f"run {self.location!r} is in use by another process; wait for it, or choose another name "
                f"(--set name=NEW). See how far it is with: nas-engine status {shlex.quote(self.location)}"
            ) from None
        except OSError as e:
            raise RunError(
                f"cannot write to {self.path}: {e.strerror}; choose another place with --set results=DIRECTORY"
            ) from e
        try:
            yield
        finally:
            lock.release()

    def remove(self, name: str) -> None:
        """Forget a stage and those after it."""
        for later in STAGES[STAGES.index(name) :]:
            shutil.rmtree(self.stage(later), ignore_errors=True)
            if self.mirror is not None:
                self.mirror.forget(later)


def differences(old: Any, new: Any, where: str = "", usual: Any = None) -> list[str]:
    """`key was x, now y` for every leaf that differs.

    A key that `old` lacks, as it was written before there was one, counts as what is `usual`.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        known = usual if isinstance(usual, dict) else {}
        return [
            d
            for k in dict.fromkeys([*old, *new])
            for d in differences(old.get(k, known.get(k)), new.get(k), f"{where}.{k}" if where else k, known.get(k))
        ]
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return [] if list(old) == list(new) else [f"{where} {list(old)!r}, now {list(new)!r}"]
    return [] if old == new else [f"{where} {old!r}, now {new!r}"]


class Run:
    """A run as its user reads it: `Run.open(path)`, then `table`, `query`, `predict`, `pareto`, `best`, `export`."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.config = config
        self.directory = RunDirectory(path, config.uri)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open a run by its directory or URI, or by its name under `results/`.

        Of a run under a URI a working copy is made, or brought up to date; `path` is where that is.

        Raises:
            RunError: there is no such run, with the nearest name.
        """
        found = _fetched(str(path)) if is_uri(path) else _find(Path(path))
        return cls(found, config_at(found))

    @property
    def location(self) -> str:
        """The run's directory or URI."""
        return self.directory.location

    @cached_property
    def space(self) -> SearchSpace:
        device = read_json(self.path / "device" / "done.json")
        return space_for(self.config, {**device, "input_shape": tuple(device["input_shape"])})

    @cached_property
    def table(self) -> LookupTable:
        """The lookup table of predictions and costs."""
        path = self.path / "table" / "table.parquet"
        if not path.exists():
            raise RunError(f"run {self.path.name!r} has no table yet; make it with: {self.command_until('table')}")
        from predictors.table import LookupTable

        return LookupTable.open(path)

    def query(
        self,
        where: str | None = None,
        sort: str | None = None,
        top: int | None = 10,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Rows of the table: `run.query("latency_ms < 2 and params < 5e5", sort="accuracy", top=10)`."""
        return self.table.query(where, sort, top, columns)

    def predict(self, architectures: Sequence[Architecture]) -> list[dict[str, Any]]:
        """What the run believes of architectures of its space, in the table or not; see `lookup.predict`."""
        from .lookup import predict

        return predict(self, architectures)

    @property
    def pareto(self) -> pd.DataFrame:
        """The trained networks that no other trained one beats in all objectives, with measured figures."""
        import pandas as pd

        return pd.DataFrame([row for row in self.chosen["networks"] if row["pareto"]])

    @property
    def chosen(self) -> dict[str, Any]:
        """What the choose stage wrote: all judged trials, the chosen ones and why others were not."""
        if self.directory.done("choose") is None:
            raise RunError(f"run {self.path.name!r} has not chosen networks yet; continue it with: {self.command}")
        return dict(read_json(self.path / "choose" / "chosen.json"))

    @property
    def baselines(self) -> dict[str, Any] | None:
        """What the baselines stage wrote: rows, chosen networks measured beside them, comparisons; None without any."""
        path = self.path / "baselines" / "baselines.json"
        return dict(read_json(path)) if (self.directory.done("baselines") or {}).get("asked") else None

    def best(self, where: str | None = None) -> dict[str, Any]:
        """The trained network of highest validation accuracy, among those for which `where` holds.

        Args:
            where: a condition on measured figures, in the words of `query`: `latency_ms < 2 and params < 5e5`.

        Raises:
            ConfigError: an unknown column, or a condition that makes no sense.
            RunError: nothing was trained yet, or no network meets the condition.
        """
        from .lookup import meeting

        rows: list[dict[str, Any]] = self.chosen["networks"]
        met = rows if where is None else meeting(rows, where)
        if not met:
            raise RunError(
                f"none of the {len(rows)} trained networks of run {self.path.name!r} meets {where!r}; loosen it, "
                f"or see what there is in the report: nas-engine report {shlex.quote(self.location)}"
            )
        return max(met, key=lambda row: row["accuracy"])

    def architecture(self, code: str) -> Architecture:
        return self.space.decode(code)

    def export(self, trial: int, directory: str | Path | None = None) -> Path:
        """Export the network of one trial as a bundle; returns its directory."""
        from .pipeline import export_trial

        return export_trial(self, trial, Path(directory) if directory else None)

    @property
    def command(self) -> str:
        """The command that continues or repeats this run."""
        return self.command_until(STAGES[-1])

    def command_until(self, stage: str) -> str:
        """The command that continues this run and ends after a stage: the table, or all of it."""
        verb = "table build" if stage == "table" else "search"
        where = str(self.path / "config.yaml") if self.directory.uri is None else self.directory.uri
        return f"nas-engine {verb} {shlex.quote(where)}"

    @property
    def status(self) -> list[dict[str, Any]]:
        """One row a stage: name, state (done, begun, waiting), seconds."""
        found = {name: self.directory.done(name) for name in STAGES}
        if found["report"] and not self.config.baselines:  # a run of before there were any
            found["baselines"] = found["baselines"] or {"seconds": 0.0}
        rows = []
        for name, done in found.items():
            begun = (self.directory.stage(name) / "inputs.json").exists()
            state = "done" if done else "begun" if begun else "waiting"
            rows.append({"stage": name, "state": state, "seconds": (done or {}).get("seconds")})
        return rows


def _find(path: Path) -> Path:
    path = path.parent if path.name in ("config.yaml", "report.html") else path
    for candidate in (path, Path("results") / path):
        if (candidate / "config.yaml").is_file():
            return candidate if candidate.name else candidate.resolve()
    near = [p.parent.name for p in Path("results").glob("*/config.yaml")]
    hint = did_you_mean(path.name, near) if near else "there is no run under results/ yet"
    raise RunError(f"{str(path)!r} is not a run: {hint}")


def _fetched(uri: str) -> Path:
    """The working copy of a run under a URI, brought up to date unless a process here is at work on it."""
    results, name = split(uri)
    if name in ("config.yaml", "report.html"):
        results, name = split(results)
    folder = working_copy(results, name)
    directory = RunDirectory(folder, join(results, name))
    if directory.mirror is not None and directory.mirror.store.stamp("config.yaml") is None:
        there = shlex.quote(results)
        raise RunError(f"{uri!r} is not a run: no config.yaml there; see: nas-engine list --results {there}")
    directory.refresh()
    return folder


def working_copies(results: str) -> Path:
    """The folder that holds working copies of all runs under a URI, brought up to date."""
    for name in Store.open(results).folders():
        with suppress(RunError):  # a folder of something else
            _fetched(join(results, name))
    return working_copy(results)


def config_at(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """The configuration in a file, or in the directory of a run, or of a run under a URI.

    A run goes on where it lies now, wherever it was made: its directory may have been moved.
    """
    path = _fetched(str(path)) if is_uri(path) else path
    file = Path(path) / "config.yaml" if Path(path).is_dir() else Path(path)
    overrides = tuple(overrides)
    config = load_config(file, overrides)
    if file.name != "config.yaml" or not (file.parent / "run.json").is_file():
        return config
    folder = file.parent if file.parent.name else file.parent.resolve()
    given = {text.partition("=")[0].strip() for text in overrides}
    uri = uri_of(folder)
    place: str | Path = folder.parent if uri is None else split(uri)[0]
    here: dict[str, Any] = {"results": place, "name": folder.name}
    return config.model_copy(update={key: value for key, value in here.items() if key not in given})


def search(config: Config | Mapping[str, Any] | str | Path, **overrides: Any) -> Run:
    """Run a search, or continue it, and return the finished `Run`.

    Args:
        config: a `Config`, a mapping of its sections, or the path of a YAML file.
        overrides: `progress=` and `stop=` of `pipeline.run_pipeline`.
    """
    from .pipeline import run_pipeline

    made = config_at(config) if isinstance(config, str | Path) else make_config(config)
    return run_pipeline(made, **overrides)
