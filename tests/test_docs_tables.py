"""The examples of docs/tables.md run, in their order, on a finished run and in a directory of their own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nas_engine import Run
from nas_engine.config import make_config
from search_spaces import make_space

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "tables.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def here(small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run `my` and the table of the example."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "my").symlink_to(small_run.path.resolve())
    (csv,) = re.findall(r"```csv\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "results.csv").write_text(csv)
    return tmp_path


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_examples_run(here: Path, number: int) -> None:
    scope: dict[str, object] = {}
    exec(PYTHON[number], scope)


def test_the_example_of_a_table_says_what_it_is(here: Path) -> None:
    arguments = {"path": "results.csv", "choices": ["layers", "width", "operator"], "target": "accuracy"}
    about = make_space("table", arguments).about  # type: ignore[attr-defined]
    assert (about["members"], about["left_out"], about["repeated"], about["share"]) == (6, 1, 1, 6 / 8)


def test_the_configuration_is_valid() -> None:
    import yaml

    (text,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert make_config(yaml.safe_load(text)).space.parameters["key"] == "arch_str"
