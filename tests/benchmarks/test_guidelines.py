"""The guidelines benchmark: its networks are the paper's, and errors of models are what they say."""

import argparse
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.guidelines import (
    MODELS,
    amounts,
    bottlenecks,
    errors,
    fragmented,
    grouped,
    on_runtime,
    predictions,
    tables,
    unequal,
)
from predictors.cost import DeviceProfile
from predictors.cost.roofline import Roofline

EAGER, FUSING = (DeviceProfile("some avx512f", 1, runtime=name) for name in ("torch", "onnxruntime"))


def test_tables_are_the_papers() -> None:
    found = {table.key: table for table in tables((1, 2, 4), 56)}
    assert len(found) == 13
    assert found["G1 x1"].widths == ((32, 32), (22, 44), (13, 78), (9, 108))
    assert found["G2 x1"].widths == (64, 90, 128, 184)
    assert found["G3 x2"].widths == (128, 91, 64, 91, 64)
    assert found["G4 x4"].widths == (128,) * 4
    for table in found.values():
        assert len(table.rows) == len(table.graphs) == len(table.paper)
        macs = np.array([graph.cost.macs for graph in table.graphs])
        assert np.abs(macs / macs[0] - 1).max() < 0.06
    own = [graph.cost.macs for graph in found["G1 in multiples of 8 x4"].graphs]
    assert own == [576 * 16 * 20 * 56**2] * 5
    assert all(c % 8 == 0 for pair in found["G1 in multiples of 8 x4"].widths for c in pair)


def test_bytes_grow_as_the_guidelines_say() -> None:
    """Equations 1 and 2 of the paper, on the graphs: unequal widths and groups move more at equal MACs."""
    for table in tables((4,), 56):
        moved = [amounts(graph, EAGER)[1] for graph in table.graphs]
        if table.guideline in ("G1", "G2"):
            assert all(a < b for a, b in pairwise(moved)), table.key
        elif table.guideline == "G4":
            assert moved[0] == max(moved)
            assert moved[3] == min(moved)


def test_what_a_fusing_runtime_does_not_run() -> None:
    graph = bottlenecks(32, relu=True, shortcut=False, pixels=8)
    assert amounts(graph, EAGER)[2] == 60
    assert amounts(graph, FUSING)[2] == 30
    assert amounts(fragmented(16, 4, True, 8), EAGER)[2] == 50
    assert amounts(fragmented(16, 4, False, 8), EAGER)[2] == 40


def test_macs_of_whole_vectors() -> None:
    assert amounts(grouped(64, 4, 8), EAGER)[3] == amounts(grouped(64, 4, 8), EAGER)[0]  # 16 channels in a group
    macs, *_, whole = amounts(grouped(48, 4, 8), EAGER)  # 12 of them: 16 are computed, in and out
    assert whole == pytest.approx(macs * (16 / 12) ** 2)
    macs, *_, whole = amounts(unequal(24, 32, 8), replace(EAGER, processor="some avx2"))
    assert whole == macs
    macs, *_, whole = amounts(bottlenecks(32, True, True, 8), replace(EAGER, processor="unknown"))
    assert whole == macs


def test_errors_of_a_model() -> None:
    times = [np.array([1.0, 2.0, 4.0])]
    speeds = [1 / times[0]]
    assert errors(times, speeds, times) == {"ratio": 0, "absolute": 0, "order": 1}
    found = errors(times, speeds, [np.array([1.0, 1.0, 8.0])])
    assert found["ratio"] == pytest.approx(0.75)  # 1 for 0.5 and 0.125 for 0.25
    assert found["absolute"] == pytest.approx(0.5)
    assert found["order"] == pytest.approx((0.5 + 1 + 1) / 3)


def test_rates_are_found_again_from_the_other_guidelines() -> None:
    found = tables((1,), 8)
    times = [np.array([amounts(g, EAGER) for g in t.graphs]) @ np.array([0, 2e-7, 0.01, 3e-7]) for t in found]
    roofline = Roofline(EAGER, 0.1, {}, {"conv2d/pointwise": 1e6}, 1e6)
    made = predictions(found, times, roofline)
    for predicted, truth in zip(made["vectors"], times, strict=True):
        np.testing.assert_allclose(predicted, truth, rtol=1e-6)
    assert any(np.abs(p / t - 1).max() > 0.05 for p, t in zip(made["linear"], times, strict=True))
    assert set(made) == set(MODELS)
    assert np.allclose(made["macs"][0] / made["macs"][0][0], [1, 0.945, 0.99, 0.949], atol=1e-3)


def test_one_runtime_from_end_to_end() -> None:
    asked = argparse.Namespace(rounds=2, seconds=0.002, probes=0.5, clock="cpu")
    found = tables((1,), 4)
    figures = on_runtime(found, DeviceProfile.detect(runtime="torch"), asked)
    assert [t["table"] for t in figures["tables"]] == ["G1", "G2", "G3", "G4"]
    for table in figures["tables"]:
        assert table["speed"][0] == table["paper"][0] == 1
        assert min(table["ms"]) > 0
        assert all(low <= v <= high for v, (low, high) in zip(table["speed"], table["quartiles"], strict=True))
        assert set(table["predicted"]) == set(MODELS)
    assert figures["models"]["macs"]["G4"]["absolute"] > 0
