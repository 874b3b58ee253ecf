"""What runs in a trial's process: train a candidate, report each epoch, go on from its checkpoint after a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..files import WriteError
from ..remote import NodeFiles, node_files
from ..train import Candidate, CandidateResult, Given, Training, finished_epochs, train_candidate, train_given
from ..train.loop import DivergedError

_LONGEST_ERROR = 300


def epochs_of(request: Candidate) -> Iterator[CandidateResult]:
    """The epochs of a candidate, those of its checkpoint first.

    Raises:
        DivergedError: the loss, in training or on validation images, is no longer a number.
    """
    return map(_checked, train_candidate(request))


def _checked(result: CandidateResult) -> CandidateResult:
    if not math.isfinite(result.loss):
        raise DivergedError(
            f"the validation loss became {result.loss} in epoch {result.epoch}; lower the learning rate"
        )
    return result


def tune_trial(config: dict[str, Any]) -> None:
    """Ray Tune's trainable for a candidate; `config` holds the request as JSON."""
    files = node_files(Path(config["directory"]), config["uri"])
    request = Candidate.model_validate_json(config["request"])
    _told(request, files, lambda: epochs_of(brought(request, files)))


def tune_baseline(config: dict[str, Any]) -> None:
    """Ray Tune's trainable for a network that is given."""
    files = node_files(Path(config["directory"]), config["uri"])
    request = Given.model_validate_json(config["request"])
    _told(request, files, lambda: map(_checked, train_given(given_here(request, files))))


def _told(request: Training, files: NodeFiles, train: Callable[[], Iterator[CandidateResult]]) -> None:
    """Tell Tune of each epoch of a training, and how it ended.

    Divergence is a result: it would come again, so nothing is to be gained by repeating the trial. A full disk is no
    fault of the candidate: the search is to stop, and to go on with this trial once there is space. Other errors are
    told before they are raised, for Tune hands on the exceptions of a trial as long texts only.
    """
    from ray import tune

    try:
        for result in train():
            files.push(request.checkpoint)  # before anybody acts on the epoch
            tune.report(result.model_dump())
    except DivergedError as e:
        tune.report({"diverged": str(e)})
    except WriteError as e:
        tune.report({"stop": str(e)})
    except Exception as e:
        tune.report({"error": one_line(e)})
        raise
    finally:
        files.drop(request.checkpoint)


def brought(request: Candidate, files: NodeFiles) -> Candidate:
    """A request whose weights and checkpoint are at hand in this process.

    A checkpoint that cannot be read is dropped, so that the trial starts afresh instead of failing for ever.
    """
    supernet, teacher = (path and files.fetch(path) for path in (request.supernet, request.teacher))
    checkpoint = files.fetch(request.checkpoint)
    remove_damaged(checkpoint)
    return request.model_copy(update={"supernet": supernet, "teacher": teacher, "checkpoint": checkpoint})


def given_here(request: Given, files: NodeFiles) -> Given:
    """A request whose graph, weights and checkpoint are at hand in this process; see `brought`."""
    graph, initial = files.fetch(request.graph), request.initial and files.fetch(request.initial)
    checkpoint = files.fetch(request.checkpoint)
    remove_damaged(checkpoint)
    return request.model_copy(update={"graph": graph, "initial": initial, "checkpoint": checkpoint})


def one_line(error: BaseException) -> str:
    """The kind of an error and the last line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"[:_LONGEST_ERROR]


def remove_damaged(checkpoint: Path) -> bool:
    """Drop a checkpoint that cannot be read; whether there was one."""
    from search_spaces.errors import RunError

    try:
        if checkpoint.exists():
            finished_epochs(checkpoint)
    except (RunError, KeyError, TypeError):
        checkpoint.unlink(missing_ok=True)
        return True
    return False
