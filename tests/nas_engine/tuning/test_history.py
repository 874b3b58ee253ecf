"""The record and what it amounts to."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas_engine.tuning import read_trials
from nas_engine.tuning.history import History
from search_spaces import EngineError

PROPOSAL = {"params": {}, "costs": {"params": 7.0}, "attributes": {}}
EPOCH = {"accuracy": 0.5, "loss": 1.5, "train_loss": 1.7}


def fill(directory: Path) -> History:
    history = History(directory / "search")
    history.asked("a", PROPOSAL)
    history.rejected("b", "breaks params <= 5", [0.0, 7.0], PROPOSAL)
    history.epoch(0, {"epoch": 1, **EPOCH}, 2.5)
    history.asked("c", PROPOSAL)
    history.epoch(0, {"epoch": 2, **EPOCH, "accuracy": 0.6}, 2.0)
    history.ended(0, "finished")
    history.ended(1, "failed", "RuntimeError: out of memory")
    history.asked("d", PROPOSAL)
    return history


def test_read_back_as_written(tmp_path: Path) -> None:
    written, read = fill(tmp_path), History(tmp_path / "search")
    assert read.trials == written.trials
    assert read.proposals == written.proposals
    assert [t.number for t in read.unfinished] == [2]
    assert [row["epoch"] for row in read.epochs] == [1, 2]


def test_summaries(tmp_path: Path) -> None:
    fill(tmp_path)
    first, second, third = read_trials(tmp_path)
    assert (first.code, first.state, first.epochs, first.accuracy, first.loss) == ("a", "finished", 2, 0.6, 1.5)
    assert first.seconds == 4.5
    assert (second.state, second.accuracy, second.error) == ("failed", None, "RuntimeError: out of memory")
    assert (third.state, third.epochs, third.seconds) == ("running", 0, 0.0)


def test_an_epoch_measured_twice_counts_once(tmp_path: Path) -> None:
    """A kill may come between the seconds of an epoch and the epoch itself."""
    history = fill(tmp_path)
    history._seconds.append({"trial": 2, "epoch": 1, "seconds": 1.0})
    history.epoch(2, {"epoch": 1, **EPOCH}, 3.0)
    assert read_trials(tmp_path)[2].seconds == 3.0


def test_seconds_are_not_in_the_record(tmp_path: Path) -> None:
    fill(tmp_path)
    assert "seconds" not in (tmp_path / "search" / "trials.jsonl").read_text()


def test_nothing_searched_yet(tmp_path: Path) -> None:
    assert read_trials(tmp_path) == []


def test_a_torn_line_is_dropped(tmp_path: Path) -> None:
    fill(tmp_path)
    path = tmp_path / "search" / "trials.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert len(read_trials(tmp_path)) == 2


@pytest.mark.parametrize(
    "line", ['{"event":"epoch","trial":9,"epoch":1}', '{"event":"ask","trial":3,"ask":9}', '{"event":"hop"}', "7"]
)
def test_a_line_that_does_not_fit_is_named(tmp_path: Path, line: str) -> None:
    fill(tmp_path)
    with (tmp_path / "search" / "trials.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(EngineError, match="line 9"):
        read_trials(tmp_path)
