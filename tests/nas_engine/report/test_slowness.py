"""Why chosen networks are not faster, as the report tells it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nas_engine.report.findings import Findings
from nas_engine.report.page import render
from nas_engine.report.sections import drawings, slowness
from nas_engine.run import Run
from predictors.cost import DeviceProfile, Roofline
from search_spaces import GraphBuilder
from search_spaces.errors import RunError
from tests.predictors.cost.synthetic import SyntheticDevice


@pytest.fixture
def roofline(tmp_path: Path) -> Roofline:
    device = SyntheticDevice()
    described, rng = DeviceProfile("Some CPU", 4, 1, "torch", "2.11.0"), np.random.default_rng(0)
    return Roofline.measure(described, rng=rng, measurer=device, clock=device.clock, directory=tmp_path / "cache")


def test_every_chosen_network_has_its_reasons(finished: Run) -> None:
    f = Findings(finished)
    assert f.roofline is None
    rows = drawings(f)["networks"]
    assert len(rows) == len(f.winners) > 0
    assert all(row["slow"]["time"] is None for row in rows)
    if finished.config.space.name == "mobile":
        for row in rows:
            told = {found["guideline"]: found["words"] for found in row["slow"]["broken"]}
            assert told["G1"].startswith("1x1 convolution ")
            assert told["G4"].startswith("Element-wise operators move ")
    page = render(f)
    assert page.count("Why it is not faster") == len(rows)


def test_with_rates_of_the_device_the_time_is_told(make_run: Callable[..., Run], roofline: Roofline) -> None:
    run = make_run("mobile")
    (run.path / "device" / "roofline.json").write_text(roofline.to_json())
    (row, *_) = drawings(Findings(run))["networks"]
    assert row["slow"]["time"].startswith("Of its predicted time on this device ")
    assert all(found["time"].endswith("\u00a0%") for found in row["slow"]["broken"])
    assert "is calling its" in render(Findings(run))


def test_a_damaged_file_is_told(make_run: Callable[..., Run]) -> None:
    run = make_run()
    (run.path / "device" / "roofline.json").write_text("{}")
    with pytest.raises(RunError, match=r"roofline\.json is damaged"):
        render(Findings(run))


def test_a_network_that_keeps_the_guidelines_has_nothing_to_tell() -> None:
    g = GraphBuilder((8, 8, 8))
    graph = g.build(g.add("conv2d", g.input, out_channels=8, kernel_size=3, padding=1))
    assert slowness(graph, None) == {"broken": [], "time": None}
