"""What the command line shows of a scaling: every member of every rule in one table, and where everything is."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from .show import duration, figure, milliseconds, table

Row = Mapping[str, Any]
_COSTS = ("params", "macs", "activation_bytes")


def scaled(report: Row) -> Iterator[Any]:
    """The report of a scaling."""
    yield ""
    columns = ("member", "depth", "width", "resolution", "pixels", *_COSTS, "predicted", "measured")
    yield table(map(_row, report["members"]), columns, right=columns[1:])
    yield (
        "depth, width and resolution are multipliers; activations are the peak of one image; latencies are of a batch "
        f"of {report['device']['batch']} under {report['device']['runtime']}"
    )
    yield ""
    for words in report["words"]:
        yield textwrap.fill(words.replace(" %", "\u00a0%"), 110, subsequent_indent="  ")
    if report["notes"]:
        yield textwrap.fill(f"grown: {'; '.join(report['notes'])}", 110, subsequent_indent="  ")
    for rule, reason in report["impossible"].items():
        yield textwrap.fill(f"no member by {rule}: {reason}", 110, subsequent_indent="  ")
    for warning in report["warnings"]:
        yield f"! {warning}"
    yield ""
    for label, path in report["bundles"].items():
        yield f"{label}: {path}"
    yield f"page: {report['page']}"
    yield f"took {duration(report['seconds'])}"


def _row(row: Row) -> dict[str, Any]:
    share = row["shares"]
    costs = {name: f"{figure(name, row[name])}  {_times(share[name])}" for name in _COSTS}
    sizes = {name: f"{row[name]:.3f}" for name in ("depth", "width", "resolution")}
    return {
        "member": row["label"],
        **sizes,
        "pixels": "x".join(map(str, row["input"][1:])),
        **costs,
        "predicted": f"{milliseconds(row['latency_ms'])}  {_times(share['latency_ms'])}",
        "measured": milliseconds(row["measured"]["median_ms"]) if row["measured"] else "",
    }


def _times(share: float) -> str:
    """A multiple of the unscaled network's, of one width so that what stands before it is aligned."""
    return f"{share:.3g}x".rjust(6)
