"""The criterion bench on a small network and digits: its line, its table, its figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import common, criteria
from search_spaces.errors import ConfigError

MODEL = """
from torch import nn


def make(classes=10):
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, classes),
    )
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(common, "RESULTS", tmp_path / "benchmarks")
    (tmp_path / "small.py").write_text(MODEL)
    return tmp_path


def run(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    small = ["--images", "30", "--batch", "10", "--few", "10", "--held-out", "20", "--points", "3"]
    criteria.main(["--model", f"{folder / 'small.py'}:make", "--data", "digits", *small, *more])
    line: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    return line


def test_the_bench_judges_all_criteria_that_score_units(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = run(folder, capsys)
    rows = line["criteria"]
    expected = {"random", "magnitude", "bn_scale", "taylor", "oracle", *criteria.VARIANTS}
    assert expected <= set(rows)
    for name in expected:
        row = rows[name]
        assert {"spearman", "kendall", "pearson", "ablation_area", "ablation_area_all", "seconds"} <= set(row)
        assert all(value is None or isinstance(value, int | float) for value in row.values())
        assert 0 <= row["ablation_area"] <= 1
    assert rows["oracle"]["spearman"] == rows["oracle"]["kendall"] == 1
    assert rows["taylor"]["spearman"] > rows["random"]["spearman"]
    (kept,) = json.loads((folder / "benchmarks" / "criteria.json").read_text())["rows"]
    assert kept["criteria"] == rows
    assert "provenance" in kept
    (page,) = (folder / "criteria").glob("*.md")
    assert all(f"| {name} |" in page.read_text() for name in expected)
    drawing = ElementTree.parse(page.with_suffix(".svg")).getroot()
    bars = [e for e in drawing.iter() if e.tag.endswith("rect")]
    lines = [e for e in drawing.iter() if e.tag.endswith("polyline")]
    judged = [name for name, row in rows.items() if "refused" not in row]
    assert len(bars) - 1 == len(lines) == len(judged)


def test_few_units_some_criteria_and_the_other_part(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = run(folder, capsys, "--units", "5", "--criteria", "taylor,random", "--calibrate", "test", "--over", "set")
    assert set(line["criteria"]) == {"taylor", "random"}
    row = line["criteria"]["taylor"]
    assert row["spearman"] == row["spearman_set"] != row["spearman_batch"]
    assert line["units"] == 5
    assert "of the test part" in line["measured_on"]


def test_a_criterion_that_does_not_exist_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'taylor'"):
        run(folder, capsys, "--criteria", "tailor")


def test_a_criterion_that_refuses_the_network_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "small.py").write_text(
        MODEL.replace("nn.BatchNorm2d(6)", "nn.Identity()").replace("nn.BatchNorm2d(8)", "nn.Identity()")
    )
    line = run(folder, capsys, "--criteria", "bn_scale,random")
    assert "batch norms" in line["criteria"]["bn_scale"]["refused"]
    assert line["criteria"]["random"]["seconds"] >= 0
