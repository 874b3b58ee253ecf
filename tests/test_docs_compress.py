"""The examples of docs/compress.md run one after another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nas_engine.compress import verdict
from nas_engine.compress.allocation import Allocator, allocators

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(allocators, "_entries", dict(allocators._entries))
    monkeypatch.setattr(verdict, "SETTINGS", verdict.SETTINGS[:2])  # exports to ONNX take seconds
    scope: dict[str, Any] = {}
    examples = re.findall(r"```python\n(.*?)```", (DOCS / "compress.md").read_text("utf-8"), re.DOTALL)
    assert len(examples) == 3
    for number, code in enumerate(examples):
        exec(compile(code, f"compress.md, example {number + 1}", "exec"), scope)
    assert scope["report"]["costs"]["after"]["macs"] <= 0.5 * scope["report"]["costs"]["before"]["macs"]
    assert scope["small"].graph.cost.macs <= 0.5 * scope["graph"].cost.macs
    assert scope["same"].keep.sum() == scope["coupling"].count - 8
    made: Allocator = allocators["deep_first"](scope["coupling"], scope["scores"])
    assert made.removals[0].group == len(scope["coupling"].groups) - 1


def test_every_option_is_explained() -> None:
    from tests.nas_engine.commands import good

    text = (DOCS / "compress.md").read_text("utf-8")
    options = set(re.findall(r"--[a-z]+", good("compress", "--help"))) - {"--help", "--json"}
    assert options <= set(re.findall(r"--[a-z]+", text))
    assert all(f"`{name}`" in text for name in allocators.names())
