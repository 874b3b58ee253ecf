"""Pareto fronts: of points, of tables, and of tables larger than what is looked at together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors import LookupTable, pareto
from predictors.table import ROW_GROUP, reading
from tests.predictors.made_up import made_up, written


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return made_up(2000)


@pytest.fixture(scope="module")
def table(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> LookupTable:
    return written(tmp_path_factory.mktemp("it's a table") / "table.parquet", frame)


def by_pairs(losses: np.ndarray) -> list[int]:
    """Non-dominated rows, by comparing all with all."""
    kept = []
    for i, row in enumerate(losses):
        beaten = ((losses <= row).all(1) & (losses < row).any(1)).any()
        if not beaten and not np.isnan(row).any():
            kept.append(i)
    return kept


@given(
    st.integers(1, 4).flatmap(
        lambda k: st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, 2.0, 3.5, 1e18, np.inf, np.nan])] * k), max_size=30)
    )
)
def test_front_against_all_pairs(points: list[tuple[float, ...]]) -> None:
    losses = np.array(points, dtype=float).reshape(len(points), len(points[0]) if points else 2)
    assert pareto(losses).tolist() == by_pairs(losses)


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_front_of_many_rows(objectives: int) -> None:
    """Enough rows for several blocks, on a curved surface where much is not dominated."""
    rng = np.random.default_rng(objectives)
    losses = np.abs(rng.normal(size=(3000, objectives)))
    losses /= np.linalg.norm(losses, axis=1, keepdims=True) / rng.choice([1.0, 1.2], size=(3000, 1))
    assert pareto(losses).tolist() == by_pairs(losses)


def test_front_of_a_table(table: LookupTable, frame: pd.DataFrame) -> None:
    for where, some in ((None, frame), ("latency_ms > 2", frame[frame["latency_ms"] > 2])):
        front = table.pareto({"accuracy": "max", "latency_ms": "min", "params": "min"}, where)
        losses = np.column_stack([-some["accuracy"], some["latency_ms"], some["params"]])
        assert set(front["code"]) == set(some["code"].iloc[by_pairs(losses)])
        assert front["accuracy"].is_monotonic_decreasing
        assert tuple(front.columns) == table.useful
    few = table.pareto({"accuracy": "max", "latency_ms": "min"}, columns=["latency_ms", "latency_ms_source"])
    assert list(few.columns) == ["latency_ms", "latency_ms_source"]


def test_front_over_row_groups(tmp_path: Path) -> None:
    frames = [made_up(60_000, seed) for seed in range(3)]
    table = written(tmp_path / "t.parquet", *frames)
    front = table.pareto({"params": "min", "accuracy": "max"})
    both = pd.concat(frames, ignore_index=True)
    expected = both.iloc[pareto(np.column_stack([both["params"], -both["accuracy"]]))]
    assert sorted(front["id"]) == sorted(expected["id"])
    assert front["params"].is_monotonic_increasing


def test_fronts_are_found_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A front of many pieces is that of the whole, and only row groups with rows of it are read."""
    monkeypatch.setattr(reading, "_VECTORS", 1)
    frame = made_up(200_000)
    frame["params"] += 1e9 * (np.arange(len(frame)) >= 2 * ROW_GROUP)  # what comes late is beaten
    frame["accuracy"] -= 0.5 * (np.arange(len(frame)) >= 2 * ROW_GROUP)
    table = written(tmp_path / "t.parquet", frame)
    read: list[int] = []
    real = pq.ParquetFile.read_row_group

    def watched(self: pq.ParquetFile, group: int, **more: Any) -> pa.Table:
        read.append(group)
        return real(self, group, **more)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", watched)
    front = table.pareto({"params": "min", "accuracy": "max"})
    expected = frame.iloc[pareto(np.column_stack([frame["params"], -frame["accuracy"]]))]
    assert sorted(front["id"]) == sorted(expected["id"])
    assert read
    assert set(read) <= {0, 1}
