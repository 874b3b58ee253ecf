"""The latency model on a device of arithmetic: exact answers are known, and time passes only by measuring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from predictors.cost import DeviceProfile, LatencyModel, OperatorTable, cost_models
from search_spaces import Graph, GraphBuilder, SearchSpace, Signature, make_space
from search_spaces.errors import ConfigError, DataError
from tests.predictors.cost.synthetic import SyntheticDevice, additive_ms

PROFILE = DeviceProfile("Some CPU", 4, 1, "torch", "2.11.0")


def small_mobile() -> SearchSpace:
    return make_space("mobile", {"input_shape": (1, 16, 16), "widths": (8, 16), "strides": (1, 2), "depths": (1, 2)})


def cells() -> SearchSpace:
    return make_space("nasbench201", {"input_shape": (1, 8, 8), "channels": 4, "cells": 1})


def build(space: SearchSpace, device: SyntheticDevice, directory: Path, seconds: float = 60.0) -> LatencyModel:
    rng = np.random.default_rng(0)
    return LatencyModel.build(
        space, PROFILE, seconds=seconds, rng=rng, measurer=device, clock=device.clock, directory=directory
    )


def members(space: SearchSpace, number: int = 150) -> list[Graph]:
    rng = np.random.default_rng(9)
    return [space.graph(space.sample(rng)) for _ in range(number)]


def errors(model: LatencyModel, graphs: list[Graph]) -> tuple[float, float]:
    """Largest relative error and Kendall's tau against the law."""
    true = np.array([additive_ms(graph) for graph in graphs])
    costs = model.costs(graphs)
    return float(np.max(np.abs(costs / true - 1))), float(kendalltau(costs, true).statistic)


@pytest.mark.parametrize("space", [small_mobile(), cells()], ids=lambda s: s.name)
def test_where_all_is_measured_an_additive_device_is_reproduced(space: SearchSpace, tmp_path: Path) -> None:
    model = build(space, SyntheticDevice(), tmp_path, seconds=600)
    assert model.summary()["measured_share"] == 1
    largest, tau = errors(model, members(space))
    assert largest < 1e-4
    assert tau > 0.999


def test_a_third_of_the_units_is_enough(tmp_path: Path) -> None:
    space, device = small_mobile(), SyntheticDevice(noise=0.02)
    model = build(space, device, tmp_path, seconds=9)
    assert 0.25 < model.summary()["measured_share"] < 0.35
    graphs = members(space)
    largest, tau = errors(model, graphs)
    assert largest < 0.05
    assert tau > 0.95
    assert model.error.units is not None
    assert model.error.units.median_ape < 0.03
    assert model.error.networks is not None
    assert model.error.networks.median_ape < 0.03
    assert model.error.networks.networks == 10
    assert device.seconds < 1.1 * 9


def test_a_machine_that_is_busy_at_times_does_not_confuse_the_model(tmp_path: Path) -> None:
    space = small_mobile()
    busy = SyntheticDevice(slowdown=lambda number: 1.4 if number % 3 == 1 else 1.0)
    largest, tau = errors(build(space, busy, tmp_path, seconds=30), members(space))
    assert largest < 0.05
    assert tau > 0.95


def test_what_networks_cost_beyond_their_units_is_corrected(tmp_path: Path) -> None:
    """Whole networks take a quarter longer and 50 us more than their parts, as where caches are cold."""

    def law(graph: Graph) -> float:
        whole = len(graph) > 4
        return additive_ms(graph) * (1.25 if whole else 1) + (0.05 if whole else 0)

    model = build(cells(), SyntheticDevice(law), tmp_path)
    graphs = members(cells())
    true = np.array([law(graph) for graph in graphs])
    assert np.median(np.abs(model.costs(graphs) / true - 1)) < 0.02
    assert model.error.networks is not None
    assert model.error.networks.median_ape < 0.02
    assert model.error.networks.uncorrected_ape > 0.2


@pytest.mark.parametrize("seconds", [2.0, 10.0, 40.0])
@pytest.mark.parametrize("making_s", [0.003, 0.15])
def test_the_time_granted_is_kept(tmp_path: Path, seconds: float, making_s: float) -> None:
    device = SyntheticDevice(making_s=making_s)
    model = build(small_mobile(), device, tmp_path, seconds)
    assert device.seconds <= 1.2 * seconds
    assert model.measured


def test_a_later_build_measures_only_what_is_missing(tmp_path: Path) -> None:
    space = small_mobile()
    first = build(space, SyntheticDevice(), tmp_path, seconds=10)
    device = SyntheticDevice()
    second = build(space, device, tmp_path, seconds=10)
    assert set(first.measured) < set(second.measured)
    table = OperatorTable.of(PROFILE, tmp_path)
    new = len(second.measured) - len(first.measured)
    assert len(device.graphs) == new + 4 * device.batches  # each batch has the references beside it
    while len(second.interpolated):
        second = build(space, device, tmp_path, seconds=60)
    idle = SyntheticDevice()
    build(space, idle, tmp_path, seconds=10)
    assert idle.graphs == []
    assert len(table) > 0


def test_measurements_are_kept_when_a_build_is_interrupted(tmp_path: Path) -> None:
    class Interrupted(SyntheticDevice):
        def __call__(self, graphs: Any, seconds: float) -> Any:
            if self.batches == 3:
                raise KeyboardInterrupt
            return super().__call__(graphs, seconds)

    with pytest.raises(KeyboardInterrupt):
        build(small_mobile(), Interrupted(), tmp_path)
    assert len(OperatorTable.of(PROFILE, tmp_path)) > 10


def test_units_that_cannot_run_are_interpolated_and_named(tmp_path: Path) -> None:
    class Broken(SyntheticDevice):
        def __call__(self, graphs: Any, seconds: float) -> Any:
            if any("'hardswish'" in repr(node.signature) for g in graphs for node in g.nodes):
                raise RuntimeError("hardswish is not implemented\nfor this device")
            return super().__call__(graphs, seconds)

    model = build(small_mobile(), Broken(), tmp_path, seconds=30)
    assert model.failed
    assert set(model.failed.values()) == {"RuntimeError: hardswish is not implemented"}
    assert all("hardswish" in what for what in model.failed)
    assert model.networks  # of those members that run
    largest, _ = errors(model, members(small_mobile()))
    assert largest < 0.15
    assert LatencyModel.from_json(model.to_json()).failed == model.failed


def test_operators_of_another_space_are_interpolated(tmp_path: Path) -> None:
    model = build(small_mobile(), SyntheticDevice(), tmp_path)
    g = GraphBuilder((3, 20, 20))
    x = g.add("conv2d", g.input, out_channels=24, kernel_size=3, padding=1)
    x = g.add("layer_norm", x, axes=3)
    x = g.add("activation", x, kind="gelu")
    graph = g.build(g.add("classifier", x, classes=7))
    assert model.source_of(graph.nodes[1].signature) == "interpolated"
    assert model.cost(graph) == pytest.approx(additive_ms(graph), rel=0.4)
    stranger = Signature.named("other", {"kind": "module", "target": "m", "size": (2,)}, ((2,),))
    assert model.source_of(stranger) == "interpolated"


def test_source_of_units_and_of_sums(tmp_path: Path) -> None:
    model = build(cells(), SyntheticDevice(), tmp_path)
    for graph in members(cells(), 5):
        assert {model.source_of(node.signature) for node in graph.nodes} == {"measured"}


def test_nodes_that_no_output_needs_cost_nothing(tmp_path: Path) -> None:
    model = build(cells(), SyntheticDevice(), tmp_path)
    g = GraphBuilder((1, 8, 8))
    x = g.add("conv_bn_act", g.input, out_channels=4, activation=None)
    alone = model.cost(g.build(x))
    g.add("nasbench201_reduction", x, out_channels=8)
    assert model.cost(g.build(x)) == alone


def test_json_gives_the_same_model(tmp_path: Path) -> None:
    model = build(small_mobile(), SyntheticDevice(noise=0.1), tmp_path, seconds=20)
    again = LatencyModel.from_json(model.to_json())
    graphs = members(small_mobile())
    assert np.array_equal(again.costs(graphs), model.costs(graphs))
    assert again.to_json() == model.to_json()
    assert again.summary() == model.summary()
    assert json.loads(json.dumps(model.summary())) == model.summary()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 9}'])
def test_what_is_not_a_model_is_told(text: str) -> None:
    with pytest.raises(DataError, match="not a latency model"):
        LatencyModel.from_json(text)


def test_the_summary_tells_what_a_report_needs(tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    device = SyntheticDevice(noise=0.02)
    model = LatencyModel.build(
        small_mobile(),
        PROFILE,
        seconds=15,
        rng=np.random.default_rng(0),
        measurer=device,
        clock=device.clock,
        directory=tmp_path,
        progress=lambda share, what: told.append((share, what)),
    )
    summary = model.summary()
    assert summary["device_id"] == PROFILE.id
    assert summary["units"] == len(model.measured) + len(model.interpolated)
    assert 0 < summary["median_spread"] < 1
    assert len(summary["networks"]) == 10
    measured = [n["measured_ms"] for n in summary["networks"]]
    assert spearmanr(measured, [n["predicted_ms"] for n in summary["networks"]]).statistic > 0.95
    assert max(measured) > 1.5 * min(measured)  # spread over the range
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert told[0] == (0.0, "collecting operators")
    assert told[-1][1] == "fitting"


def test_a_chunked_stream_costs_what_single_graphs_do(tmp_path: Path) -> None:
    model = build(cells(), SyntheticDevice(), tmp_path)
    graphs = members(cells(), 20)
    assert model.costs(iter(graphs)).tolist() == [model.cost(graph) for graph in graphs]
    assert model.costs([]).shape == (0,)


def test_no_time_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs time to measure"):
        build(cells(), SyntheticDevice(), tmp_path, seconds=0)


def test_a_profile_of_another_device_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another device"):
        LatencyModel.build(cells(), PROFILE, seconds=1, rng=np.random.default_rng(0), directory=tmp_path)


def test_the_real_device_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is asserted, only that all parts meet."""
    monkeypatch.setenv("NAS_ENGINE_CACHE", str(tmp_path))
    model = LatencyModel.build(cells(), DeviceProfile.detect(), seconds=2, rng=np.random.default_rng(0))
    graph = members(cells(), 1)[0]
    assert 0 < model.cost(graph) < 1e4
    assert (tmp_path / "latency" / f"{model.profile.id}.json").is_file()
    assert model.unit == "ms"
    assert cost_models["latency_ms"] is LatencyModel
