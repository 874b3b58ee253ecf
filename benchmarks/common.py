"""What all benchmarks share: versions and machine beside every figure, and one line of JSON at the end."""

from __future__ import annotations

import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"


def provenance() -> dict[str, Any]:
    """Versions, processor and date of a measurement."""
    libraries = {name: version(name) for name in ("torch", "ray", "optuna", "numpy")}
    with open("/proc/cpuinfo") if os.path.exists("/proc/cpuinfo") else open(os.devnull) as file:
        models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "versions": libraries,
    }


def publish(name: str, figures: dict[str, Any], details: dict[str, Any] | None = None) -> None:
    """Write the figures with their provenance to `results/benchmarks/NAME.json` and print them as the last line.

    `details` are written, but not printed.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    written = {**figures, **(details or {}), "provenance": provenance()}
    (RESULTS / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")
    print(json.dumps(figures))


def publish_row(name: str, asked: dict[str, Any], figures: dict[str, Any]) -> None:
    """Write the figures of one of many settings into `results/benchmarks/NAME.json` and print them as the last line.

    The file keeps one row for each setting that was asked for; asking again replaces it.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    others = [row for row in rows if row["asked"] != asked]
    rows = sorted([*others, {"asked": asked, **figures, "provenance": provenance()}], key=lambda r: str(r["asked"]))
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    print(json.dumps({**asked, **figures}))
