"""One way to spread batches: a task is opened once a worker, then works on batches, here or on Ray actors.

A task is plain values that travel; what it opens (a supernet, a predictor) stays where it was opened. Workers
compute on one thread each, so that results do not depend on where a batch was worked on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from search_spaces.errors import EngineError

from ..interrupt import never
from . import cluster

B = TypeVar("B")
R = TypeVar("R")
B_contra = TypeVar("B_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

RESTARTS = 3
_PATIENCE_SECONDS = 0.2  # between two looks at `stop`


class WorkerLostError(EngineError):
    """A worker process that died again and again."""


class Task(Protocol[B_contra, R_co]):
    """Work that can be opened in any process; its attributes are plain values."""

    @property
    def device(self) -> str:
        """`cpu`, or `cuda` where workers share out the GPUs."""

    def open(self) -> Callable[[B_contra], R_co]:
        """Load what the work needs; the returned function works on one batch, the same way wherever it runs."""


def map_unordered(
    task: Task[B, R], batches: Iterable[B], *, workers: int, stop: Callable[[], bool] = never
) -> Iterator[R]:
    """Results of batches as they finish, in any order.

    Batches are made as they are needed; once `stop()` is true no further ones are begun or awaited.

    With one worker everything happens in this process, without Ray. A worker process that dies, or whose node does, is
    replaced and its batch repeated elsewhere, three times at most.

    Raises:
        WorkerLostError: a worker died more often.
    """
    return _here(task, batches, stop) if workers <= 1 else _on_actors(task, batches, workers, stop)


def _here(task: Task[B, R], batches: Iterable[B], stop: Callable[[], bool]) -> Iterator[R]:
    work: Callable[[B], R] | None = None
    for batch in batches:
        if stop():
            return
        with one_thread():
            work = work or task.open()
            result = work(batch)
        yield result


def _on_actors(task: Task[B, R], batches: Iterable[B], workers: int, stop: Callable[[], bool]) -> Iterator[R]:
    cluster.start(workers)
    cluster.demand(1, _gpus(task, workers) if task.device == "cuda" else None)
    crew = _Crew(task, min(workers, int(sum(cluster.resources("CPU")))), batches)
    try:
        while crew.has_work and not stop():
            yield from crew.results()
    finally:
        crew.dismiss()


@dataclass
class _Piece:
    """A batch and how many workers died over it."""

    batch: Any
    deaths: int = 0


class _Crew:
    """Workers on actors. They begin as the cluster has room for them; one that died is replaced, its batch repeated.

    A batch is given to workers that have begun only: one that a lost node leaves no room for holds nothing up.
    """

    def __init__(self, task: Task[Any, Any], workers: int, batches: Iterable[Any]) -> None:
        self._ray = cluster.quiet_ray()
        self._actor = self._ray.remote(_Worker).options(num_cpus=1, num_gpus=_gpus(task, workers))
        self._task = task
        self._batches = iter(batches)
        self._again: deque[_Piece] = deque()
        self._next: _Piece | None = None
        self._running: dict[Any, tuple[Any, _Piece | None]] = {}
        self._idle: list[Any] = []
        self._failed_starts = 0
        self._look()
        for _ in range(workers if self._next else 0):
            self._hire()

    def _look(self) -> None:
        """Make the next piece, where there is none yet and there is one to come."""
        if self._next is None:
            self._next = next((_Piece(batch) for batch in self._batches), None)

    @property
    def has_work(self) -> bool:
        """Whether a batch is under way or waits."""
        return bool(self._next or self._again or any(piece for _, piece in self._running.values()))

    def results(self) -> Iterator[Any]:
        """What arrives within a moment."""
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_PATIENCE_SECONDS)
        for reference in ready:
            actor, piece = self._running.pop(reference)
            try:
                result = _result(self._ray, reference)
            except _LostError as e:
                self._replace(piece, e)
                continue
            self._give(actor)
            if piece is not None:
                yield result

    def _hire(self) -> None:
        actor = self._actor.remote(self._task)
        self._running[actor.begin.remote()] = actor, None

    def _give(self, actor: Any) -> None:
        """The next piece to a worker; the one after it is made when that is asked for."""
        piece = self._again.popleft() if self._again else self._next
        if piece is None:
            self._idle.append(actor)
            return
        if piece is self._next:
            self._next = None
        self._running[actor.work.remote(piece.batch)] = actor, piece
        self._look()

    def _replace(self, piece: _Piece | None, error: _LostError) -> None:
        if piece is None:
            self._failed_starts += 1
        else:
            piece.deaths += 1
            self._again.append(piece)
        if max(self._failed_starts, piece.deaths if piece else 0) > RESTARTS:
            raise WorkerLostError(
                f"a worker process died {RESTARTS + 1} times ({error}), most likely for want of memory; "
                "start again with fewer workers (--set sample.workers=1 --set table.workers=1)"
            )
        if self._idle and self._again:
            self._give(self._idle.pop())
        self._hire()

    def dismiss(self) -> None:
        """End all workers."""
        for actor in [*self._idle, *(actor for actor, _ in self._running.values())]:
            self._ray.kill(actor)


class _LostError(Exception):
    """A worker process or its node is gone."""


def _gpus(task: Task[Any, Any], workers: int) -> float:
    """GPUs of a worker: what the task asks for, else its share of what there is."""
    if task.device != "cuda":
        return 0.0
    return float(getattr(task, "gpus", None) or cluster.gpu_share(workers))


def _result(ray: Any, reference: Any) -> Any:
    """What a worker returned; the error of a task is raised as it was, without Ray's account of it."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as e:
        if isinstance(e.cause, EngineError):
            raise e.cause from None
        raise
    except ray.exceptions.RayError as e:
        raise _LostError(type(e).__name__) from None


class _Worker:
    """A process that opens the task at its first batch, so that the task's errors are ordinary ones."""

    def __init__(self, task: Task[Any, Any]) -> None:
        self._task = task
        self._work: Callable[[Any], Any] | None = None

    def begin(self) -> None:
        """Answers once the process runs."""

    def work(self, batch: Any) -> Any:
        with one_thread():
            self._work = self._work or self._task.open()
            return self._work(batch)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread within the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
