"""The examples of docs/train-gnn.md run one after another; its settings and those of the example are settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas_engine.gnn import PUBLISHED, Model, load_request, make_request
from nas_engine.gnn.request import Request

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "train-gnn.md").read_text("utf-8")


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    examples = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(examples) == 3
    for number, code in enumerate(examples):
        exec(compile(code, f"train-gnn.md, example {number + 1}", "exec"), scope)
    assert scope["found"]["test"] > 0.3
    assert sum(p.numel() for p in scope["network"].parameters()) == scope["found"]["params"]
    assert scope["deep"].cost.params == pytest.approx(19.7e6, rel=0.005)


def test_the_settings_are_settings() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    request = make_request(yaml.safe_load(text))
    assert (request.name, request.data.parts, request.model.conv) == ("second", 2, "gen")


def test_every_setting_is_explained() -> None:
    told = set(re.findall(r"`(?:model\.)?([a-z_]+)`", TEXT)) | set(re.findall(r"^ *([a-z_]+):", TEXT, re.MULTILINE))
    assert set(Request.model_fields) <= told
    assert set(Model.model_fields) <= told
    assert all(f"`{name}`" in TEXT for name in PUBLISHED)


def test_the_example_is_a_training() -> None:
    request = load_request(ROOT / "examples" / "train_gnn.yaml")
    assert (request.model.depth, request.mode, request.data.source) == (28, "reversible", "digits-knn")
