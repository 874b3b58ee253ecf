"""Tables made by hand: figures drawn at random, with every kind of column."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from predictors import LookupTable, TableWriter
from predictors.table import choice_columns, table_schema
from search_spaces import Architecture, Choice, Graph, SearchSpace

COSTS = ("params", "latency_ms")


class Line(SearchSpace):
    """Two choices of whose names one is taken, for tables made by hand."""

    name = "line"

    def __init__(self) -> None:
        super().__init__([Choice("depth", (1, 2, 3)), Choice("Accuracy", ("low", "high"))])

    def graph(self, architecture: Architecture) -> Graph:
        raise NotImplementedError


SCHEMA = table_schema(Line(), COSTS)
METADATA = {
    "choices": {n: {"column": c, "options": []} for n, c in choice_columns(Line(), COSTS).items()},
    "columns": {n: {"unit": "u", "source": "analytic"} for n in ("accuracy", "accuracy_std", *COSTS)},
    "seed": 1,
}


def rows(frame: pd.DataFrame) -> pa.RecordBatch:
    return pa.record_batch([pa.array(frame[f.name], f.type) for f in SCHEMA], schema=SCHEMA)


def made_up(count: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    params = np.round(rng.lognormal(12, 1, count))
    return pd.DataFrame(
        {
            "code": [f"{i:06d}" for i in rng.permutation(count)],
            "id": [f"{i:016x}" for i in range(count)],
            "depth": rng.integers(1, 4, count),
            "choice_Accuracy": rng.choice(["low", "high"], count),
            "accuracy": np.round(rng.uniform(0.5, 0.9, count), 3),
            "accuracy_std": 0.01,
            "params": params,
            "latency_ms": params / 1e5 * rng.lognormal(0, 0.3, count),
            "params_source": "analytic",
            "latency_ms_source": rng.choice(["table", "predicted"], count),
            "model": "0123456789abcdef",
            "seed": 7,
            "date": "2025-01-02T03:04:05+00:00",
        }
    )


def written(path: Path, *frames: pd.DataFrame, metadata: Mapping[str, Any] | None = None) -> LookupTable:
    with TableWriter(path, SCHEMA, {**METADATA, **(metadata or {})}) as writer:
        for frame in frames:
            writer.write(rows(frame))
    return LookupTable.open(path)
