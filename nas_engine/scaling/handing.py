"""What users take away: the report with what to make of it, and the members as bundles with fresh weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from search_spaces.graph import Graph
from search_spaces.scaling import Scaling

from ..compress.workplace import Workplace
from ..export import Card, export_bundle
from ..files import Progress
from ..show import figure, milliseconds
from .base import Base
from .request import Request
from .solving import NEAR

RULES_IN_WORDS = {
    "compound": "depth, width and resolution together (Tan and Le 2019)",
    "dwr": "most into the width (fast compound scaling, Dollar et al. 2021)",
    "depth": "depth alone",
    "width": "width alone",
    "resolution": "resolution alone",
}
_DOUBTFUL = 0.25  # error of predicted latencies from which on it is told
_ALIKE = 0.1  # difference of logarithms of MACs up to which no exponent is told
_BUSY = 0.5  # spread of measured ones, as a share of the median, from which on it is told
_SAMPLES = 2  # random images that a bundle's forms are compared on
Row = Mapping[str, Any]
Times = Mapping[str, Mapping[str, float]]


def report(
    request: Request,
    base: Base,
    place: Workplace,
    found: Mapping[str, Any],
    measured: Times,
    device: Mapping[str, Any],
    latency: Mapping[str, Any],
) -> dict[str, Any]:
    """All figures of a scaling, but for its bundles, its page and its duration.

    Args:
        found: members of all rules, and why some rules have none.
        measured: latencies by the members' labels.
        device: its profile; latency: what is known of its latency model.
    """
    members = [{**row, "measured": measured.get(row["label"])} for row in found["members"]]
    return {
        "model": request.model,
        "name": base.name,
        "source": base.source,
        "notes": list(base.notes),
        "rule": request.rule,
        "rules": [name for name in request.rules if name not in found["impossible"]],
        "exponents": {"alpha": request.alpha, "beta": request.beta, "gamma": request.gamma, "a": request.a},
        "phi": request.phi,
        "to": list(request.to),
        "classes": base.classes,
        "members": members,
        "impossible": dict(found["impossible"]),
        "words": list(words_of(request, members)),
        "warnings": [w for w in _warnings(request, base, members) if w],
        "device": dict(device),
        "latency": dict(latency),
        "out": str(place.path),
    }


def at_end(rows: Sequence[Row], rule: str) -> list[Row]:
    """The last member of each rule, that of the one asked for first."""
    last = {row["rule"]: row for row in rows if row["rule"]}
    return [last[rule], *(row for name, row in last.items() if name != rule)]


def time_of(row: Row) -> float:
    """Milliseconds as they were measured, or else as predicted."""
    return float(row["measured"]["median_ms"] if row["measured"] else row["latency_ms"])


def undisturbed(row: Row) -> float:
    """Milliseconds when nothing else runs, as measured or else as predicted."""
    return float(row["measured"]["low_ms"] if row["measured"] else row["latency_ms"])


# ---- words -------------------------------------------------------------------------------------------------


def words_of(request: Request, members: Sequence[Row]) -> Iterator[str]:
    base, ends = members[0], at_end(members, request.rule)
    own = ends[0]
    share = own["shares"]
    yield (
        f"{own['label']}: {figure('macs', own['macs'])} MACs ({share['macs']:.3g}x), "
        f"{figure('params', own['params'])} parameters ({share['params']:.3g}x), {milliseconds(time_of(own))} "
        f"({time_of(own) / time_of(base):.3g}x), at {own['input'][1]} pixels"
    )
    if len(ends) < 2:
        return
    if any(t.metric == "latency_ms" for t in request.goals):
        yield _by_arithmetic(ends)
    else:
        yield _by_time(base, ends)


def _by_time(base: Row, ends: Sequence[Row]) -> str:
    """By which rule time is the least for the arithmetic; rounding leaves them at different MACs, so by exponents."""
    powers = {row["rule"]: power(row["shares"]["macs"], undisturbed(row) / undisturbed(base)) for row in ends}
    known = sorted((value, name) for name, value in powers.items() if value is not None)
    if not known:
        return "the members differ too little in MACs to say by which rule time follows them least"
    smaller = ends[0]["shares"]["macs"] < 1
    told = ", ".join(f"{value:.2f} by {name}" for value, name in (reversed(known) if smaller else known))
    best = (
        f"falls most with the arithmetic by {known[-1][1]}"
        if smaller
        else (f"grows least with the arithmetic by {known[0][1]}")
    )
    return f"time {best}; as MACs to the power of {told}"


def power(arithmetic: float, time: float) -> float | None:
    """The exponent by which time follows arithmetic; None where arithmetic hardly changes.

    >>> power(4.0, 2.0), power(1.01, 1.2)
    (0.5, None)
    """
    return None if abs(math.log(arithmetic)) < _ALIKE else math.log(time) / math.log(arithmetic)


def _by_arithmetic(ends: Sequence[Row]) -> str:
    """Which rule brings the most arithmetic into a latency."""
    ordered = sorted(ends, key=lambda row: -row["macs"])
    others = ", ".join(f"{row['rule']} {figure('macs', row['macs'])}" for row in ordered)
    return f"{ordered[0]['rule']} brings the most arithmetic into this latency; MACs: {others}"


def _warnings(request: Request, base: Base, members: Sequence[Row]) -> Iterator[str]:
    yield from _exceeded(request, members)
    timed = [row for row in members if row["measured"]]
    errors = sorted(abs(row["latency_ms"] / undisturbed(row) - 1) for row in timed)
    middle = errors[len(errors) // 2] if errors else 0.0
    if middle > _DOUBTFUL:
        yield (
            f"predicted latencies are off by {100 * middle:.0f} % (median of {len(errors)} measured networks); give "
            f"more time to measure in, such as --set device.measure_seconds={4 * request.device.measure_seconds:g}"
        )
    spread = max((row["measured"]["iqr_ms"] / row["measured"]["median_ms"] for row in timed), default=0.0)
    if spread >= _BUSY:
        yield f"the machine was busy while latency was measured (spread up to {100 * spread:.0f} % of the median)"
    uncounted = sorted({node.operator for node in base.graph.uncounted})
    if uncounted:
        yield f"not counted: operators {', '.join(uncounted)}; the costs are too low by what these do"


def _exceeded(request: Request, members: Sequence[Row]) -> Iterator[str]:
    """Latencies that are met as predicted, but not as measured."""
    for target in (t for t in request.goals if t.metric == "latency_ms"):
        limit = target.limit(undisturbed(members[0]))
        for row in at_end(members, request.rule):
            if row["measured"] and undisturbed(row) > limit * NEAR:
                over = 100 * (undisturbed(row) / limit - 1)
                yield f"{row['label']} takes {over:.0f} % more than {target} when measured with the others"


# ---- bundles -----------------------------------------------------------------------------------------------


def export(
    request: Request, base: Base, place: Workplace, told: Mapping[str, Any], progress: Progress
) -> dict[str, str]:
    """The members of the rule as bundles with fresh weights, or those that are there; directories by label.

    Raises:
        ExportError: a form does not reproduce its network.
    """
    rows = [row for row in told["members"] if row["rule"] == request.rule]
    title = f"{len(rows)} bundle{'s' if len(rows) > 1 else ''} with fresh weights written and verified"
    progress("stage", {"name": "export", "state": "start", "text": title})
    found, kept = {}, True
    for row in rows:
        graph = base.scaled(Scaling(row["depth"], row["width"], row["resolution"]))
        directory = place.file("members") / row["label"].replace(" ", "-")
        kept &= _bundle(request, base, graph, directory, row, told)
        found[row["label"]] = str(directory)
    progress("stage", {"name": "export", "state": "skipped" if kept else "done", "text": str(place.file("members"))})
    return found


def _bundle(request: Request, base: Base, graph: Graph, directory: Any, row: Row, told: Mapping[str, Any]) -> bool:
    """Write one bundle; whether it was there already."""
    import torch

    from search_spaces import Network

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        network = Network(graph).eval()
        samples = torch.randn(_SAMPLES, *graph.inputs[0].shape)
    done = export_bundle(
        network, directory, samples=samples, card=_card(request, base, row, told), formats=request.formats
    )
    return done.kept


def _card(request: Request, base: Base, row: Row, told: Mapping[str, Any]) -> Card:
    metrics = {name: row[name] for name in ("params", "macs", "activation_bytes", "bytes_moved")}
    metrics["latency_ms_predicted"] = row["latency_ms"]
    if row["measured"]:
        metrics |= {"latency_ms": row["measured"]["median_ms"], "latency_spread_ms": row["measured"]["iqr_ms"]}
    multipliers = Scaling(row["depth"], row["width"], row["resolution"])
    return Card(
        name=f"{base.name}, {row['label']}",
        classes=base.class_names,
        seed=request.seed,
        fresh=True,
        metrics=metrics,
        device=told["device"],
        licence="`model.py` and the weights, which are random, may be used freely.",
        limits=(f"It is {base.source} scaled by {multipliers}.",),
    )
