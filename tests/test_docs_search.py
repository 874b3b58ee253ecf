"""The examples of docs/search.md and docs/nao.md run, those of a page one after another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.parametrize("name", ["search.md", "nao.md"])
def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    examples = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text("utf-8"), re.DOTALL)
    assert len(examples) >= 2
    for number, code in enumerate(examples):
        exec(compile(code, f"{name}, example {number + 1}", "exec"), scope)
    for trial in scope["study"].get_trials():
        assert set(trial.params) <= {choice.name for choice in scope["space"].choices}
