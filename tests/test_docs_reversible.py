"""The examples of docs/reversible.md run one after another, and the page names what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces.network import MEMORY
from search_spaces.operators.message_passing import CONNECTIONS, CONVOLUTIONS

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "reversible.md").read_text("utf-8")


def test_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    scope: dict[str, Any] = {}
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 4
    for number, code in enumerate(examples):
        exec(compile(code, f"reversible.md, example {number + 1}", "exec"), scope)
    assert f"# {capsys.readouterr().out.strip()}\n" in examples[-1]
    back = scope["net"].inverse(scope["y"], scope["edges"])
    assert (back - scope["x"]).norm() <= 1e-5 * scope["x"].norm()
    for name in ("net", "dropping", "network", "deep"):
        assert all(p.grad is not None for p in scope[name].parameters()), name


def test_all_ways_and_kinds_are_named() -> None:
    named = set(re.findall(r"`([a-z_]+)`", PAGE))
    assert {*MEMORY, *CONNECTIONS, *CONVOLUTIONS} <= named
