"""A graph of two kinds of nodes that are joined among themselves, in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `one.npz` (a class a node) and `several.npz` (labels, features of edges)."""
    folder = tmp_path_factory.mktemp("graphs")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 90)
    start, end = rng.integers(0, 90, (2, 1500))
    near = (y[start] == y[end]) | (rng.random(1500) < 0.2)
    edges = np.stack([start[near], end[near]])
    x = rng.normal(size=(90, 6)).astype(np.float32) + np.eye(3, 6, dtype=np.float32)[y]
    np.savez(folder / "one.npz", edge_index=edges, y=y, x=x)
    labels = np.stack([y == 0, y != 1], axis=1).astype(np.float32)
    attributes = rng.random((edges.shape[1], 3)).astype(np.float32)
    np.savez(folder / "several.npz", edge_index=edges, y=labels, x=x, edge_attr=attributes)
    return folder


@pytest.fixture
def asked(graphs: Path, tmp_path: Path) -> dict[str, Any]:
    """A training of seconds."""
    return {
        "results": str(tmp_path / "results"),
        "threads": 1,
        "data": {"source": f"graph:{graphs / 'one.npz'}"},
        "model": {"depth": 3, "width": 8},
        "epochs": 6,
        "optimizer": {"learning_rate": 0.02},
        "formats": [],
    }
