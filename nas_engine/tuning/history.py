"""The record of a search: one JSON line an event, the only truth about its trials.

`ask` (a trial begins), `reject` (a proposal that was not trained), `epoch` and `end` are written before anything acts
on them, in an order that can be replayed. Wall-clock seconds lie in a file of their own, so that the records of two
equal searches are equal byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search_spaces.errors import RunError

from ..files import Record

RUNNING, FINISHED, STOPPED, FAILED, DIVERGED = "running", "finished", "stopped", "failed", "diverged"
TRAINED = (FINISHED, STOPPED)


@dataclass
class Trial:
    """A trial as its events tell it. `ask` is the place of its proposal among all proposals."""

    number: int
    ask: int
    code: str
    costs: dict[str, float]
    epochs: list[dict[str, Any]] = field(default_factory=list)
    state: str = RUNNING
    error: str | None = None

    @property
    def accuracy(self) -> float | None:
        """Validation accuracy of the last epoch, whose weights are the ones kept."""
        return float(self.epochs[-1]["accuracy"]) if self.epochs else None


@dataclass(frozen=True)
class TrialSummary:
    """A trial as its readers want it; accuracy and loss on validation images after `epochs` epochs.

    Attributes:
        number: of the trial, from 0.
        code: the architecture.
        state: `finished`, `stopped` (early), `failed`, `diverged`, or `running` where the search was interrupted.
        seconds: of training.
        error: why it failed or diverged.
    """

    number: int
    code: str
    state: str
    epochs: int
    accuracy: float | None
    loss: float | None
    seconds: float
    error: str | None


class History:
    """Events of a search, read when opened and appended to, and the trials they amount to.

    Attributes:
        trials: by number, in the order in which they began.
        proposals: the `ask` and `reject` events; the position of one is its Optuna trial number.
    """

    def __init__(self, directory: Path) -> None:
        self._record = Record(directory / "trials.jsonl")
        self._seconds = Record(directory / "seconds.jsonl")
        self.trials: dict[int, Trial] = {}
        self.proposals: list[dict[str, Any]] = []
        for line, row in enumerate(self._record.rows, 1):
            try:
                self._apply(row)
            except (KeyError, TypeError, ValueError):
                raise RunError(
                    f"{self._record.path}, line {line} does not fit the lines before it; remove it and those after it, "
                    "and start again"
                ) from None

    def asked(self, code: str, proposal: dict[str, Any]) -> Trial:
        """A new trial begins; its number is the next free one."""
        number = len(self.trials)
        self._append({"event": "ask", "trial": number, "ask": len(self.proposals), "code": code, **proposal})
        return self.trials[number]

    def rejected(self, code: str, reason: str, values: list[float] | None, proposal: dict[str, Any]) -> None:
        """A proposal that is not trained; `values` are what the sampler is told instead, None for nothing."""
        row = {"event": "reject", "ask": len(self.proposals), "code": code, "reason": reason, "values": values}
        self._append({**row, **proposal}, durable=False)  # drawn again if it is lost; the next trial's row follows

    def epoch(self, number: int, result: dict[str, Any], seconds: float, *, last: bool = False) -> None:
        """A finished epoch of a trial.

        The last one leads to another trial at most, whose row makes this one durable; lost, it is measured again.
        """
        row = {"trial": number, "epoch": result["epoch"], "seconds": round(seconds, 3)}
        self._seconds.append(row, durable=False)  # nothing follows from it
        self._append({"event": "epoch", "trial": number, **result}, durable=not last)

    def ended(self, number: int, state: str, error: str | None = None) -> None:
        """A trial is over."""
        row = {"event": "end", "trial": number, "state": state, "error": error}
        self._append(row, durable=state not in TRAINED)  # what an epoch decided, its row tells again

    def _append(self, row: dict[str, Any], *, durable: bool = True) -> None:
        self._record.append(row, durable=durable)
        self._apply(self._record.rows[-1])

    def _apply(self, row: dict[str, Any]) -> None:
        event = row["event"]
        if event in ("ask", "reject"):
            if row["ask"] != len(self.proposals):
                raise ValueError(row["ask"])
            self.proposals.append(row)
        if event == "ask":
            self.trials[row["trial"]] = Trial(row["trial"], row["ask"], row["code"], row["costs"])
        elif event == "epoch":
            self.trials[row["trial"]].epochs.append(row)
        elif event == "end":
            trial = self.trials[row["trial"]]
            trial.state, trial.error = row["state"], row["error"]
        elif event != "reject":
            raise ValueError(event)

    def sync(self) -> None:
        """All events are on the disk when this returns."""
        self._record.sync()

    # ---- reading -----------------------------------------------------------------------------------------

    @property
    def unfinished(self) -> list[Trial]:
        """Trials that began and did not end."""
        return [t for t in self.trials.values() if t.state == RUNNING]

    @property
    def epochs(self) -> Iterator[dict[str, Any]]:
        """All epochs of all trials in the order in which they were reported."""
        return (row for row in self._record.rows if row["event"] == "epoch")

    def count(self, state: str) -> int:
        """How many trials are in a state."""
        return sum(t.state == state for t in self.trials.values())

    def seconds(self, number: int) -> float:
        """Training time of a trial; an epoch that was measured twice counts once."""
        spent = {r["epoch"]: float(r["seconds"]) for r in self._seconds.rows if r["trial"] == number}
        return sum(spent.values())

    def summaries(self) -> list[TrialSummary]:
        """Every trial by number."""
        return [
            TrialSummary(
                number=t.number,
                code=t.code,
                state=t.state,
                epochs=len(t.epochs),
                accuracy=t.accuracy,
                loss=float(t.epochs[-1]["loss"]) if t.epochs else None,
                seconds=self.seconds(t.number),
                error=t.error,
            )
            for t in self.trials.values()
        ]


def read_trials(directory: Path) -> list[TrialSummary]:
    """The trials of the run in `directory`; none where it has not searched yet."""
    return History(directory / "search").summaries()
