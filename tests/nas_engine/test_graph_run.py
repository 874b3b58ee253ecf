"""A whole search on a graph: from its nodes to verified bundles, and a report that speaks of nodes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas_engine.config import Config, load_config, make_config
from nas_engine.data import load_graph
from nas_engine.evaluate import judge
from nas_engine.export import load_bundle
from nas_engine.pipeline import run_pipeline
from nas_engine.run import STAGES, Run
from nas_engine.shapes import shapes_of, space_for, space_parameters
from search_spaces import make_space
from search_spaces.errors import ConfigError, EngineError
from tests.nas_engine.commands import good

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cora.yaml"


def small(folder: Path, **more: Any) -> Config:
    optimizer = {"name": "adam", "learning_rate": 0.01}
    return make_config(
        {
            "name": "nodes",
            "threads": 1,
            "results": str(folder / "results"),
            "data": {"source": "digits-knn"},
            "device": {"measure_seconds": 1},
            "space": {
                "name": "gnn",
                "kinds": ["gcn", "sage", "gen"],
                "connections": ["plain", "reversible"],
                "depths": [2, 3],
                "widths": [8, 32],
                "groups": [2],
                "dropouts": [0.0, 0.2],
                "pattern": 2,
            },
            "constraints": ["train_memory_bytes <= 4e6"],
            "supernet": {"epochs": 6, "optimizer": optimizer},
            "sample": {"architectures": 12, "workers": 1},
            "predictor": {"name": "gcn", "members": 2, "epochs": 10},
            "table": {"workers": 1, "whole_up_to": 10, "rows": 60},
            "search": {
                "trials": 2,
                "epochs": 30,
                "grace_epochs": 30,
                "threads": 1,
                "inherit": False,
                "optimizer": optimizer,
            },
            "export": {"networks": 1},
            **more,
        }
    )


@pytest.mark.slow
def test_a_search_on_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_ENGINE_CACHE", str(tmp_path / "cache"))
    told: list[str] = []
    run = run_pipeline(small(tmp_path), progress=lambda event, details: told.append(str(details.get("text"))))
    assert [row["state"] for row in run.status] == ["done"] * len(STAGES)
    assert (run.space.input_shape, run.space.classes, run.space.edges) == ((1797, 64), 10, 19858)  # type: ignore[attr-defined]
    best = run.best()
    assert best["test_accuracy"] > 0.5
    assert all(row["costs"]["train_memory_bytes"] <= 4e6 for row in trials(run))
    assert best["train_memory_bytes"] <= 4e6 < max(run.query(top=None)["train_memory_bytes"])
    assert any("train_memory_bytes <= 4e+06 is met by" in text for text in told)
    _check_bundle(run, best)
    page = run.path.joinpath("report.html").read_text(encoding="utf-8")
    shown = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    assert "test nodes right" in shown
    assert "image" not in shown
    assert "graph stack" in shown
    assert good("status", str(run.path))


def trials(run: Run) -> list[dict[str, Any]]:
    lines = (run.path / "search" / "trials.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "costs" in row]


def _check_bundle(run: Run, best: dict[str, Any]) -> None:
    (bundle,) = run.directory.done("export")["bundles"]  # type: ignore[index]
    assert set(bundle["differences"]) == {"model.py", "torch_export", "onnx"}
    network, data = load_bundle(Path(bundle["path"])), load_graph("digits-knn", seed=run.config.seed)
    assert judge(network, data, data.test).accuracy == pytest.approx(best["test_accuracy"])
    program = torch.export.load(Path(bundle["path"]) / "model.pt2").module()
    graph = data.graph
    with torch.inference_mode():
        torch.testing.assert_close(program(*graph.tensors), network(graph), rtol=0, atol=1e-4)
    card = Path(bundle["path"], "card.md").read_text(encoding="utf-8")
    assert "- task: node classification, 10 classes" in card
    assert "nodes (95 % interval" in card


def test_spaces_are_told_what_the_graph_is(tmp_path: Path) -> None:
    config = small(tmp_path)
    shapes = {"input_shape": (50, 4), "classes": 3, "edges": 120, "edge_features": 2}
    space = space_for(config, shapes)
    assert {node.name: node.shape for node in space.graph(space.sample(np.random.default_rng(0))).inputs} == {
        "x": (50, 4), "edges": (2, 120), "attributes": (120, 2)
    }  # fmt: skip
    again = make_space(config.space.name, space_parameters(config, space))
    assert (again.edges, again.edge_features) == (120, 2)  # type: ignore[attr-defined]
    table = make_config({"name": "a", "space": {"name": "nasbench_graph"}, "data": {"source": "digits-knn"}})
    with pytest.raises(EngineError, match="'nasbench_graph' reads no features of edges"):
        space_for(table, shapes)
    images = make_config({"name": "a", "space": {"name": "nasbench201", "channels": 4}})
    space = space_for(images, {"input_shape": (1, 8, 8), "classes": 10})
    assert set(space_parameters(images, space)) == {"input_shape", "classes", "channels"}


def test_data_and_space_fit_each_other(tmp_path: Path) -> None:
    assert shapes_of(load_graph("digits-knn"))["edges"] == 19858
    with pytest.raises(EngineError, match=r"needs input_shape \(channels, height, width\)"):
        run_pipeline(small(tmp_path, space={"name": "nasbench201"}))
    with pytest.raises(ConfigError, match="train_memory_bytes is counted for graphs, and 'digits' is none"):
        small(tmp_path, data={"source": "digits"}, space={"name": "mobile"})


def test_the_example_is_a_configuration() -> None:
    config = load_config(EXAMPLE, ["data.source=digits-knn"])
    assert config.bounds[0].metric == "train_memory_bytes"
    space = space_for(config, {"input_shape": (2708, 1433), "classes": 7, "edges": 10556, "edge_features": 0})
    assert space.size > 1000
