"""The examples of docs/scaling.md run one after another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from search_spaces.scaling.forms import RULES

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_ENGINE_CACHE", str(tmp_path / "cache"))
    scope: dict[str, Any] = {}
    examples = re.findall(r"```python\n(.*?)```", (DOCS / "scaling.md").read_text("utf-8"), re.DOTALL)
    assert len(examples) == 2
    for number, code in enumerate(examples):
        exec(compile(code, f"scaling.md, example {number + 1}", "exec"), scope)
    base, member = scope["report"]["members"][:2]
    assert member["rule"] == "dwr"
    assert 1.5 * base["macs"] < member["macs"] <= 2 * base["macs"]
    assert 3 < scope["large"].cost.macs / scope["small"].cost.macs < 5.5
    assert (tmp_path / "larger" / "scaling.html").exists()
    assert (tmp_path / "larger" / "members" / "dwr" / "model.py").exists()
    assert scope["wide"].inputs[0].shape == (3, 96, 96)


def test_every_option_and_rule_is_explained() -> None:
    from tests.nas_engine.commands import good

    text = (DOCS / "scaling.md").read_text("utf-8")
    options = set(re.findall(r"--[a-z]+", good("scale", "--help"))) - {"--help", "--json"}
    assert options <= set(re.findall(r"--[a-z]+", text))
    assert all(f"`{name}`" in text for name in RULES)
