"""A search killed at any moment and started again leaves the record of an undisturbed one, byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nas_engine.interrupt import Interrupt
from nas_engine.tuning import SearchJob, recorded, search_recorded
from nas_engine.tuning.history import Trial

Jobs = Callable[..., SearchJob]
Curves = Callable[[str], list[float]]
SETTINGS: dict[str, Any] = {"trials": 7, "epochs": 4, "grace_epochs": 1, "constraints": ["params <= 1400"]}


def content(job: SearchJob) -> bytes:
    return (job.folder / "trials.jsonl").read_bytes()


@pytest.mark.parametrize(("sampler", "rejections"), [("random", 50), ("random", 1), ("tpe", 50), ("nsga2", 50)])
def test_any_prefix_of_the_record_leads_to_the_same_end(
    job: Jobs, accuracies: Curves, tmp_path: Path, sampler: str, rejections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is left of the Optuna journal: all of it, a part, nothing, or a journal that is ahead of the record.

    With one rejection allowed, most trials come from the walk that helps a sampler out.
    """
    monkeypatch.setattr("nas_engine.tuning.proposals.REJECTIONS", rejections)
    monkeypatch.setattr("nas_engine.tuning.proposals._ENUMERABLE", 0)
    whole = job(sampler=sampler, **SETTINGS)
    search_recorded(whole, recorded(accuracies))
    lines = content(whole).splitlines(keepends=True)
    journal = (whole.folder / "optuna.journal").read_bytes()
    journals = [None, journal, journal[: len(journal) // 2], b"no journal\n"]
    for cut in range(0, len(lines), 2):
        part = job(sampler=sampler, directory=tmp_path / f"cut{cut}", **SETTINGS)
        part.folder.mkdir(parents=True)
        (part.folder / "trials.jsonl").write_bytes(b"".join(lines[:cut]) + lines[cut][:10])
        left = journals[cut // 2 % len(journals)]
        if left is not None:
            (part.folder / "optuna.journal").write_bytes(left)
        outcome = search_recorded(part, recorded(accuracies))
        assert outcome.state == "finished"
        assert content(part) == content(whole), f"after {cut} lines"


def test_a_journal_in_step_is_kept(job: Jobs, accuracies: Curves) -> None:
    made = job(**SETTINGS)
    stop = Interrupt()
    search_recorded(job(**SETTINGS, stop=stop), interrupting(recorded(accuracies), stop, after=6))
    before = (made.folder / "optuna.journal").read_bytes()
    search_recorded(made, recorded(accuracies))
    assert (made.folder / "optuna.journal").read_bytes().startswith(before)


def test_interrupted_and_continued(job: Jobs, accuracies: Curves, tmp_path: Path) -> None:
    whole = job(directory=tmp_path / "whole", **SETTINGS)
    search_recorded(whole, recorded(accuracies))
    for after in range(1, 20):
        stop = Interrupt()
        made = job(**SETTINGS, stop=stop)
        outcome = search_recorded(made, interrupting(recorded(accuracies), stop, after=1 + after % 5))
        if outcome.state == "finished":
            break
        assert outcome.state == "interrupted"
    assert outcome.state == "finished"
    assert content(made) == content(whole)


def test_more_trials_may_be_asked_for(job: Jobs, accuracies: Curves, tmp_path: Path) -> None:
    """Continued with more trials, a search is the longer one, where the sampler does not look at their number."""
    whole = job(directory=tmp_path / "whole", **SETTINGS)
    search_recorded(whole, recorded(accuracies))
    part = job(**{**SETTINGS, "trials": 3})
    assert search_recorded(part, recorded(accuracies)).state == "finished"
    assert content(whole).startswith(content(part))
    search_recorded(job(**SETTINGS), recorded(accuracies))
    assert content(part) == content(whole)


def test_concurrent_trials_go_on_with_their_numbers(job: Jobs, accuracies: Curves) -> None:
    stop = Interrupt()
    settings = {**SETTINGS, "concurrency": 3}
    made = job(**settings, stop=stop)
    assert search_recorded(made, interrupting(recorded(accuracies), stop, after=5)).state == "interrupted"
    first = content(made)
    outcome = search_recorded(job(**settings), recorded(accuracies))
    assert outcome.state == "finished"
    assert outcome.finished + outcome.stopped == SETTINGS["trials"]
    assert content(made).startswith(first)


def test_an_epoch_reported_again_changes_nothing(job: Jobs, accuracies: Curves, tmp_path: Path) -> None:
    """As after a lost worker, whose checkpoint's last epoch may have been reported."""
    whole = job(directory=tmp_path / "whole", **SETTINGS)
    search_recorded(whole, recorded(accuracies))

    def stammering(trial: Trial) -> Iterator[dict[str, Any]]:
        for result in recorded(accuracies)(trial):
            yield result
            yield result

    made = job(**SETTINGS)
    search_recorded(made, stammering)
    assert content(made) == content(whole)


def interrupting(train: Any, stop: Interrupt, after: int) -> Any:
    """A trainer that asks for the end after some epochs."""
    count = 0

    def wrapped(trial: Trial) -> Iterator[dict[str, Any]]:
        nonlocal count
        for result in train(trial):
            count += 1
            if count == after:
                stop.set()
            yield result

    return wrapped


def test_weights_left_by_a_record_that_is_gone_are_not_used(job: Jobs, accuracies: Curves) -> None:
    made = job(**SETTINGS)
    stale = made.checkpoint(2)
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"weights of another network")
    search_recorded(made, recorded(accuracies))
    assert not stale.exists()


def test_weights_of_an_unfinished_trial_are_kept(job: Jobs, accuracies: Curves) -> None:
    stop = Interrupt()
    made = job(**SETTINGS, stop=stop)
    search_recorded(made, interrupting(recorded(accuracies), stop, after=2))
    made.checkpoint(0).parent.mkdir(parents=True)
    made.checkpoint(0).touch()
    search_recorded(job(**SETTINGS), recorded(accuracies))
    assert made.checkpoint(0).exists()
