"""A run over the cuts of a trained network: its own weights, bounds relative to it, resumed after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_engine import Run
from nas_engine.config import Bound, make_config
from nas_engine.pipeline import profile, run_pipeline
from nas_engine.train import DistilledProgram, NetworkProgram, train
from nas_engine.train.candidate import Candidate, _program, shared_data
from search_spaces import make_space
from search_spaces.errors import ConfigError, EngineError, RunError, SpaceError, UnsatisfiableError

_MODEL = '''
from torch import nn
import torch.nn.functional as F


class Small(nn.Module):
    """Two convolutions, of which a block can go, and a linear layer."""

    def __init__(self, input_shape=(1, 8, 8), classes=10):
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(input_shape[0], 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a1, self.a1_bn = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a2, self.a2_bn = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.b, self.b_bn = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.out = nn.Linear(16, classes)

    def forward(self, x):
        x = F.relu(self.stem_bn(self.stem(x)))
        x = F.relu(x + self.a2_bn(self.a2(F.relu(self.a1_bn(self.a1(x))))))
        return self.out(F.relu(self.b_bn(self.b(x))).mean((2, 3)))
'''


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model's file and the weights that it reached on digits."""
    from safetensors.torch import save_file

    from search_spaces.models import load_model

    folder = tmp_path_factory.mktemp("given")
    file, weights = folder / "small.py", folder / "small.safetensors"
    file.write_text(_MODEL)
    config = make_config({"data": {"source": "digits", "limit": 400}})
    data = shared_data(config.data, config.seed)
    torch.manual_seed(0)
    module = load_model(f"{file}:Small", input_shape=data.input_shape, classes=10)
    for _ in train(NetworkProgram(module), data, config.supernet.optimizer, epochs=15, seed=0):
        pass
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, weights)
    return {"name": "pruned", "model": f"{file}:Small", "weights": str(weights)}


def asked(given: dict[str, str], results: Path, **changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "name": "cuts",
        "results": str(results),
        "threads": 1,
        "data": {"source": "digits", "limit": 400},
        "device": {"measure_seconds": 2},
        "space": {**given, "images": 128},
        "objectives": {"accuracy": "max", "params": "min"},
        "constraints": ["macs <= 0.6x"],
        "supernet": {"epochs": 0},
        "sample": {"architectures": 24, "workers": 1, "recalibration_batches": 1},
        "predictor": {"name": "gcn", "members": 2, "epochs": 20},
        "table": {"rows": 100, "whole_up_to": 100, "workers": 1},
        "search": {
            "trials": 2,
            "epochs": 2,
            "grace_epochs": 1,
            "threads": 1,
            "distill": True,
            "optimizer": {"learning_rate": 0.02},
        },
        "export": {"networks": 1, "formats": ["model.py"]},
    }
    return {**base, **changes}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    os.environ["NAS_ENGINE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def run(given: dict[str, str], results: Path) -> Run:
    return run_pipeline(make_config(asked(given, results)))


def test_relative_bounds_are_resolved_and_met(run: Run) -> None:
    device = run.directory.done("device")
    assert device is not None
    whole = run.space.graph(run.space.reference).cost  # type: ignore[arg-type]
    assert device["reference"]["macs"] == whole.macs
    (bound,) = (Bound.parse(text) for text in run.chosen["constraints"])
    assert bound.share == 0.6
    assert bound.value == pytest.approx(0.6 * whole.macs, rel=2e-5)
    assert all(n["macs"] <= 0.6001 * whole.macs for n in run.chosen["networks"])
    assert str(bound) in device["profile"]["bounds"][0]["words"]
    page = (run.path / "report.html").read_text()
    assert "(0.6x)" in page
    assert run.config.constraints == ("macs <= 0.6x",)


def test_the_weights_are_those_given(run: Run) -> None:
    done = run.directory.done("supernet")
    assert done is not None
    assert done["epochs"] == 0
    assert done["loss"] is None
    told = json.loads((run.path / "supernet" / "order.json").read_text())
    assert told["criterion"] == "taylor"
    assert 0.75 < told["accuracy"] <= 1
    assert f"{100 * told['accuracy']:.1f} %" in done["text"]
    for name in ("stem", "b"):
        units = len(told["scores"][name])
        assert units == run.space.coupling.graph[name].shape[0]  # type: ignore[attr-defined]


def test_members_with_more_of_the_network_score_better(run: Run) -> None:
    rows = [json.loads(line) for line in (run.path / "sample" / "scores.jsonl").read_text().splitlines()]
    macs = [run.space.graph(run.space.decode(r["code"])).cost.macs for r in rows]
    from scipy.stats import kendalltau

    assert kendalltau(macs, [r["accuracy"] for r in rows]).statistic > 0.2


def test_candidates_are_better_than_chance_and_exported(run: Run) -> None:
    assert all(n["accuracy"] > 0.15 for n in run.chosen["networks"])
    (bundle,) = (p for p in (run.path / "export").iterdir() if p.is_dir())
    assert (bundle / "model.py").is_file()


def test_the_same_command_repeats_nothing(run: Run, given: dict[str, str], results: Path) -> None:
    told: list[tuple[str, str]] = []
    run_pipeline(
        make_config(asked(given, results)),
        progress=lambda event, d: told.append((d["name"], d["state"])) if event == "stage" else None,
    )
    assert [name for name, state in told if state == "start"] == ["report"]


def test_another_share_is_another_bound(run: Run, given: dict[str, str], results: Path) -> None:
    with pytest.raises(RunError, match=r"constraints \['macs <= 0.6x'\], now \['macs <= 0.5x'\]"):
        run_pipeline(make_config(asked(given, results, constraints=["macs <= 0.5x"])))
    with pytest.raises(UnsatisfiableError, match=r"no member meets macs <= \d+\S* \(0.001x\)"):
        run_pipeline(make_config(asked(given, results, name="none", constraints=["macs <= 0.001x"])))


def test_weights_that_change_are_noticed(given: dict[str, str], results: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(Path(given["weights"]).read_bytes())
    config = make_config(asked({**given, "weights": str(copy)}, results, name="changed"))
    run_pipeline(config, until="supernet")
    save_file({k: v * 0.5 for k, v in load_file(copy).items()}, copy)
    with pytest.raises(RunError, match="weights"):
        run_pipeline(config, until="supernet")


def test_given_weights_can_be_trained_further(given: dict[str, str], results: Path) -> None:
    optimizer = {"learning_rate": 0.01, "batch_size": 64}
    supernet = {"epochs": 1, "strategy": "sandwich", "optimizer": optimizer}
    config = make_config(asked(given, results, name="further", supernet=supernet))
    run = run_pipeline(config, until="supernet")
    done = run.directory.done("supernet")
    assert done is not None
    assert done["loss"] < 1.8  # what a network that knows nothing of ten classes has is 2.3
    assert "in order of taylor; sandwich, 1 epochs" in done["text"]


def test_profile_shows_the_bound_in_units(given: dict[str, str], results: Path) -> None:
    told = profile(make_config(asked(given, results, constraints=["latency_ms <= 0.7x", "macs <= 1x"])))
    first, second = told["profile"]["bounds"]
    assert "(0.7x)" in first["words"]
    assert second["trivial"]


def test_candidates_learn_from_the_whole_network(run: Run) -> None:
    folder = run.path / "supernet"
    space = make_space("pruned", {**run.config.space.parameters, "input_shape": (1, 8, 8), "classes": 10})
    common: dict[str, Any] = {
        "space": "pruned",
        "parameters": {},
        "code": space.reference.code,  # type: ignore[union-attr]
        "data": run.config.data,
        "seed": 0,
        "trial_seed": 0,
        "epochs": 1,
        "optimizer": run.config.search.optimizer,
        "checkpoint": folder / "none.pt",
    }
    network = torch.nn.Linear(1, 1)
    program = _program(Candidate(**common, teacher=folder / "given.safetensors"), space, network)  # type: ignore[arg-type]
    assert isinstance(program, DistilledProgram)
    images = torch.randn(2, 1, 8, 8)
    whole = space.trained()  # type: ignore[attr-defined]
    with torch.no_grad():
        torch.testing.assert_close(program._teacher(images), whole(images), rtol=1e-4, atol=1e-4)
    assert type(_program(Candidate(**common), space, network)) is NetworkProgram  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"space": {"name": "nasbench201"}}, ConfigError, "constraint 'macs <= 0.6x' is relative to a network that"),
        ({"space": {"name": "nasbench201"}, "constraints": []}, ConfigError, "give supernet.epochs 1 or more"),
        (
            {"space": {"name": "nasbench201"}, "constraints": [], "supernet": {"epochs": 1}},
            ConfigError,
            "leave search.distill out",
        ),
        ({"criterion": "tayler"}, ConfigError, "did you mean 'taylor'"),
        ({"settings": {"from": 1}}, ConfigError, "takes no setting 'from'"),
        ({"weights": "no.safetensors"}, ConfigError, "there is no file of weights"),
        ({"classes": 3}, SpaceError, "2 of another shape: out.weight"),
        ({"model": "resnet20"}, SpaceError, "are not of 'resnet20'"),
    ],
)
def test_bad_input_is_told_before_anything_is_made(
    given: dict[str, str], results: Path, changes: dict[str, Any], kind: type[EngineError], message: str
) -> None:
    known = {"space", "constraints", "supernet"}
    space = {**given, **{k: v for k, v in changes.items() if k not in known}}
    config = make_config(
        asked(given, results, name="bad", **{"space": space, **{k: v for k, v in changes.items() if k in known}})
    )
    with pytest.raises(kind, match=message) as told:
        run_pipeline(config)
    assert "\n" not in str(told.value)
    assert not (results / "bad" / "device").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accuracy >= 0.9x", "only costs can be relative"),
        ("macs <= 0.5y", "or 'latency_ms <= 0.5x'"),
        ("macs <= x", "or 'latency_ms <= 0.5x'"),
    ],
)
def test_bounds_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config({"constraints": [text]})


def test_resolved_bounds_are_read_back() -> None:
    bound = Bound.parse("latency_ms <= 0.5x")
    assert bound.is_open
    assert not bound.holds(0.0)
    assert str(bound) == "latency_ms <= 0.5x"
    for cost in (1.0, 2.345678912, 62_742_881.0, 3e-7):
        resolved = bound.resolved({"latency_ms": cost})
        assert Bound.parse(str(resolved)) == resolved
        assert resolved.holds(0.5 * cost)
        assert not resolved.holds(0.50001 * cost)
        assert resolved.plain == str(resolved).removesuffix(" (0.5x)")
    assert Bound.parse("macs <= 1x").resolved({"macs": 1 / 3}).holds(1 / 3)


_PROGRAM = """
import json, sys
from nas_engine.config import make_config
from nas_engine.pipeline import run_pipeline
run_pipeline(make_config(json.loads(sys.argv[1])))
"""


def _outcome(path: Path) -> dict[str, Any]:
    """What must not depend on interruptions."""
    trials = [json.loads(line) for line in (path / "search" / "trials.jsonl").read_text().splitlines()]
    return {
        "order": json.loads((path / "supernet" / "order.json").read_text()),
        "scores": sorted((path / "sample" / "scores.jsonl").read_text().splitlines()),
        "events": [(r["event"], r.get("trial"), r.get("epoch"), r.get("accuracy"), r.get("code")) for r in trials],
    }


@pytest.mark.slow
def test_kill_9_in_any_stage_changes_nothing(run: Run, given: dict[str, str], results: Path) -> None:
    """Paths are relative here, and mean the same in the processes of trials."""
    folder = Path(given["weights"]).parent
    relative = {k: v.replace(f"{folder}/", "") for k, v in given.items()}
    config = json.dumps(asked(relative, results, name="broken"))
    path = results / "broken"
    command = [sys.executable, "-c", _PROGRAM, config]
    for moment in ("supernet/order.json", "sample/scores.jsonl", "table/inputs.json", "search/trials/0001.pt"):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd=folder
        )
        deadline = time.monotonic() + 120
        while not (path / moment).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    last = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=folder)
    assert last.returncode == 0, last.stderr
    assert _outcome(path) == _outcome(run.path)
