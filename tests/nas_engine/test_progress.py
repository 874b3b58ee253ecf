"""What listens to a run: plain lines in a file or pipe, a live line on a terminal."""

from __future__ import annotations

import io

from nas_engine.progress import Reporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(stream: io.StringIO, interval: float = 0.0) -> str:
    with Reporter(stream, interval) as reporter:
        reporter("stage", {"name": "device", "state": "skipped", "text": "done before"})
        reporter("stage", {"name": "search", "state": "start", "text": "train [red]candidates[/red] [/x]"})
        for done in range(4):
            reporter("step", {"text": "trials [1]", "done": done, "total": 3})
        reporter("step", {"text": "no total", "done": 5, "total": None})
        reporter("note", {"text": "a [bold]note"})
        reporter("warning", {"text": "a [/warning]"})
        reporter("a new event", {"text": "still told"})
        reporter("stage", {"name": "search", "state": "done"})
    return stream.getvalue()


def test_plain_lines_show_texts_as_they_are() -> None:
    assert told(io.StringIO()).splitlines() == [
        "✓ device    done before",
        "> search    train [red]candidates[/red] [/x]",
        *(f"  trials [1] {done}/3" for done in range(4)),
        "  no total",
        "  a [bold]note",
        "! a [/warning]",
        "  still told",
        "✓ search    ",
    ]


def test_plain_lines_are_few_but_the_last_step_is_told() -> None:
    assert [line for line in told(io.StringIO(), interval=3600).splitlines() if "trials" in line] == [
        "  trials [1] 0/3",
        "  trials [1] 3/3",
    ]


def test_a_terminal_gets_the_same_news_and_a_live_line() -> None:
    text = told(Terminal())
    for piece in ("done before", "train [red]candidates[/red] [/x]", "a [bold]note", "a [/warning]", "still told"):
        assert piece in text
    assert "\x1b[?25h" in text, "the cursor is shown again"
