"""The page: complete, self-contained, and its figures true to the costs."""

import json
import math
from typing import Any

import numpy as np
import pytest

from nas_engine.scaling import figures
from nas_engine.scaling.base import Base, make_base
from nas_engine.scaling.costing import Coster
from nas_engine.scaling.page import render
from nas_engine.scaling.planes import axes, corners, planes
from search_spaces.scaling import Compound, FastCompound, Scaling, Single
from tests.nas_engine.report.test_page import Reader
from tests.nas_engine.scaling.conftest import quick

SCALINGS = {
    "compound": [Compound().scaling(phi) for phi in (1, 2)],
    "dwr": [FastCompound().at(1.92**phi) for phi in (1, 2)],
    "width": [Single("width").at(1.92**phi) for phi in (1, 2)],
}


class Timed(Coster):
    """Costs with a latency of a nanosecond for each MAC."""

    def __call__(self, graph: Any) -> dict[str, float]:
        found = super().__call__(graph)
        return {**found, "latency_ms": 1e-6 * found["macs"]}


@pytest.fixture(scope="module")
def base() -> Base:
    return make_base(quick("mobilenetv2_050", phi=2, input="3x64x64", classes=10))


@pytest.fixture(scope="module")
def told(base: Base) -> dict[str, Any]:
    costs, own = Timed(), Timed()(base.graph)
    rows = []
    for rule, scalings in {"": [Scaling()], **SCALINGS}.items():
        for phi, scaling in enumerate(scalings, 1 if rule else 0):
            found = costs(base.scaled(scaling))
            measured = (
                {"median_ms": found["latency_ms"], "iqr_ms": 0.01, "low_ms": found["latency_ms"]} if phi != 1 else None
            )
            sizes = {"depth": scaling.depth, "width": scaling.width, "resolution": scaling.resolution}
            shares = {name: value / own[name] for name, value in found.items()}
            label = f"{rule} phi {phi}" if rule else "base"
            rows.append({"rule": rule, "phi": phi, "label": label, "factor": 1.92**phi, "input": [3, 64, 64], **sizes,
                         **found, "shares": shares, "measured": measured, "id": "0"})  # fmt: skip
    return {
        "name": "<b>odd</b>", "source": "a test", "out": "here", "rule": "compound", "phi": 2, "to": [], "classes": 10,
        "notes": ["by hand"],
        "exponents": {"alpha": 1.2, "beta": 1.1, "gamma": 1.15, "a": 0.8}, "members": rows, "seconds": 3.0,
        "impossible": {"depth": "no stage </script>"}, "words": ["first", "second"], "warnings": ["beware"],
        "device": {"processor": "P", "cores": 2}, "bundles": {"compound phi 1": "there"},
        "latency": {"measured": 3, "units": 4, "error": {"networks": {"median_ape": 0.04, "networks": 5}}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def surfaces(base: Base) -> dict[str, Any]:
    through = SCALINGS["compound"][1]
    along = axes([s for group in SCALINGS.values() for s in group], 5)
    return planes(base, Timed(), through, along, lambda done, total: None)


def test_the_page_is_whole_and_safe(told: dict[str, Any], surfaces: dict[str, Any]) -> None:
    paths = {rule: [{"factor": 1.0, **row} for row in told["members"]] for rule in SCALINGS}
    page = Reader(render(told, paths, surfaces))
    assert {"asked", "members", "cost", "planes"} <= set(page.ids)
    assert page.links == ["#asked", "#members", "#cost", "#planes", "data:,"] or set(page.links) <= {
        "data:,", "#asked", "#members", "#cost", "#planes"
    }  # fmt: skip
    for words in (
        "<b>odd</b> scaled by phi 2",
        "rule depth has no member here",
        "beware",
        "Second.",
        "off by 4 %",
        "by hand",
    ):
        assert words in page.text
    drawn = [json.loads(script) for script in page.scripts if script.startswith('{"data"')]
    assert len(drawn) == 4


def test_surfaces_hold_the_costs_of_networks(base: Base, surfaces: dict[str, Any]) -> None:
    depth = SCALINGS["compound"][1].depth
    plane = surfaces["width-resolution"]
    for i, resolution in enumerate(plane["resolution"]):
        for j, width in enumerate(plane["width"]):
            wanted = base.scaled(Scaling(depth, width, resolution)).cost.macs
            assert plane["macs"][i][j] == wanted
            assert plane["latency_ms"][i][j] == pytest.approx(1e-6 * wanted)
    assert set(surfaces) == {"width-resolution", "width-depth"}


def test_axes_reach_beyond_the_members() -> None:
    along = axes([Scaling(width=2.0)], 5)
    assert along["width"][0] < 1 < 2 < along["width"][-1]
    assert along["depth"][0] < 1 < along["depth"][-1]
    assert len(along["resolution"]) == 5
    found = corners(Scaling(depth=3.0), along)
    assert len(found) == 8
    assert all(s.depth == 3.0 for s in found[:4])


def test_finer_surfaces_go_through_what_is_known() -> None:
    x, y = [1.0, 2.0, 4.0], [1.0, 3.0, 9.0]
    z = [[a * b**2 for a in x] for b in y]
    across, up, fine = figures.finer(x, y, z)
    assert np.allclose(fine, across[None, :] * up[:, None] ** 2)
    z[0][0] = None
    gap = figures.finer(x, y, z)[2]
    assert math.isnan(gap[0, 0])
    assert gap[-1, -1] == pytest.approx(4 * 81)


def test_curves_are_at_the_costs_of_members(told: dict[str, Any], surfaces: dict[str, Any]) -> None:
    levels = figures.levels(told["members"], "compound")
    drawn = figures.plane(told["members"], "compound", surfaces["width-resolution"], levels)
    curves = [t for t in drawn.data if t.type == "contour"]
    at = {t.contours.start for t in curves if t.legendgroup == "macs"}
    known = [v for row in surfaces["width-resolution"]["macs"] for v in row]
    assert at == {level for level in levels["macs"] if min(known) < level < max(known)}
    member = next(t for t in drawn.data if t.name == "compound")
    assert list(member.marker.symbol) == ["star-open", "star"]  # the first is not as deep as the plane
    assert list(member.x) == [1.1, 1.21]


def test_ticks_are_round_and_few() -> None:
    for low, high in ((0.9, 1.3), (1.0, 2.2), (3.0, 70.0), (1e5, 3e9), (0.02, 0.5)):
        found = figures.ticks(low, high)
        assert 3 <= len(found) <= 13
        assert low <= found[0] <= found[-1] <= high
