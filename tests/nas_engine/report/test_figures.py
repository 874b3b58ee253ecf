"""Figures and the numbers behind them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from nas_engine.config import Bound
from nas_engine.report import figures
from nas_engine.report.findings import Cloud, Findings, front, read_cloud
from nas_engine.report.words import standard_error, with_error
from nas_engine.run import Run


def traces(figure) -> dict[str, dict]:
    return {trace.name: trace.to_plotly_json() for trace in figure.data}


def test_front_by_hand():
    costs, accuracies = front(np.array([3.0, 1.0, 2.0, 2.0, 4.0]), np.array([0.9, 0.5, 0.7, 0.8, 0.85]))
    assert costs.tolist() == [1.0, 2.0, 3.0]
    assert accuracies.tolist() == [0.5, 0.8, 0.9]


def test_front_is_what_no_other_beats():
    rng = np.random.default_rng(0)
    costs, accuracies = rng.integers(0, 20, 200).astype(float), rng.integers(0, 20, 200) / 20
    edge = set(zip(*map(np.ndarray.tolist, front(costs, accuracies)), strict=True))
    every = set(zip(costs.tolist(), accuracies.tolist(), strict=True))
    beaten = {p for p in every if any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in every)}
    assert edge == every - beaten


def test_standard_error():
    assert standard_error(0.95, 400) == pytest.approx(math.sqrt(0.95 * 0.05 / 400))
    assert standard_error(1.0, 100) > 0  # all right is not known without error
    assert math.isnan(standard_error(0.5, 0))
    assert with_error(None, 10) == "-"
    assert with_error(0.9, 10**6) == "90.00 ± 0.03 %"


def test_pareto_shows_networks_bounds_and_choice(finished: Run):
    f = Findings(finished)
    figure = figures.pareto(f.networks, "latency_ms", finished.config.bounds, 100)
    shown = traces(figure)
    assert sorted(shown["chosen"]["text"]) == sorted(str(n["trial"]) for n in f.winners)
    markers = [t for t in figure.data if t.mode == "markers"]
    assert sum(len(t.x) for t in markers) == len(f.networks)
    assert [s.type for s in figure.layout.shapes] == ["rect", "line"]
    low, high = figure.layout.xaxis.range
    assert low < finished.config.bounds[0].value < high
    eligible = [n for n in f.networks if n["bounds_met"]]
    assert max(shown["front"]["y"]) == pytest.approx(100 * max(n["accuracy"] for n in eligible), rel=1e-4)


def test_a_bound_far_away_does_not_squeeze_the_networks(finished: Run):
    f = Findings(finished)
    figure = figures.pareto(f.networks, "params", [Bound("params", "<=", 1e9), Bound("accuracy", ">=", 0.9)], 100)
    assert figure.layout.xaxis.range[1] < 1e7
    assert "outside the view" in figure.layout.annotations[0].text
    assert {s.type for s in figure.layout.shapes} == {"rect", "line"}  # those of the accuracy
    assert figure.layout.shapes[0].y0 == pytest.approx(90)


def test_one_network_has_a_figure_too(finished: Run):
    network = {**Findings(finished).networks[0], "bounds_met": False, "chosen": True}
    figure = figures.pareto([network], "macs", finished.config.bounds, 100)
    low, high = figure.layout.xaxis.range
    assert low < network["macs"] < high


def test_believed_draws_the_sample_and_the_whole_front(finished: Run):
    path = finished.path / "table" / "table.parquet"
    cloud = read_cloud(path, 50)
    assert (cloud.rows, cloud.thinned, len(cloud.columns["macs"])) == (1200, True, 50)
    whole = read_cloud(path)
    assert not whole.thinned
    np.testing.assert_array_equal(cloud.fronts["macs"][1], whole.fronts["macs"][1])
    shown = traces(figures.believed(cloud, Findings(finished).networks, "macs", ()))
    assert len(shown["table"]["x"]) == 50
    assert len(shown["trained"]["x"]) == len(Findings(finished).networks)


def test_believed_without_networks():
    cloud = Cloud(
        2, {"accuracy": np.array([0.5, 0.6]), "macs": np.array([1.0, 2.0])}, {"macs": (np.ones(1), np.ones(1))}
    )
    assert set(traces(figures.believed(cloud, [], "macs", ()))) == {"table", "predicted front", "trained"}


def test_progress_and_curves_show_every_trial(finished: Run):
    f = Findings(finished)
    shown = traces(figures.progress(f.trials))
    assert sum(len(t["x"]) for name, t in shown.items() if name != "best so far") == len(f.trials)
    best = shown["best so far"]["y"]
    assert all(a <= b for a, b in pairwise(best))
    lines = traces(figures.curves(f.trials, f.curves, {n["trial"] for n in f.winners}))
    drawn = {text for t in lines.values() for text in t["text"] if text}
    assert drawn == {str(t.number) for t in f.trials if t.epochs}
    assert len(set(filter(None, lines["chosen"]["text"]))) == len(f.winners)


def test_latency_shows_fitted_and_trained_networks(finished: Run):
    f = Findings(finished)
    shown = traces(figures.latency(f.timed, f.latency["networks"]))
    assert len(shown["trained"]["x"]) == len(f.networks)
    assert len(shown["corrected by these"]["x"]) == 12
    assert set(traces(figures.latency([], f.latency["networks"]))) == {None, "corrected by these"}
    assert list(figures.latency([], []).data[0].x) == []


def test_text_of_data_is_escaped():
    figure = figures.agreement([1, 2], [1, 2], "a", "b", texts=["<script>", "ok"])
    assert list(figure.data[1].text) == ["&lt;script&gt;", "ok"]


def test_ticks_are_whole_and_few():
    assert [figures._tick(n) for n in (0, 1, 12, 13, 40, 120, 130, 1000)] == [1, 1, 1, 2, 5, 10, 20, 100]
