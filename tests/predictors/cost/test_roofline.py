"""The roofline on a device of arithmetic whose rates are known, and how it explains networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from predictors.cost import DeviceProfile, Roofline, check_guidelines
from predictors.cost.features import kind
from predictors.cost.probes import FEWEST, probes, whole_networks
from predictors.cost.roofline import folded, work
from predictors.cost.table import OperatorTable
from search_spaces import Graph, GraphBuilder, Signature, make_space
from search_spaces.errors import ConfigError, DataError
from tests.predictors.cost.synthetic import SyntheticDevice

PROFILE = DeviceProfile("Some CPU", 4, 1, "torch", "2.11.0")
EMPTY_MS, CALL_MS, BANDWIDTH = 0.002, 0.005, 2e7  # bytes a millisecond: 20 GB/s
PEAKS = {"conv2d/depthwise": 2e6, "conv2d/pointwise": 2e7, "conv2d/grouped": 1e7, "max_pool2d": 1e6}
PEAK = 3e7


def roof_ms(graph: Graph, scale: float = 1.0) -> float:
    """The law itself."""
    total = 0.0
    for node in graph.simplify().nodes:
        if node.operator != "input":
            s = node.signature
            moves_only = not s.cost.macs and kind(s) not in PEAKS
            compute = 0.0 if moves_only else work(s) / PEAKS.get(kind(s), PEAK)
            total += CALL_MS + max(compute, s.cost.bytes_moved / BANDWIDTH)
    return EMPTY_MS + scale * total


def measured(directory: Path, *, seconds: float = 30.0, **device: Any) -> tuple[Roofline, SyntheticDevice]:
    made = SyntheticDevice(**{"law": roof_ms, **device})
    rng = np.random.default_rng(0)
    roofline = Roofline.measure(PROFILE, seconds=seconds, rng=rng, measurer=made, clock=made.clock, directory=directory)
    return roofline, made


def members(number: int = 60) -> list[Graph]:
    space, rng = make_space("mobile", {"input_shape": (3, 32, 32)}), np.random.default_rng(3)
    return [space.graph(space.sample(rng)) for _ in range(number)]


# ---- the fit ---------------------------------------------------------------------------------------------


def test_known_rates_are_found(tmp_path: Path) -> None:
    roofline, _ = measured(tmp_path)
    assert roofline.bandwidth == pytest.approx(BANDWIDTH, rel=0.02)
    for name, peak in PEAKS.items():
        assert roofline.peaks[name] == pytest.approx(peak, rel=0.02), name
    assert roofline.peaks["conv2d/dense"] == pytest.approx(PEAK, rel=0.02)
    assert all(ms == pytest.approx(CALL_MS, rel=0.05) for ms in roofline.calls_ms.values())
    assert roofline.network_ms == pytest.approx(EMPTY_MS, rel=0.01)
    assert roofline.scale == pytest.approx(1, abs=0.01)
    assert roofline.error is not None
    assert roofline.error.median_ape < 0.01
    assert roofline.error.operators == pytest.approx(len(probes()) / 4, abs=1)


def test_networks_that_were_never_measured_have_their_times(tmp_path: Path) -> None:
    roofline, _ = measured(tmp_path, noise=0.05)
    graphs = members()
    true, costs = np.array([roof_ms(g) for g in graphs]), roofline.costs(graphs)
    assert np.median(np.abs(costs / true - 1)) < 0.05
    assert spearmanr(costs, true).statistic > 0.98
    assert costs.tolist() == [roofline.cost(g) for g in graphs]


def test_what_networks_take_beyond_their_operators_is_a_factor(tmp_path: Path) -> None:
    def law(graph: Graph) -> float:
        return roof_ms(graph, 1.3 if len(graph.simplify()) > 8 else 1.0)

    roofline, _ = measured(tmp_path, law=law)
    assert roofline.scale == pytest.approx(1.3, rel=0.02)
    graph = members(1)[0]
    assert roofline.cost(graph) == pytest.approx(law(graph), rel=0.02)
    assert sum(roofline.times(graph).values()) == pytest.approx(roofline.cost(graph), rel=0.02)


def test_the_time_granted_is_kept_but_for_the_fewest(tmp_path: Path) -> None:
    short, device = measured(tmp_path / "short", seconds=0.1)
    assert FEWEST <= short.operators < 30
    assert device.seconds < 1.5
    long, device = measured(tmp_path / "long", seconds=4)
    assert short.operators < long.operators
    assert device.seconds < 6


def test_what_a_device_was_measured_for_is_not_measured_again(tmp_path: Path) -> None:
    first, _ = measured(tmp_path)
    again, device = measured(tmp_path)
    assert device.graphs == []
    assert again.to_json() == first.to_json()
    assert len(OperatorTable.of(PROFILE, tmp_path)) == len(probes()) + len(whole_networks()) + 1
    part, _ = measured(tmp_path / "other", seconds=0.1)
    whole, device = measured(tmp_path / "other", seconds=60)
    assert (part.operators, whole.operators) == (part.operators, len(probes()))
    assert len(device.graphs) == whole.operators - part.operators + 4 * device.batches


def test_no_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seconds=0"):
        Roofline.measure(PROFILE, seconds=0, rng=np.random.default_rng(0), directory=tmp_path)


def test_probes_are_distinct_primitive_operators_of_every_rate() -> None:
    every = probes()
    assert len(set(every)) == len(every)
    assert all(p.body is None for p in every)
    kinds = {kind(p) for p in every}
    assert {f"conv2d/{how}" for how in ("dense", "pointwise", "depthwise", "grouped")} < kinds


# ---- explaining ------------------------------------------------------------------------------------------


def alone(operator: str, shape: tuple[int, ...], **settings: Any) -> Graph:
    g = GraphBuilder(shape)
    return g.build(g.add(operator, g.input, name="it", **settings))


@pytest.mark.parametrize(
    ("operator", "shape", "settings", "bound"),
    [
        ("conv2d", (64, 28, 28), {"out_channels": 64, "kernel_size": 3, "padding": 1}, "compute"),
        ("activation", (64, 56, 56), {}, "memory"),
        ("linear", (1024,), {"out_features": 512}, "memory"),
        ("activation", (8, 4, 4), {}, "overhead"),
        ("inverted_residual", (8, 4, 4), {"out_channels": 8}, "overhead"),
        ("inverted_residual", (64, 56, 56), {"out_channels": 64}, "compute"),
    ],
)
def test_what_operators_wait_for(
    operator: str, shape: tuple[int, ...], settings: dict[str, Any], bound: str, tmp_path: Path
) -> None:
    roofline, _ = measured(tmp_path)
    assert roofline.bound(alone(operator, shape, **settings)["it"]) == bound


def test_shares_add_up_and_are_told(tmp_path: Path) -> None:
    roofline, _ = measured(tmp_path)
    graph = members(1)[0]
    shares = roofline.shares(graph)
    assert sum(shares.values()) == pytest.approx(1)
    operators = len([n for n in graph.simplify().nodes if n.operator != "input"])
    assert shares["overhead"] == pytest.approx(operators * CALL_MS / (roof_ms(graph) - EMPTY_MS), rel=0.02)
    assert f"{100 * shares['overhead']:.0f} % is calling its {operators} operators" in roofline.explain(graph)
    found = check_guidelines(graph, roofline.times(graph))
    assert all(0 <= (f.time_share or 0) <= 1 for f in found)


def test_unknown_kinds_have_usual_rates(tmp_path: Path) -> None:
    roofline, _ = measured(tmp_path)
    parts = roofline.parts(Signature.named("conv1d", {"out_channels": 64, "kernel_size": 9}, ((64, 4096),)))
    assert parts.compute_ms > 0
    assert parts.call_ms == pytest.approx(CALL_MS, rel=0.05)
    assert roofline.parts(Signature.named("softmax", {}, ((64, 512),))).bound in ("memory", "overhead")
    assert roofline.parts(Signature.named("identity", {}, ((3, 4, 4),))).ms == 0


def test_a_runtime_that_fuses_pays_for_no_folded_operator(tmp_path: Path) -> None:
    roofline, _ = measured(tmp_path)
    fusing = json.loads(roofline.to_json())
    fusing["profile"]["runtime"] = "onnxruntime"
    graph = alone("conv_bn_act", (16, 14, 14), out_channels=16)
    assert folded(graph.inline()) == {"it.bn", "it.act"}
    assert folded(graph.inline(), activations=False) == {"it.bn"}
    other = Roofline.from_json(json.dumps(fusing))
    assert list(other.times(graph)) == ["it.conv"]
    assert other.cost(graph) == pytest.approx(other.cost(alone_convolution()))
    assert roofline.cost(graph) > other.cost(graph)


def alone_convolution() -> Graph:
    return alone("conv2d", (16, 14, 14), out_channels=16, kernel_size=3, padding="same")


def test_a_norm_that_is_read_elsewhere_is_not_folded() -> None:
    g = GraphBuilder((8, 6, 6))
    x = g.add("conv2d", g.input, name="conv", out_channels=8)
    y = g.add("batch_norm", x, name="bn")
    assert folded(g.build(y)) == {"bn"}
    assert folded(g.build(g.add("add", x, y))) == frozenset()
    assert folded(g.build(g.add("activation", y, kind="hardswish")).live()) == {"bn"}


def test_work_of_operators_without_multiplications() -> None:
    assert work(Signature.named("max_pool2d", {"kernel_size": 3, "padding": 1}, ((4, 9, 9),))) == 4 * 9 * 9
    assert work(Signature.named("mean", {}, ((4, 8, 8),))) == 4 * 8 * 8
    adder = Signature.named("functional_adder2d", {}, ((4, 8, 8), (6, 4, 1, 1)))
    assert work(adder) == 2 * 6 * 4 * 64


# ---- storing ---------------------------------------------------------------------------------------------


def test_json_keeps_the_costs(tmp_path: Path) -> None:
    roofline, _ = measured(tmp_path, noise=0.05)
    again = Roofline.from_json(roofline.to_json())
    graphs = members(10)
    assert again.costs(graphs).tolist() == roofline.costs(graphs).tolist()
    assert again.summary() == roofline.summary()
    json.dumps(roofline.summary(), allow_nan=False)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 9}', '{"format": 1}'])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"not a roofline .*Roofline\.to_json"):
        Roofline.from_json(text)
