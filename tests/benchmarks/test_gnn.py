"""The benchmark of graph networks compares at equal memory, and its choices read the validation part alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.gnn import Bench, Outcome, compared, largest, rivals, tuned
from nas_engine.data import load_graph
from nas_engine.gnn import Model


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 150)
    path = tmp_path_factory.mktemp("graph") / "small.npz"
    np.savez(path, edge_index=rng.integers(0, 150, (2, 600)), y=y, x=np.eye(3, 12, dtype=np.float32)[y])
    return Bench(load_graph(f"graph:{path}"), "gcn", epochs=3, patience=2, weight_decay=0.0, device="cpu")


def test_largest_is_the_last_that_fits() -> None:
    assert [largest(1, 9, lambda n, top=top: n <= top) for top in (0, 1, 5, 9, 20)] == [None, 1, 5, 9, 9]


def test_rivals_take_no_more_memory_and_the_next_width_would(bench: Bench) -> None:
    found = {name: (model, memory, budget) for name, model, memory, budget in rivals(bench, 6, 16, first=True)}
    assert len(found) == 7
    budget = found["reversible"][2]
    assert found["reversible"][1].peak == budget  # type: ignore[union-attr]
    for name, (model, memory, allowed) in found.items():
        assert allowed == budget
        if model is not None and memory is not None:
            assert memory.peak <= budget, name
    narrow = found["residual, narrow"][0]
    assert narrow is not None
    wider = Model(conv="gcn", connection="residual", depth=6, width=narrow.width + 2)
    assert bench.memory(wider).peak > budget


def test_only_kinds_that_are_asked_for_are_compared(bench: Bench) -> None:
    asked = replace(bench, kinds=("tied", "plain"))
    assert [name for name, *_ in rivals(asked, 3, 8, first=True)] == ["tied", "plain, narrow", "plain, shallow"]


def test_rate_and_dropout_are_chosen_on_validation(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(self: Bench, model: Model, rate: float, seed: int, epochs: int) -> Outcome:
        good = (rate, model.dropout) == (0.003, 0.5)
        return Outcome(validation=0.9 if good else 0.5, test=0.1 if good else 1.0, epochs=1, seconds=1.0)

    monkeypatch.setattr(Bench, "fitted", told)
    assert tuned(bench, Model(depth=2, width=4)) == (0.003, 0.5)


def test_rows_say_what_was_compared(bench: Bench) -> None:
    torch.manual_seed(0)
    rows = compared(bench, [2], 8, seeds=2)
    assert {row["layers"] for row in rows} >= {
        "reversible",
        "tied",
        "equilibrium",
        "plain, narrow",
        "residual, shallow",
    }
    for row in rows:
        if row["fits"]:
            assert row["peak_bytes"] <= row["budget_bytes"]
            assert len(row["test"]) == 2
            assert all(0 <= test <= 100 for test in row["test"])
