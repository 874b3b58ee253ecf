"""The examples of docs/pruned.md run, and what is configured there and in examples/pruned.yaml is valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from nas_engine.config import load_config, make_config
from search_spaces import make_space

ROOT = Path(__file__).resolve().parents[1]


def test_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "pruned.md").read_text("utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert examples
    for number, code in enumerate(examples):
        exec(compile(code, f"pruned.md, example {number + 1}", "exec"), {})
    assert "of 40,551,040 MACs" in capsys.readouterr().out


def test_configurations_are_valid() -> None:
    text = (ROOT / "docs" / "pruned.md").read_text("utf-8")
    for section in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        assert make_config(yaml.safe_load(section)).bounds[0].is_open


def test_the_example_names_a_network_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config("examples/pruned.yaml")
    space = make_space(config.space.name, {"input_shape": (1, 8, 8), **config.space.parameters})
    assert space.reference is not None
    assert space.graph(space.reference).cost.params == 137_458
    assert any(choice.name.endswith(".kept") for choice in space.choices)
