"""How far a run is: live with rich on a terminal, plain lines otherwise.

Stages call `progress(event, details)`; events are `stage` (name, state: start, done, skipped; text), `step` (text,
done, total), `note` and `warning` (text). Anything with that signature can listen in.
"""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def silent(event: str, details: dict[str, Any]) -> None:
    """Listens to nothing."""


class Reporter:
    """Prints progress; a context manager, so that the live line is cleared at the end.

    Args:
        stream: where to print; standard error by default, so that standard output stays machine-readable.
        interval: seconds between two plain lines of one stage.
    """

    def __init__(self, stream: TextIO | None = None, interval: float = 10.0) -> None:
        self.console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._interval = interval
        self._last = 0.0
        self._bar: Progress | None = None
        if self.console.is_terminal:
            text = TextColumn("  {task.description}", markup=False)
            columns = (text, BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("", total=None, visible=False)

    def __enter__(self) -> Reporter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, event: str, details: dict[str, Any]) -> None:
        getattr(self, f"_{event}", self._note)(details)

    def _stage(self, details: dict[str, Any]) -> None:
        mark = {"start": "[bold]>[/bold]", "done": "[green]✓[/green]", "skipped": "[dim]✓[/dim]"}[details["state"]]
        text = escape(details.get("text", ""))
        style = "dim" if details["state"] == "skipped" else None
        if self._bar is not None:
            self._bar.update(self._task, visible=False)
        self._last = 0.0
        self.console.print(f"{mark} {details['name']:<9} {text}", style=style)

    def _step(self, details: dict[str, Any]) -> None:
        text, done, total = details["text"], details.get("done"), details.get("total")
        if self._bar is not None:
            self._bar.update(self._task, description=text, completed=done or 0, total=total, visible=True)
            return
        now = time.monotonic()
        if now - self._last >= self._interval or (done is not None and done == total):
            self._last = now
            self.console.print(f"  {text}" + (f" {done}/{total}" if total else ""), markup=False)

    def _note(self, details: dict[str, Any]) -> None:
        self.console.print(f"  {details['text']}", markup=False)

    def _warning(self, details: dict[str, Any]) -> None:
        self.console.print(f"! {details['text']}", style="yellow", markup=False)
