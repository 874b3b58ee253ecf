"""Ray Tune runs the trainings that a conductor decides on: trials of a search, or baselines beside one.

Tune is given a searcher, a scheduler and a stopper that only pass questions on to the conductor in this process; what
Tune pickles of them is a key. Its own storage is thrown away: resuming means reading the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from search_spaces.errors import RunError

from ..config import Config
from ..remote import node_files
from . import cluster
from .conductor import Conductor, SearchJob, SearchOutcome

cluster.quiet_ray()

from ray import tune  # noqa: E402 (settings come before the import)
from ray.tune.schedulers import FIFOScheduler, TrialScheduler  # noqa: E402
from ray.tune.search import ConcurrencyLimiter, Searcher  # noqa: E402

if TYPE_CHECKING:
    from ..train import Training

T = TypeVar("T")


Trainable = Callable[[dict[str, Any]], None]
"""What Ray Tune runs in a trial's process; see `worker.tune_trial` for what it is given and has to report."""


class Turn(Protocol):
    """A training that a conductor wants run; its number is its own."""

    @property
    def number(self) -> int: ...


class Job(Protocol):
    """What trainings are of: a run's configuration and directory, and whether the user asks to stop."""

    @property
    def config(self) -> Config: ...

    @property
    def directory(self) -> Path: ...

    def stop(self) -> bool: ...

    def request(self, turn: Any, directory: Path) -> Training:
        """What a process is asked to train, where the run's directory is `directory` for it."""


class Conducting(Protocol):
    """Who decides what is trained, and notes what comes of it; see `Conductor`."""

    @property
    def remaining(self) -> int: ...

    @property
    def begun(self) -> frozenset[int]:
        """Numbers of trainings that an earlier process began."""

    @property
    def over(self) -> bool:
        """Whether nothing is left to be run."""

    def next(self) -> Turn | None: ...

    def report(self, number: int, result: Mapping[str, Any]) -> bool: ...

    def fail(self, number: int, error: str, *, diverged: bool = False) -> None: ...


def search(job: SearchJob, trainable: Trainable | None = None) -> SearchOutcome:
    """Run or continue a search; `search/trials.jsonl` under the job's directory is the result.

    Args:
        trainable: takes the place of `worker.tune_trial`, which trains the candidate.

    Raises:
        UnsatisfiableError: the bounds leave nothing to try.
        RunError: the record is damaged or cannot be written, or Ray ended before its time.
    """
    conductor = Conductor(job)
    if conductor.remaining and not job.stop():
        run_trials(job, conductor, trainable)
    return conductor.outcome()


def run_trials(job: Job, conductor: Conducting, trainable: Trainable | None = None) -> None:
    """Run what the conductor still has to run, `search.concurrency` trainings at a time."""
    from .study import explained
    from .worker import one_line, tune_trial

    settings = job.config.search
    cluster.start(settings.concurrency * settings.training_threads)
    gpus = resources_of(job.config)["gpu"] if job.config.device.name == "cuda" else None
    cluster.demand(settings.training_threads, gpus)
    bridge = _Bridge(job, conductor)
    key = str(job.directory)
    _BRIDGES[key] = bridge
    try:
        _tuner(job, key, conductor.remaining, trainable or tune_trial).fit()
    except tune.TuneError as e:
        early = RunError(f"Ray Tune ended early ({one_line(e)}); start again with the same command")
        bridge.error = bridge.error or early
    finally:
        del _BRIDGES[key]
    if bridge.error is not None:
        raise explained(bridge.error)
    if not job.stop() and not conductor.over:
        raise RunError("Ray Tune ended before all trials did; start again with the same command")


def resources_of(config: Config) -> dict[str, float]:
    """What each trial asks of Ray."""
    settings = config.search
    gpus = 0.0
    if config.device.name == "cuda":
        gpus = settings.gpus or cluster.gpu_share(settings.concurrency)
    return {"cpu": settings.training_threads, "gpu": gpus}


def _tuner(job: Job, key: str, samples: int, trainable: Trainable) -> tune.Tuner:
    settings = job.config.search
    return tune.Tuner(
        tune.with_resources(trainable, resources_of(job.config)),
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(_Searcher(key), max_concurrent=settings.concurrency),
            scheduler=_Scheduler(key),
            num_samples=samples,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(cluster.scratch()),
            failure_config=tune.FailureConfig(max_failures=settings.max_failures),
            stop=_Stopper(key),
            verbose=0,
        ),
    )


class _Bridge:
    """What stays in this process: the conductor, and the first error that occurred in it under Tune's loop."""

    def __init__(self, job: Job, conductor: Conducting) -> None:
        self.job = job
        self.conductor = conductor
        self.error: Exception | None = None
        self.files = node_files(job.directory.absolute(), job.config.uri)
        self.resumed = conductor.begun
        self.numbers: dict[str, int] = {}
        self.reasons: dict[str, str] = {}

    def call(self, otherwise: T, ask: Callable[[], T]) -> T:
        """Tune wraps errors of its hooks into texts; they are kept as they are, and the search is stopped."""
        try:
            return ask() if self.error is None else otherwise
        except Exception as e:
            self.error = e
            return otherwise

    def stop(self) -> bool:
        return self.error is not None or self.job.stop()

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        trial = None if self.stop() else self.conductor.next()
        if trial is None:
            return str(Searcher.FINISHED)
        self.numbers[trial_id] = trial.number
        files = self.files
        request = self.job.request(trial, files.directory)
        if trial.number not in self.resumed:  # a record that is gone may have left one
            files.delete(request.checkpoint)
        place = {"directory": str(files.directory), "uri": files.uri}
        return {"trial": trial.number, "request": request.model_dump_json(), **place}

    def report(self, trial_id: str, result: dict[str, Any]) -> str:
        number = self.numbers[trial_id]
        if "error" in result:
            self.reasons[trial_id] = result["error"]
            return str(TrialScheduler.CONTINUE)  # to the exception, which Tune may repeat the trial for
        if "stop" in result:
            raise RunError(result["stop"])
        if "diverged" in result:
            self.conductor.fail(number, result["diverged"], diverged=True)
        elif "epoch" in result:
            self.reasons.pop(trial_id, None)
            if self.conductor.report(number, result):
                return str(TrialScheduler.CONTINUE)
        return str(TrialScheduler.STOP)

    def fail(self, trial_id: str) -> None:
        failures = self.job.config.search.max_failures + 1
        died = f"its process died, the last of {failures} times; most likely for want of memory"
        self.conductor.fail(self.numbers[trial_id], self.reasons.get(trial_id, died))


_BRIDGES: dict[str, _Bridge] = {}


class _Searcher(Searcher):
    """Passes Tune's questions for trials on, and that it gave one up."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        bridge = _BRIDGES[self._key]
        finished: dict[str, Any] | str = str(Searcher.FINISHED)
        return bridge.call(finished, lambda: bridge.suggest(trial_id))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial that Tune gave up is noted as failed; the conductor itself ended the others."""
        bridge = _BRIDGES[self._key]
        if error:
            bridge.call(None, lambda: bridge.fail(trial_id))

    def save(self, checkpoint_path: str) -> None:
        """Nothing is to be saved: the record is."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""


class _Scheduler(FIFOScheduler):
    """Passes epochs on."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        bridge = _BRIDGES[self._key]
        return bridge.call(str(TrialScheduler.STOP), lambda: bridge.report(trial.trial_id, result))


class _Stopper(tune.Stopper):
    """Ends Tune's loop once the user asks for it or something of ours failed."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return _BRIDGES[self._key].stop()
