"""Words for what a cut brings, from figures that are given here."""

import pytest

from nas_engine.compress import verdict
from search_spaces import Graph, GraphBuilder


def chain(width: int, wide: int = 64) -> Graph:
    g = GraphBuilder((3, 16, 16))
    x = g.add("conv2d", g.input, name="first", out_channels=wide, kernel_size=3, padding=1)
    x = g.add("conv2d", x, name="second", out_channels=width, kernel_size=3, padding=1)
    return g.build(g.add("conv2d", x, name="third", out_channels=wide, kernel_size=3, padding=1))


def timed(**medians: float) -> dict[str, dict[str, float]]:
    return {name.replace("_", " "): {"median_ms": ms, "iqr_ms": 0.01} for name, ms in medians.items()}


GRAPHS = {"before": chain(64), "after": chain(29), "rounding to 8": chain(24)}


def test_a_cut_that_pays_needs_no_words() -> None:
    times = {"torch_1": timed(before=2.0, after=1.1)}
    assert verdict.pays(GRAPHS, times)
    (line,) = verdict.explained(GRAPHS, times, 8, 1)
    assert line == "MACs -53 %, latency -45 % (torch, batch 1, 1 thread)"


def test_a_cut_that_does_not_pay_is_explained_by_what_was_measured() -> None:
    times = {"torch_16": timed(before=2.0, after=1.82, rounding_to_8=1.38)}
    assert not verdict.pays(GRAPHS, times)
    (line,) = verdict.explained(GRAPHS, times, 8, 2)
    assert line.startswith(
        "MACs -53 %, latency -9 % (torch, batch 16, 2 threads): channels of 29 waste the vector unit"
    )
    assert line.endswith("rounding to 8 gives -31 %")


def test_widths_are_blamed_only_where_rounding_helps() -> None:
    times = {"torch_16": timed(before=2.0, after=1.82, rounding_to_8=1.9)}
    (line,) = verdict.explained(GRAPHS, times, 8, 1)
    assert "vector" not in line
    assert "rounding" not in line


def test_single_images_are_bound_by_calls() -> None:
    times = {"torch_1": timed(before=2.0, after=1.9), "torch_16": timed(before=9.0, after=4.5)}
    first, second = verdict.explained(GRAPHS, times, 8, 1)
    assert "bound by calling 3 operators, of which the cut removes none (16 images at a time: -50 %)" in first
    assert ":" not in second


def test_what_the_scatter_hides_is_said() -> None:
    noisy = {name: {"median_ms": ms, "iqr_ms": 1.5} for name, ms in (("before", 2.0), ("after", 1.4))}
    (line,) = verdict.explained(GRAPHS, {"torch_1": noisy}, 8, 1)
    assert "within the spread" in line
    assert "spread up to 107 %" in verdict.disturbance({"torch_1": noisy})
    assert not verdict.disturbance({"torch_1": timed(before=2.0, after=1.1)})


def test_misfits() -> None:
    assert verdict.misfits(GRAPHS["after"], 8) == [29]
    assert verdict.misfits(GRAPHS["before"], 8) == []


def test_latencies_are_of_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    times = verdict.latencies({"before": chain(64), "after": chain(8)}, 1, 0.05)
    assert list(times) == ["torch_1", "torch_16", "onnxruntime_1", "onnxruntime_16"]
    assert all(set(found) == {"before", "after"} for found in times.values())
    assert verdict.ratio(times["torch_16"], "after") < 1
    assert [s.name for s in verdict.settings_for("cuda")] == ["torch_1", "torch_16"]
