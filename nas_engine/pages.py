"""What the command line shows of each verb's result: texts and tables for `show.show`."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .quality import ACCURACY, QUALITIES
from .show import TITLES, duration, figure, table, whole

Row = Mapping[str, Any]
_TOLD = {"latency_ms": "", "macs": "MACs", "bytes_moved": "moved"}
_BESIDE = ("name", "accuracy", "test_accuracy", "latency_ms", "latency_ms_predicted", "params", "macs", "state")
_FRONT = ("trial", "id", "accuracy", "test_accuracy", "latency_ms", "params", "macs")


def profile(found: Row) -> Iterator[Any]:
    """Size of the space, costs, bounds, time."""
    space = found["profile"]
    looked_at = f"{whole(found['distinct_sampled'])} distinct ones costed"
    yield f"space    {found['space']}: {whole(found['size'])} members, {looked_at}"
    yield f"device   {_device(found)}"
    yield ""
    extents = [{k: _amount(e, k) for k in ("cost", "smallest", "median", "largest")} for e in space["extents"]]
    yield table(extents, ("cost", "smallest", "median", "largest"), right=("smallest", "median", "largest"))
    yield ""
    for verdict in space["bounds"]:
        mark = "no  " if not verdict["satisfiable"] else "note" if verdict["trivial"] else "ok  "
        yield f"{mark} {verdict['words']}"
    if len(space["bounds"]) > 1:
        yield f"     all bounds together: {figure('accuracy', space['share'])} of the members costed"
    if space["bounds"]:
        yield ""
    yield from _slowness(space.get("inefficiencies", ()))
    yield table(found["stages"], ("stage", "seconds", "words"), seconds="about", words="work")
    total = sum(row["seconds"] or 0 for row in found["stages"])
    yield f"about {duration(total)} in all, as estimated from a few timed steps"


def _slowness(members: Sequence[Row]) -> Iterator[Any]:
    """What makes members slower than their arithmetic, sentence by sentence."""
    if not members:
        return
    yield "why members are not faster (guidelines of ShuffleNet V2; bytes are those moved for one input)"
    for member in members:
        told = [f"{figure(name, member['costs'].get(name))} {what}".rstrip() for name, what in _TOLD.items()]
        yield f"  {member['which']} member {member['code']}: {', '.join(told)}"
        for words in member["words"]:
            whole_percents = words.replace(" %", "\u00a0%")
            yield textwrap.fill(whole_percents, 100, initial_indent="    ", subsequent_indent="        ")
    yield ""


def _device(found: Row) -> str:
    shown = {k: v for k, v in found["device"].items() if v not in (None, "", False)}
    return ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in shown.items())


def _amount(extent: Row, key: str) -> str:
    cost = extent["cost"]
    return str(TITLES.get(cost, cost)) if key == "cost" else figure(cost, extent[key])


def search(outcome: Row) -> Iterator[Any]:
    """The front, what was exported, and what can be asked next."""
    networks: Sequence[Row] = outcome["networks"]
    yield ""
    rows = [{**row, "chosen": "yes" if row["chosen"] else ""} for row in networks]
    quality = QUALITIES[outcome["quality"]]
    yield table(
        rows,
        (*_FRONT, "chosen"),
        quality=quality,
        accuracy="validation" if quality.name == ACCURACY.name else f"validation {quality.name}",
    )
    front = f"the front of measured {quality.name} and cost"
    yield f"{len(networks)} of {outcome['trained']} trained networks are on {front}"
    if outcome["hypervolume"] is not None:
        yield f"hypervolume of the trained networks: {outcome['hypervolume']:.3f} of 1"
    yield from _baselines(outcome)
    for warning in outcome["warnings"]:
        yield f"! {warning}"
    bundles = [row["bundle"] for row in networks if row["bundle"]]
    if bundles:
        yield "exported, each form read again and compared with its network:"
        yield from (f"  {path}" for path in bundles)
    yield f"report: {outcome['report']}"
    run = shlex.quote(outcome["run"])
    yield f"next:\n  nas-engine table query {run} --where 'latency_ms < 2'\n  nas-engine export {run} --trial N"


def _baselines(outcome: Row) -> Iterator[Any]:
    """Networks of others, and how the chosen ones stand beside them."""
    if not outcome["baselines"]:
        return
    yield ""
    rows = [{**row, "state": "" if row["state"] == "finished" else row["state"]} for row in outcome["baselines"]]
    yield table(rows, _BESIDE, name="baseline", accuracy="validation", state="")
    yield from (comparison["words"] for comparison in outcome["comparisons"])


def status(found: Row) -> Iterator[Any]:
    """The stages of a run and the command that continues it."""
    yield f"{found['run']}: {found['state']}"
    yield table(found["stages"], ("stage", "state", "seconds", "text"), seconds="time", text="result")
    if found["state"] == "stopped":
        yield f"go on with: {found['command']}"
    if found["report"]:
        yield f"report: {found['report']}"


def runs(rows: Sequence[Row]) -> Iterator[Any]:
    """One line a run; problems of damaged ones below."""
    if not rows:
        yield "no runs yet; begin with: nas-engine init"
        return
    columns = ("run", "state", "stage", "networks", "accuracy", "test_accuracy", "changed")
    shown = [{**row, "quality": QUALITIES[row.get("quality", "accuracy")]} for row in rows]
    yield table(shown, columns, stage="at stage", accuracy="validation")
    for row in rows:
        if "problem" in row:
            yield f"! {row['run']}: {row['problem']}"


def registered(rows: Sequence[Row]) -> Iterator[Any]:
    """Names and what they are."""
    columns = dict.fromkeys(key for row in rows for key in row)
    yield table(rows, columns)
