"""The benchmark of memory: rows of small networks tell what they are there to tell."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest
import torch

from benchmarks.memory import MODES, Deep, Trial, allocated, row

ASKED = Namespace(
    conv="gen",
    channels=16,
    groups=2,
    nodes=200,
    edges=800,
    convolutions="own",
    device="cpu",
    most_gb=1.0,
    float64_to=112,
    repeats=1,
)


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, int], dict[str, Any]]:
    return {(mode, depth): row(ASKED, mode, depth) for mode in MODES for depth in (5, 10)}


def test_bytes_grow_with_depth_where_they_must_and_nowhere_else(rows: dict[tuple[str, int], dict[str, Any]]) -> None:
    held = {mode: (rows[mode, 5]["held_bytes"], rows[mode, 10]["held_bytes"]) for mode in MODES}
    features = 200 * 16 * 4
    assert held["plain"][1] > 1.8 * held["plain"][0]
    assert held["checkpoint"][1] > held["checkpoint"][0] + 4 * features
    for mode in ("reversible", "tied", "deq", "pyg"):
        assert held[mode][0] == held[mode][1] <= 4 * features, mode
    for found in rows.values():
        assert found["peak_bytes"] >= found["held_bytes"] + found["gradient_bytes"] / 2


def test_gradients_are_those_of_the_same_sums(rows: dict[tuple[str, int], dict[str, Any]]) -> None:
    assert rows["checkpoint", 10]["gradient_error"] <= 1e-6
    for mode in ("reversible", "tied", "pyg"):
        assert rows[mode, 10]["gradient_error"] <= 1e-5, mode
        assert 0 < rows[mode, 10]["gradient_error_float64"] <= 1e-2
    assert rows["deq", 10]["gradient_error"] <= 0.1


def test_what_would_hold_too_much_is_left_out() -> None:
    told = row(Namespace(**{**vars(ASKED), "most_gb": 1e-3}), "plain", 50)
    assert "held_bytes" not in told
    held, _ = allocated(Trial(ASKED, "plain", 50).forward, "cpu")
    assert told["skipped"] == f"would hold about {held / 1e9:.1f} GB"


def test_the_trained_network_gives_classes_in_training_and_without() -> None:
    net = Deep(30, 16, 3, 7, 0.5)
    x, edges = torch.randn(40, 30), torch.randint(40, (2, 100))
    net.train()(x, edges).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert torch.equal(net.eval()(x, edges), net(x, edges))
