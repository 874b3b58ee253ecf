"""The example of docs/training.md runs, and its settings are settings."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from nas_engine.config import make_config

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "training.md").read_text("utf-8")


def test_the_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(code, "training.md", "exec"), scope)
    assert scope["epoch"].epoch == 2  # type: ignore[attr-defined]


def test_the_settings_are_settings() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    config = make_config(yaml.safe_load(text))
    assert (config.supernet.processes, config.supernet.optimizer.accumulate) == (2, 2)
