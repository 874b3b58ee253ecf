"""What the report says of baselines: a row each, beside the chosen networks as they were measured with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..show import MISSING, count, duration, milliseconds
from .findings import Findings
from .words import with_error, with_spread

Row = dict[str, Any]


def section(f: Findings) -> Row | None:
    """Rows by falling validation accuracy, sentences that compare, and whether some baseline was scaled."""
    found = f.beside
    if found is None:
        return None
    chosen = [{**n, "kind": "chosen", "name": f"trial {n['trial']}", "state": "finished"} for n in found["networks"]]
    rivals = [{**r, "kind": "baseline"} for r in found["rows"]]
    rows = sorted([*chosen, *rivals], key=lambda r: -(r["accuracy"] if r["accuracy"] is not None else -1.0))
    return {
        "rows": [_row(f, found, r) for r in rows],
        "words": [comparison["words"].replace(" %", "\u00a0%") for comparison in found["comparisons"]],
        "scaled": any(r.get("target_ms") is not None for r in rivals),
        "epochs": f.run.config.search.epochs,
    }


def _row(f: Findings, found: Mapping[str, Any], row: Mapping[str, Any]) -> Row:
    return {
        **{key: row.get(key) for key in ("kind", "name", "state")},
        "reason": None if row["kind"] == "chosen" else row["reason"],
        "test": with_error(row["test_accuracy"], found["test_images"], f.quality),
        "validation": with_error(row["accuracy"], found["validation_images"], f.quality),
        "latency": with_spread(row.get("latency_ms"), row.get("latency_spread_ms")),
        "predicted": milliseconds(row["latency_ms_predicted"]) if row.get("latency_ms_predicted") else "",
        "params": count(row.get("params")),
        "macs": count(row.get("macs")),
        "time": duration(row["seconds"]) if row.get("seconds") else MISSING,
        "breaks": row.get("bounds_met") is False,
        "scaled": _scaled(row),
    }


def _scaled(row: Mapping[str, Any]) -> str:
    """How a baseline came to its latency."""
    if row.get("target_ms") is None or row.get("scaled_measured_ms") is None:
        return ""
    predicted, measured = milliseconds(row["scaled_predicted_ms"]), milliseconds(row["scaled_measured_ms"])
    return f"scaled to {row['target']}: {predicted} predicted, {measured} measured then"
