"""The examples of CONTRIBUTING.md, section by section, run as what they are: components and their tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def sections() -> dict[str, str]:
    """Heading to the Python blocks under it, joined, for headings that have any."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = {}
    for part in text.split("\n## ")[1:]:
        heading, _, body = part.partition("\n")
        blocks = re.findall(r"```python\n(.*?)```", body, flags=re.DOTALL)
        if blocks:
            found[heading] = "\n\n".join(blocks)
    return found


@pytest.mark.parametrize("heading", sections())
def test_examples_are_true(heading: str, tmp_path: Path) -> None:
    (tmp_path / "test_example.py").write_text(sections()[heading], encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_example.py"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"\d+ passed", run.stdout)


def test_every_extension_point_has_an_example() -> None:
    points = ["a space", "an operator", "a predictor", "a cost model", "a pruning criterion"]
    assert list(sections()) == [f"Add {point}" for point in points]
