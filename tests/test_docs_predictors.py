"""The examples of docs/predictors.md and docs/costs.md run, each in a directory of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
EXAMPLES = [
    (name, number, code)
    for name in ("predictors.md", "costs.md")
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", (DOCS / name).read_text("utf-8"), re.DOTALL))
]


@pytest.mark.parametrize(("name", "number", "code"), EXAMPLES, ids=[f"{n}-{i}" for n, i, _ in EXAMPLES])
def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, code: str) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"{name}, example {number + 1}", "exec"), {})
