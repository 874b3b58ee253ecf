"""The examples of docs/elastic.md run, those in Python one after another, and its YAML is a configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from nas_engine.config import make_config
from nas_engine.train.sampling import samplings

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "elastic.md").read_text("utf-8")


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_examples_run() -> None:
    scope: dict[str, Any] = {}
    found = examples("python")
    assert len(found) == 3
    for number, code in enumerate(found):
        exec(compile(code, f"elastic.md, example {number + 1}", "exec"), scope)
    assert 0 <= scope["score"].accuracy <= 1


def test_the_configuration_is_one() -> None:
    (text,) = examples("yaml")
    supernet = make_config(yaml.safe_load(text)).supernet
    assert [phase.open for phase in supernet.shrinking] == [(), ("kernel",), ("depth",), ("expansion", "width")]
    assert supernet.kernel_transform


def test_every_strategy_is_told() -> None:
    assert all(f"| `{name}` |" in PAGE for name in samplings)
