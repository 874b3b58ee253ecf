"""Searches without Ray, in this process: against recorded results for tests and benchmarks of what decides.

The conductor is the one that Ray Tune runs under, so that samplers, early stopping and resuming are tried in
seconds on tables of known accuracies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .conductor import Conductor, SearchJob, SearchOutcome
from .history import Trial

Trainer = Callable[[Trial], Iterable[dict[str, Any]]]
"""From a trial to its epochs, each with the fields of `CandidateResult`; epochs of before may come again."""


def recorded(accuracies: Callable[[str], Sequence[float]]) -> Trainer:
    """Trains by looking up: `accuracies(code)` are those after epoch 1, 2, ..."""

    def train(trial: Trial) -> Iterator[dict[str, Any]]:
        for epoch, accuracy in enumerate(accuracies(trial.code), 1):
            loss = 1.0 - accuracy
            yield {"epoch": epoch, "accuracy": accuracy, "loss": loss, "train_loss": loss, "seconds": 0.0}

    return train


def search_recorded(job: SearchJob, train: Trainer) -> SearchOutcome:
    """Run or continue a search with a given trainer. Concurrent trials take turns, an epoch each.

    An error of the trainer ends the trial as failed.
    """
    conductor = Conductor(job)
    running: deque[tuple[Trial, Iterator[dict[str, Any]]]] = deque()
    while not job.stop():
        while len(running) < job.config.search.concurrency:
            trial = conductor.next()
            if trial is None:
                break
            running.append((trial, iter(train(trial))))
        if not running:
            break
        trial, epochs = running.popleft()
        if _step(conductor, trial, epochs):
            running.append((trial, epochs))
    return conductor.outcome()


def _step(conductor: Conductor, trial: Trial, epochs: Iterator[dict[str, Any]]) -> bool:
    """Train one epoch; whether the trial goes on."""
    try:
        result = next(epochs)
    except StopIteration:
        conductor.fail(trial.number, "the record has no further epoch")
        return False
    except Exception as e:
        conductor.fail(trial.number, f"{type(e).__name__}: {e}")
        return False
    return conductor.report(trial.number, result)
