"""Timing with a clock of the test's own, and real networks for a moment (no wall time is asserted)."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from predictors.cost import DeviceProfile, Measurement, measure_call, measure_calls, measure_network, measure_networks
from predictors.cost.measure import NetworkTimer, prepare, running
from predictors.cost.units import unit_graph, units_of
from search_spaces import Graph, GraphBuilder
from search_spaces.gnn import CONNECTIONS, Gnn


class Clock:
    """Nanoseconds that pass only in calls."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def call(self, durations: Iterator[int]):  # type: ignore[no-untyped-def]
        def run() -> None:
            self.now += next(durations)

        return run


def endless(*values: int) -> Iterator[int]:
    while True:
        yield from values


def test_a_steady_call_is_timed_exactly_within_the_time_granted() -> None:
    clock = Clock()
    result = measure_call(clock.call(endless(1_500_000)), seconds=0.5, timer=clock)
    assert result.median_ms == pytest.approx(1.5)
    assert result.iqr_ms == result.spread == 0
    assert 0.4e9 <= clock.now <= 0.6e9


def test_short_calls_are_timed_in_loops() -> None:
    clock, calls = Clock(), 0

    def count() -> Iterator[int]:
        nonlocal calls
        while True:
            calls += 1
            yield 2_000

    result = measure_call(clock.call(count()), seconds=0.05, timer=clock)
    assert result.median_ms == pytest.approx(0.002)
    assert calls > 50 * result.repeats  # about 0.2 ms a loop


def test_the_median_ignores_a_process_that_is_put_aside_now_and_then() -> None:
    clock = Clock()
    rng = np.random.default_rng(0)
    durations = (1_000_000 + (20_000_000 if rng.random() < 0.2 else 0) for _ in iter(int, 1))
    result = measure_call(clock.call(durations), seconds=1.0, timer=clock)
    assert result.median_ms == result.low_ms == pytest.approx(1.0)


def test_long_calls_get_three_loops_whatever_the_time() -> None:
    clock = Clock()
    assert measure_call(clock.call(endless(2_000_000_000)), seconds=0.1, timer=clock).repeats == 3


def test_several_take_turns() -> None:
    clock, order = Clock(), []

    def recording(name: str, duration: int):  # type: ignore[no-untyped-def]
        def run() -> None:
            order.append(name)
            clock.now += duration

        return run

    results = measure_calls([recording("a", 1_000_000), recording("b", 3_000_000)], seconds=0.1, timer=clock)
    assert [r.median_ms for r in results] == pytest.approx([1.0, 3.0])
    timed = "".join(order).lstrip("a").lstrip("b")
    assert timed.startswith("aabbaabb")  # each once for the caches, then for the clock


def test_a_turn_begins_with_warm_caches() -> None:
    clock, last = Clock(), []

    def cached(name: str):  # type: ignore[no-untyped-def]
        def run() -> None:
            clock.now += 1_000_000 if last == [name] else 5_000_000
            last[:] = [name]

        return run

    results = measure_calls([cached("a"), cached("b"), cached("c")], seconds=0.1, timer=clock)
    assert [r.median_ms for r in results] == pytest.approx([1.0, 1.0, 1.0])


def test_the_device_is_waited_for_before_each_reading() -> None:
    clock, waits = Clock(), 0

    def wait() -> None:
        nonlocal waits
        waits += 1

    result = measure_call(clock.call(endless(1_000_000)), seconds=0.05, synchronize=wait, timer=clock)
    assert waits >= 2 * result.repeats


def test_the_collector_is_off_while_timing_and_on_again() -> None:
    seen = []
    measure_call(lambda: seen.append(gc.isenabled()), seconds=0.001)
    assert not any(seen)
    assert gc.isenabled()


def small() -> Graph:
    g = GraphBuilder((3, 8, 8))
    return g.build(g.add("conv_bn_act", g.input, out_channels=4))


def test_threads_and_autograd_are_as_before() -> None:
    before = torch.get_num_threads()
    with running(DeviceProfile.detect(threads=before + 1)):
        assert torch.get_num_threads() == before + 1
        assert torch.is_inference_mode_enabled()
    assert torch.get_num_threads() == before
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_network_is_measured_on_its_batch_without_touching_the_random_stream(channels_last: bool) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    profile = DeviceProfile.detect(batch=5, channels_last=channels_last)
    result = measure_network(small(), profile, seconds=0.01)
    assert isinstance(result, Measurement)
    assert result.median_ms > 0
    assert result.repeats >= 3
    assert torch.equal(torch.rand(1), expected)
    (call,) = prepare([small()], profile)
    made = call()
    assert isinstance(made, torch.Tensor)
    assert made.shape == (5, 4, 8, 8)
    assert made.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_inputs_of_whole_numbers_and_several_outputs() -> None:
    g = GraphBuilder((6,))
    tokens = g.add("input", size=(6,), dtype="int64")
    x = g.add("embedding", tokens, rows=2, features=3)
    graph = g.build(x, g.input)
    assert measure_network(graph, DeviceProfile.detect(), seconds=0.001).median_ms > 0


def test_graph_networks_run_on_edges_between_their_nodes() -> None:
    """Whole members, and each operator by itself, as latency models measure them."""
    space = Gnn(input_shape=(9, 4), classes=3, edges=20, edge_features=2, depths=(2,), widths=(8,), groups=(2,))
    members = [
        space.graph(space.architecture({"connection": c, "conv.0": "gat", "conv.1": "gen"})) for c in CONNECTIONS
    ]
    units = {unit: unit_graph(unit) for graph in members for unit in units_of(graph)}
    assert {"graph_conv", "graph_equilibrium"} <= {unit.operator.name for unit in units}
    profile = DeviceProfile.detect()
    with running(profile):
        for call in prepare(members, profile):
            assert call().shape == (1, 9, 3)  # type: ignore[attr-defined]
        for unit, call in zip(units, prepare(list(units.values()), profile), strict=True):
            assert tuple(call().shape) == (1, *unit.shape)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_onnxruntime_runs_graph_networks() -> None:
    pytest.importorskip("onnxruntime")
    profile = DeviceProfile.detect(runtime="onnxruntime")
    space = Gnn(input_shape=(9, 4), classes=3, edges=20, depths=(2,), widths=(8,), groups=(2,))
    member = space.architecture({"connection": "reversible", "conv.0": "gat", "conv.1": "gen"})
    with running(profile):
        (call,) = prepare([space.graph(member)], profile)
        (logits,) = call()  # type: ignore[misc]
    assert logits.shape == (1, 9, 3)
    assert np.isfinite(logits).all()


def test_kept_graphs_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import predictors.cost.measure as module

    made: list[int] = []
    real = module.prepare
    monkeypatch.setattr(module, "prepare", lambda graphs, profile: made.append(len(graphs)) or real(graphs, profile))
    timer = NetworkTimer(DeviceProfile.detect(), [small()])
    g = GraphBuilder((2, 4, 4))
    other = g.build(g.add("activation", g.input))
    assert len(timer([other, small()], 0.001)) == 2
    assert len(timer([other, small()], 0.001)) == 2
    assert made == [2, 1]


def test_onnxruntime_runs_networks_exported_side_by_side() -> None:
    pytest.importorskip("onnxruntime")
    profile = DeviceProfile.detect(runtime="onnxruntime", batch=2)
    g = GraphBuilder((3, 6, 6))
    two = g.build(g.add("add", g.input, g.add("activation", g.input)), g.input)
    with running(profile):
        calls = prepare([small(), two], profile)
        (a,), (b, c) = calls[0](), calls[1]()  # type: ignore[misc]
    assert a.shape == (2, 4, 8, 8)
    assert np.allclose(b, np.maximum(c, 0) + c)
    assert all(m.median_ms > 0 for m in measure_networks([small(), two], profile, seconds=0.005))
