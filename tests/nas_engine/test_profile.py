"""What a space's profile says of why its members are not faster."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nas_engine.pages import profile as page
from nas_engine.profile import SpaceProfile, profile_space
from nas_engine.stages.device import _multiplication_free
from predictors.cost import DeviceProfile, Roofline, make_cost_model
from search_spaces import Architecture, Choice, Graph, GraphBuilder, SearchSpace, make_space
from tests.predictors.cost.synthetic import SyntheticDevice


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return make_space("mobile", {"input_shape": (3, 32, 32)})


@pytest.fixture(scope="module")
def roofline(tmp_path_factory: pytest.TempPathFactory) -> Roofline:
    device, directory = SyntheticDevice(), tmp_path_factory.mktemp("cache")
    described, rng = DeviceProfile("Some CPU", 4, 1, "torch", "2.11.0"), np.random.default_rng(0)
    return Roofline.measure(described, rng=rng, measurer=device, clock=device.clock, directory=directory)


def profiled(space: SearchSpace, roofline: Roofline | None) -> SpaceProfile:
    models = {name: make_cost_model(name) for name in ("params", "macs", "bytes_moved")}
    return profile_space(space, models, [], np.random.default_rng(0), sample=60, roofline=roofline)


def test_a_typical_and_the_largest_member_are_explained(space: SearchSpace, roofline: Roofline) -> None:
    found = profiled(space, roofline)
    typical, largest = found.inefficiencies
    assert (typical.which, largest.which) == ("typical", "largest")
    moved = next(e for e in found.extents if e.cost == "bytes_moved")
    assert typical.costs["bytes_moved"] == pytest.approx(moved.median, rel=0.1)
    assert moved.median < largest.costs["bytes_moved"] <= moved.largest
    for member in found.inefficiencies:
        assert [f.guideline for f in member.findings] == ["G1", "G2", "G3", "G4"]
        assert [w for w in member.words if w.startswith("G1: 1x1 convolution stage")]
        assert member.words[-1].startswith("Of its predicted time on this device")
        assert make_cost_model("macs").cost(space.graph(space.decode(member.code))) == member.costs["macs"]


def test_without_a_roofline_bytes_are_told_alone(space: SearchSpace, roofline: Roofline) -> None:
    poor = Roofline(roofline.profile, 0.0, roofline.calls_ms, roofline.peaks, roofline.bandwidth)
    for found in (profiled(space, None), profiled(space, poor)):
        for member in found.inefficiencies:
            assert all(f.time_share is None for f in member.findings)
            assert not any("predicted time" in words for words in member.words)


def test_profiles_are_read_back(space: SearchSpace, roofline: Roofline, tmp_path: Path) -> None:
    found = profiled(space, roofline)
    data = json.loads(json.dumps(found.to_dict()))
    assert SpaceProfile.from_dict(data) == found
    del data["inefficiencies"]
    assert SpaceProfile.from_dict(data).inefficiencies == ()


def test_the_command_line_tells_them(space: SearchSpace, roofline: Roofline) -> None:
    found = profiled(space, roofline).to_dict()
    told = {"space": "mobile", "size": space.size, "distinct_sampled": 60, "profile": found, "stages": [], "device": {}}
    lines = [part for part in page(told) if isinstance(part, str)]
    text = " ".join(" ".join(lines).split())
    assert "why members are not faster" in text
    assert "typical member" in text
    assert "times the bytes of the balanced form with equal MACs" in text
    assert "calling its" in text


def test_additions_and_shifts_are_costed_where_operators_are_free_of_multiplications(space: SearchSpace) -> None:
    class Free(SearchSpace):
        name = "free"

        def graph(self, architecture: Architecture) -> Graph:
            g = GraphBuilder(self.input_shape)
            return g.build(g.add(architecture.values["layer"], g.input, name="layer", out_channels=4))

    choices = [Choice("layer", ("conv2d", "adder2d"))]
    assert _multiplication_free(Free(choices, input_shape=(3, 8, 8), classes=2))
    assert not _multiplication_free(space)
