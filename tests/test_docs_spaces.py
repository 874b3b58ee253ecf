"""The examples of docs/spaces.md run, print what the page says, and name what exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from search_spaces import make_space, spaces

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "spaces.md").read_text(encoding="utf-8")


def test_published_weights_load(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    families, *_ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(families, {})
    assert f"# {capsys.readouterr().out.strip()}\n" in families


def test_language_models_are_of_the_size_that_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    _, build, use = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(build, scope)
    assert f"# {capsys.readouterr().out.strip()}\n" in build
    scope["tokens"] = torch.randint(10_000, (1, 70))
    exec(use, scope)
    assert scope["logits"].shape == (1, 35, 10_000)


def test_the_spaces_of_the_settings_can_be_made() -> None:
    found = [yaml.safe_load(text)["space"] for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    assert {space["name"] for space in found} == {"efficientnet", "compound"}
    for settings in found:
        space = make_space(settings.pop("name"), {"input_shape": (3, 32, 32), "classes": 10, **settings})
        assert space.graph(next(iter(space.envelope()))).cost.macs > 0


def test_all_spaces_are_told_of() -> None:
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    own = [name for name, cls in spaces.items() if cls.__module__.startswith("search_spaces.")]
    assert [name for name in own if f"`{name}`" not in readme] == []
