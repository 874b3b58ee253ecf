"""The examples of docs/graphs.md run, and its settings are settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from nas_engine.config import make_config
from nas_engine.quality import GRAPHS
from nas_engine.train.candidate import shared_data

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "graphs.md").read_text("utf-8")


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(code, "graphs.md", "exec"), scope)
    assert scope["data"].edges == 19_858  # type: ignore[attr-defined]
    assert scope["mine"].input_shape == (200, 8)  # type: ignore[attr-defined]


def test_the_settings_are_settings() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    section = make_config(yaml.safe_load(text)).data
    assert shared_data(section, 0).input_shape == (1797, 64)


def test_every_source_is_told() -> None:
    told = re.findall(r"^\| `([\w-]+)", TEXT.split("## Sources")[1].split("## ")[0], re.MULTILINE)
    assert set(told) - {"data"} == set(GRAPHS)
