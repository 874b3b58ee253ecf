"""A graph network is trained, goes on after a kill as if nothing had been, and is handed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_engine.data import load_graph
from nas_engine.evaluate import judge
from nas_engine.export import load_bundle
from nas_engine.files import read_json, read_torch
from nas_engine.gnn import make_request, train_gnn
from nas_engine.gnn import training as module
from nas_engine.gnn.training import load_network
from nas_engine.pipeline import Interrupted
from search_spaces.errors import ConfigError, RunError


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_network(folder).state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def test_a_training_ends_with_a_network_that_is_as_good_as_is_said(asked: dict[str, Any]) -> None:
    found = train_gnn(make_request({**asked, "epochs": 30}))
    folder = Path(found["out"])
    assert found["test"] > 0.6  # of three classes
    assert read_json(folder / "result.json")["test"] == found["test"]
    history = json.loads((folder / "history.json").read_text())
    assert [row["epoch"] for row in history] == list(range(1, found["epochs"] + 1))
    assert history[found["best_epoch"] - 1]["accuracy"] == max(row["accuracy"] for row in history)
    data = load_graph(asked["data"]["source"])
    network = load_network(folder)
    assert judge(network, data, data.test).accuracy == found["test"]
    assert judge(network, data, data.validation).accuracy == found["validation"]
    assert found["params"] == sum(p.numel() for p in network.parameters())
    assert same(load_bundle(folder / "bundle").state_dict(), network.state_dict())
    memory = found["memory"]
    assert memory["peak"] > memory["held"] > 0
    assert memory["kept"] >= 3 * 4 * found["params"]  # weights and two moments
    assert found["step_seconds"] > 0


@pytest.mark.parametrize("after", [1, 3, 6])
def test_killed_between_epochs_it_ends_as_an_undisturbed_one(
    asked: dict[str, Any], after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_gnn(make_request({**asked, "name": "whole"}))
    request = make_request({**asked, "name": "broken"})
    judged = module.Training._judged
    calls: list[int] = []

    def dying(self: Any, network: Any, epoch: Any) -> Any:
        calls.append(epoch.epoch)
        if epoch.epoch == after and len(calls) <= after:
            raise KeyboardInterrupt  # its checkpoint is on the disk, nothing that follows from it
        return judged(self, network, epoch)

    monkeypatch.setattr(module.Training, "_judged", dying)
    with pytest.raises(KeyboardInterrupt):
        train_gnn(request)
    monkeypatch.undo()
    again = train_gnn(request)
    assert same(weights(whole["out"]), weights(again["out"]))
    ends = [read_torch(Path(found["out"]) / "checkpoint.pt") for found in (whole, again)]
    assert same(ends[0]["module"], ends[1]["module"])
    for key in ("validation", "test", "best_epoch", "epochs"):
        assert whole[key] == again[key], key
    kept = ("epoch", "loss", "accuracy")
    rows = [[{k: r[k] for k in kept} for r in read_json(Path(f["out"]) / "history.json")] for f in (whole, again)]
    assert rows[0] == rows[1]


def test_asked_to_stop_it_says_how_to_go_on(asked: dict[str, Any]) -> None:
    request = make_request(asked)
    told: list[str] = []
    with pytest.raises(Interrupted, match="go on with: the command"):
        train_gnn(
            request,
            progress=lambda event, details: told.append(event),
            stop=lambda: told.count("step") >= 2,
            command="the command",
        )
    assert not (request.directory / "result.json").exists()
    notes: list[str] = []
    found = train_gnn(request, progress=lambda event, details: notes.append(details.get("text", "")))
    assert any("going on after epoch 2 of 6" in note for note in notes)
    assert found["epochs"] == 6


def test_a_finished_training_is_not_repeated(asked: dict[str, Any]) -> None:
    request = make_request(asked)
    first = train_gnn(request)
    events: list[tuple[str, str]] = []
    again = train_gnn(request, progress=lambda event, details: events.append((event, details.get("state", ""))))
    assert ("stage", "start") not in [e for e in events if e[0] == "step"]
    assert "step" not in {event for event, _ in events}
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in first.items() if k != "seconds"}


def test_patience_ends_it_and_judging_may_be_rarer(asked: dict[str, Any]) -> None:
    found = train_gnn(make_request({**asked, "epochs": 400, "patience": 6, "judge_every": 3}))
    assert found["epochs"] < 400
    assert found["epochs"] - found["best_epoch"] >= 6
    rows = read_json(Path(found["out"]) / "history.json")
    assert [row["epoch"] for row in rows if "accuracy" in row] == list(range(3, found["epochs"] + 1, 3))


def test_a_directory_of_another_training_is_refused(asked: dict[str, Any]) -> None:
    train_gnn(make_request({**asked, "epochs": 1}))
    with pytest.raises(RunError, match=r"model.depth 3, now 4. Set these back, give another name, such as --set name="):
        train_gnn(make_request({**asked, "epochs": 1, "model": {"depth": 4, "width": 8}}))


def test_labels_beside_each_other_parts_and_views(asked: dict[str, Any], graphs: Path) -> None:
    data = {"source": f"graph:{graphs / 'several.npz'}", "parts": 2, "view_parts": 3, "views": 2}
    model = {"depth": 2, "width": 8, "conv": "gen"}
    found = train_gnn(make_request({**asked, "data": data, "model": model, "epochs": 25}))
    assert found["quality"] == "ROC-AUC"
    assert found["test"] > 0.6
    assert found["memory"]["steps"] == 2
    assert found["memory"]["nodes"] == 45


def test_a_memory_mode_changes_nothing_but_memory(asked: dict[str, Any]) -> None:
    model = {"depth": 3, "width": 8, "dropout": 0}  # the order of random numbers is each mode's own
    ends = [
        train_gnn(make_request({**asked, "model": model, "name": mode, "memory": mode}))
        for mode in ("plain", "reversible")
    ]
    first, second = (weights(found["out"]) for found in ends)
    for a, b in zip(first.values(), second.values(), strict=True):
        assert torch.allclose(a, b, atol=1e-3)
    assert ends[1]["memory"]["held"] < ends[0]["memory"]["held"]


def test_an_equilibrium_comes_in_forms_that_can_hold_it(asked: dict[str, Any]) -> None:
    model = {"connection": "equilibrium", "depth": 20, "width": 8}
    with pytest.raises(ConfigError, match="format 'torch_export' cannot hold this network: .*; leave it out"):
        train_gnn(make_request({**asked, "model": model, "formats": ["torch_export"]}))
    found = train_gnn(make_request({**asked, "model": model, "epochs": 2, "formats": None}))
    assert {path.name for path in Path(found["bundle"]).glob("model.*")} == {"model.py"}


def test_no_gpu_is_told(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="finds no GPU here; take device: cpu"):
        train_gnn(make_request({**asked, "device": "cuda"}))


def test_nothing_to_load_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="train there first, with nas-engine train-gnn"):
        load_network(tmp_path)
