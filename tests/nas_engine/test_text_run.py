"""A whole search on a text: from its file to verified bundles and a report that speaks of perplexity."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas_engine.config import make_config
from nas_engine.pipeline import run_pipeline
from nas_engine.run import STAGES, Run
from tests.nas_engine.commands import good

SUBJECTS, VERBS, OBJECTS = ("dogs", "cats", "owls"), ("see", "hear", "like"), ("mice", "rain", "us")


def sentences(path: Path, count: int) -> Path:
    """Sentences of three words and an end: of two of the three words nothing can be known beforehand."""
    rng = np.random.default_rng(0)
    words = [rng.choice(kinds, count) for kinds in (SUBJECTS, VERBS, OBJECTS)]
    path.write_text("".join(f"{a} {b} {c}\n" for a, b, c in zip(*words, strict=True)))
    return path


def small(folder: Path) -> dict[str, Any]:
    optimizer = {"batch_size": 10, "learning_rate": 2.0, "weight_decay": 0, "clip_norm": 0.25}
    return {
        "name": "text",
        "threads": 1,
        "results": str(folder / "results"),
        "data": {"source": f"text:{sentences(folder / 'text.txt', 900)}", "steps": 8},
        "device": {"measure_seconds": 2},
        "space": {"name": "recurrent", "nodes": 2, "hidden": 12},
        "constraints": ["params <= 40000"],
        "supernet": {"epochs": 2, "optimizer": optimizer},
        "sample": {"architectures": 12, "workers": 1, "batch_size": 8},
        "predictor": {"name": "gcn", "members": 2, "epochs": 10},
        "table": {"workers": 1},
        "search": {"trials": 2, "epochs": 3, "grace_epochs": 2, "threads": 1, "optimizer": optimizer},
        "export": {"networks": 1, "formats": ["model.py", "torch_export", "onnx"]},
    }


@pytest.mark.slow
def test_a_search_on_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_ENGINE_CACHE", str(tmp_path / "cache"))
    told: list[str] = []
    run = run_pipeline(
        make_config(small(tmp_path)), progress=lambda event, details: told.append(str(details.get("text")))
    )
    assert [row["state"] for row in run.status] == ["done"] * len(STAGES)
    best = run.best()
    assert best["accuracy"] == pytest.approx(math.exp(-best["loss"]))
    # three words of three and an end that is sure: a perplexity of 27 ** (1 / 4) = 2.28 is the best there is
    assert 2.2 < 1 / best["test_accuracy"] < 4
    assert run.space.input_shape == (8,)
    assert any("perplexity" in text for text in told)
    assert not any("accuracy" in text for text in told if text.startswith("trial"))
    assert "perplexity" in str(run.directory.done("choose"))
    _check_page(run)
    shown = good("table", "query", str(run.path), "--top", "3")
    assert "perplexity" in shown
    assert "%" not in shown
    assert f"{1 / run.query(top=1)['accuracy'][0]:.1f}" in shown


def _check_page(run: Run) -> None:
    page = run.path.joinpath("report.html").read_text(encoding="utf-8")
    assert "erplexity" in page
    assert "test images" not in page
    (bundle,) = run.directory.done("export")["bundles"]  # type: ignore[index]
    card = Path(bundle["path"], "card.md").read_text(encoding="utf-8")
    assert "language modelling" in card
    assert "perplexity" in card
