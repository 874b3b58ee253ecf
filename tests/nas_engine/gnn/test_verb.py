"""`nas-engine train-gnn`: what it prints, and how it fails and goes on."""

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
import yaml

from nas_engine.gnn.training import load_network
from tests.nas_engine.commands import bad, good


@pytest.fixture
def config(asked: dict[str, Any], tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(asked))
    return str(path)


def test_it_shows_what_was_reached_and_what_it_took(config: str) -> None:
    text = good("train-gnn", config)
    for words in ("accuracy, test", "peak memory of a step", "parameters", "time of a step", "model.safetensors"):
        assert words in text
    found = json.loads(good("train-gnn", config, "--json"))
    assert found["name"] == "small"
    assert 0 <= found["test"] <= 1


def test_mistakes_are_one_line(config: str, tmp_path: Path) -> None:
    bad(2, "unknown key 'model.dept': did you mean 'depth'", "train-gnn", config, "--set", "model.dept=3")
    bad(2, "no file 'none.yaml'", "train-gnn", "none.yaml")
    plain = ("--set", "memory=reversible", "--set", "model.connection=plain")
    bad(2, "take memory checkpoint or plain", "train-gnn", config, *plain)
    bad(3, "there is no file", "train-gnn", config, "--set", f"data.source=graph:{tmp_path / 'none.npz'}")
    good("train-gnn", config)
    bad(5, "was begun with epochs 6, now 7", "train-gnn", config, "--set", "epochs=7")


@pytest.mark.slow
def test_killed_by_the_system_it_goes_on(config: str, asked: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "nas_engine.cli", "train-gnn", config, "--set", "epochs=150", "--set"]
    folder = Path(asked["results"])
    going = subprocess.Popen([*command, "name=broken"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (folder / "broken" / "history.json").exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(going.pid, signal.SIGKILL)
    assert going.wait() == -signal.SIGKILL
    assert not (folder / "broken" / "result.json").exists()
    for name in ("broken", "whole"):
        subprocess.run([*command, f"name={name}"], check=True, capture_output=True)
    whole, broken = (load_network(folder / name).state_dict() for name in ("whole", "broken"))
    assert all((whole[key] == broken[key]).all() for key in whole)
