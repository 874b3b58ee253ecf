"""One way to spread batches: a task is opened once a worker, then works on batches, here or on Ray actors.

A task is plain values that travel; what it opens (a supernet, a predictor) stays where it was opened. Workers
compute on one thread each, so that results do not depend on where a batch was worked on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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

    With one worker everything happens in this process, without Ray. A worker process that dies is started again
    and its batch repeated, three times each.

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
    cluster.demand(1, gpu=task.device == "cuda")
    ray = cluster.quiet_ray()
    actors = _actors(ray, task, min(workers, int(sum(cluster.resources("CPU")))))
    waiting = iter(batches)
    running: dict[Any, Any] = {}
    try:
        for actor in actors:
            _give(running, actor, waiting)
        while running and not stop():
            ready, _ = ray.wait(list(running), num_returns=1, timeout=_PATIENCE_SECONDS)
            for reference in ready:
                actor = running.pop(reference)
                result = _result(ray, reference)
                _give(running, actor, waiting)
                yield result
    finally:
        for actor in actors:
            ray.kill(actor)


def _actors(ray: Any, task: Task[Any, Any], workers: int) -> list[Any]:
    actor = ray.remote(_Worker).options(
        num_cpus=1,
        num_gpus=cluster.gpu_share(workers) if task.device == "cuda" else 0.0,
        max_restarts=RESTARTS,
        max_task_retries=RESTARTS,
    )
    return [actor.remote(task) for _ in range(workers)]


def _give(running: dict[Any, Any], actor: Any, waiting: Iterator[Any]) -> None:
    for batch in waiting:
        running[actor.work.remote(batch)] = actor
        return


def _result(ray: Any, reference: Any) -> Any:
    """A finished batch; the error of a task is raised as it was, without Ray's account of it."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as e:
        if isinstance(e.cause, EngineError):
            raise e.cause from None
        raise
    except ray.exceptions.RayError as e:
        raise WorkerLostError(
            f"a worker process died {RESTARTS + 1} times ({type(e).__name__}), most likely for want of memory; "
            "start again with fewer workers (--set sample.workers=1 --set table.workers=1)"
        ) from None


class _Worker:
    """A process that opens the task at its first batch, so that the task's errors are ordinary ones."""

    def __init__(self, task: Task[Any, Any]) -> None:
        self._task = task
        self._work: Callable[[Any], Any] | None = None

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
