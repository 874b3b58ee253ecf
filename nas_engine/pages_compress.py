"""What the command line shows of a compression: before and after in one table, and what to make of it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from .show import TITLES, duration, figure, milliseconds, percent, table

Row = Mapping[str, Any]
_STATES = ("before", "cut", "after")


def compressed(report: Row) -> Iterator[Any]:
    """The report of a compression."""
    states = [state for state in _STATES if state in report["accuracy"]]
    yield ""
    columns = ("figure", *states, "change")
    yield table(_rows(report, states), columns, right=(*states, "change"), figure="", cut="after the cut")
    threads = report["threads"]
    yield (
        f"latencies are medians with interquartile ranges, measured in turns on {threads} thread{_plural(threads)}; "
        f"accuracies of {report['images']['validation']:,} validation and {report['images']['test']:,} test images"
    )
    if "cut" in states:
        schedule = report["schedule"]
        trained = "not trained yet"
        if schedule["name"] != "one_shot":
            trained = f"after {schedule['epochs']} epochs of training while channels went"
        yield f"after the cut: batch norms recalibrated, {trained}"
    yield ""
    for words in report["words"]:
        yield textwrap.fill(words.replace(" %", "\u00a0%"), 110, subsequent_indent="  ")
    for warning in report["warnings"]:
        yield f"! {warning}"
    yield ""
    yield from _what(report)


def _what(report: Row) -> Iterator[str]:
    """What was cut, and where everything is."""
    cut = {name: widths for name, widths in report["widths"].items() if widths[0] != widths[1]}
    gone = report["without"]
    if cut:
        listed = ", ".join(f"{name} {before} to {after}" for name, (before, after) in list(cut.items())[:6])
        more = f" and {len(cut) - 6} more" if len(cut) > 6 else ""
        rounded = f" (multiples of {report['multiple']} where wide enough)" if report["multiple"] > 1 else ""
        yield f"widths{rounded}: {listed}{more}"
    if gone:
        yield f"left out: {', '.join(gone)}"
    held = [f for f in report["uncuttable"] if "output of the network" not in f["reason"]]
    for frozen in held[:2]:
        yield f"cannot be cut: the {frozen['channels']:,} channels of {frozen['node']}: {frozen['reason']}"
    if len(held) > 2:
        yield f"cannot be cut: channels of {len(held) - 2} more layers, with reasons under uncuttable in report.json"
    yield f"choices: {report['choices']}"
    yield f"bundle:  {report['bundle']}"
    yield f"took {duration(report['seconds'])}"


def _rows(report: Row, states: list[str]) -> Iterator[dict[str, str]]:
    for part in ("validation", "test"):
        found = {state: report["accuracy"][state][part] for state in states}
        points = f"{100 * (found['after'] - found['before']):+.1f} points"
        yield {"figure": f"accuracy, {part}", **{s: percent(v) for s, v in found.items()}, "change": points}
    for name in report["costs"]["before"]:
        before, after = (report["costs"][state][name] for state in ("before", "after"))
        shown = {"before": figure(name, before), "after": figure(name, after)}
        yield {"figure": TITLES[name], **dict.fromkeys(states, ""), **shown, "change": _change(after / before)}
    for setting, times in report["latency"].items():
        runtime, _, batch = setting.rpartition("_")
        shown = {state: _timed(times[state]) for state in ("before", "after")}
        share = times["after"]["median_ms"] / times["before"]["median_ms"]
        named = {"figure": f"latency, {runtime}, batch {batch}"}
        yield {**named, **dict.fromkeys(states, ""), **shown, "change": _change(share)}


def _timed(times: Row) -> str:
    return f"{milliseconds(times['median_ms'])} +/- {milliseconds(times['iqr_ms']).removesuffix(' ms')}"


def _change(share: float) -> str:
    return f"{100 * (share - 1):+.0f} %"


def _plural(count: int) -> str:
    return "" if count == 1 else "s"
