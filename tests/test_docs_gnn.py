"""The example of docs/gnn.md runs and prints what the page says; its table tells of the space as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from search_spaces.gnn import Gnn

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "gnn.md").read_text(encoding="utf-8")


def test_the_example_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})
    said = [line.removeprefix("# ") for line in code.splitlines() if line.startswith("# ")]
    assert capsys.readouterr().out.splitlines() == said


def test_the_table_has_the_choices() -> None:
    for choice in Gnn().choices:
        (row,) = [
            line for line in PAGE.splitlines() if line.startswith("|") and f"`{choice.name}`" in line.split("|")[1]
        ]
        options = row.split("|")[2].replace("`", "").split(",")
        assert [o.strip() for o in options] == [f"{o:g}" if isinstance(o, int | float) else o for o in choice.options]
