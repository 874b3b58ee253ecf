"""The one figure of quality and the two ways it is shown."""

from __future__ import annotations

import io
import math

import pytest

from nas_engine import pages, show
from nas_engine.data import GRAPH_SOURCES, SOURCES, TEXT_SOURCES
from nas_engine.quality import ACCURACY, GRAPHS, NODES, PERPLEXITY, ROC_AUC, TEXTS, quality_of
from nas_engine.report.words import with_error


def test_kinds_of_text_are_those_that_are_registered() -> None:
    assert set(TEXTS) == set(TEXT_SOURCES)
    assert set(GRAPHS) == set(GRAPH_SOURCES)
    assert len({*TEXTS, *GRAPHS, *SOURCES}) == len(TEXTS) + len(GRAPHS) + len(list(SOURCES))
    assert [quality_of(s) for s in ("pydoc", "text:a", " text:a", "CIFAR10", "folder:text")] == [PERPLEXITY] * 3 + [
        ACCURACY
    ] * 2


def test_quality_of_graphs() -> None:
    assert quality_of("graph:a.npz") is NODES
    assert quality_of(" graph:a.npz", several=True) is ROC_AUC
    assert NODES.told(0.5) == ACCURACY.told(0.5)
    assert NODES.counted
    assert not ROC_AUC.counted
    assert not ROC_AUC.falling
    assert ROC_AUC.told(0.7133) == "ROC-AUC 71.3 %"
    assert with_error(0.7133, 100, ROC_AUC) == "71.3 %"
    assert with_error(0.95, 400, NODES) == with_error(0.95, 400)


@pytest.mark.parametrize("loss", [0.0, 1.0, 7.3])
def test_perplexity_is_the_exponential_of_the_loss(loss: float) -> None:
    assert PERPLEXITY.shown(PERPLEXITY.score(0.5, loss)) == pytest.approx(math.exp(loss))
    assert ACCURACY.score(0.5, loss) == 0.5


def test_what_is_shown() -> None:
    assert PERPLEXITY.told(1 / 1234.56) == "perplexity 1,234.6"
    assert PERPLEXITY.words(0.0) == "inf"
    assert PERPLEXITY.words(math.nan) == PERPLEXITY.words(None) == show.MISSING
    assert show.figure("test_accuracy", 0.01, PERPLEXITY) == "100.0"
    assert show.figure("test_accuracy", 0.01) == "1.0 %"
    assert show.figure("latency_ms", 2.0, PERPLEXITY) == "2.00 ms"


def test_runs_of_both_kinds_stand_in_one_list() -> None:
    about = {"state": "done", "stage": None, "networks": 1, "test_accuracy": None, "changed": ""}
    rows = [
        {"run": "a", "quality": "accuracy", "accuracy": 0.5, **about},
        {"run": "b", "quality": "perplexity", "accuracy": 0.005, **about},
        {"run": "c", "accuracy": None, "problem": "gone", **about},
    ]
    stream = io.StringIO()
    show.show(pages.runs(rows), stream)
    text = stream.getvalue()
    assert "50.0 %" in text
    assert "200.0" in text
