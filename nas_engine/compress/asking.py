"""From the options of the command line to a request, with what a model says of its data itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from search_spaces.errors import ConfigError

from .request import Request
from .subject import data_of, name_of


def asked(
    model: str,
    weights: str | None = None,
    data: str | None = None,
    normalise: str | None = None,
    targets: Sequence[str] | None = None,
    criterion: str | None = None,
    allocation: str | None = None,
    schedule: str | None = None,
    finetune: int | None = None,
    distill: bool = False,
) -> dict[str, Any]:
    """The sections of a request; what is None is left out.

    Raises:
        ConfigError: no data and a model that names none, or no target.
    """
    section = dict(data_of(model))
    if data is not None:
        section["source"] = data
    if normalise is not None:
        section["normalise"] = normalise
    if "source" not in section:
        needing = "its accuracy is measured, and most criteria judge on images"
        raise ConfigError(f"give --data for {model!r}: {needing}; such as --data npz:FILE, folder:DIR or CIFAR10")
    if not targets:
        raise ConfigError("give --target, such as --target macs=0.5x or --target latency_ms=0.5x")
    named = {"criterion": criterion, "schedule": schedule}
    return {
        "model": model,
        "weights": weights,
        "data": section,
        "targets": list(targets),
        "allocation": allocation,
        "finetune": finetune,
        "distill": distill or None,
        **{key: {"name": name} for key, name in named.items() if name is not None},
    }


def directory(request: Request, out: Path | None) -> Path:
    """Where a compression goes on its own: by model, criterion and targets, so that the same command goes on there."""
    if out is not None:
        return out
    parts = [name_of(request.model), request.criterion.name, *request.targets]
    return Path("results") / "compressed" / re.sub(r"[^A-Za-z0-9._=-]+", "-", "-".join(parts)).strip("-.")
