"""The examples of docs/graph-search.md run, one after another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "graph-search.md"


@pytest.mark.slow
def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_ENGINE_CACHE", str(tmp_path / "cache"))
    text = PAGE.read_text("utf-8")
    (settings,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    Path("mine.yaml").write_text(settings.replace("graph:mine.npz", f"graph:{tmp_path}/mine.npz"))
    scope: dict[str, Any] = {}
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 4
    for number, code in enumerate(examples):
        exec(compile(code, f"graph-search.md, example {number + 1}", "exec"), scope)
    assert scope["best"]["train_memory_bytes"] <= 2e6
    assert scope["best"]["test_accuracy"] > 0.6
    assert scope["logits"].shape == (1, 50, 3)
    assert scope["classes"].shape == (50,)
