"""The regression of costs: what it counts, what it learns, other devices, storing, errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from predictors.cost import Macs, cost_models
from predictors.cost.blocks import VIEWS, BlockCounts, count
from predictors.cost.regression import SETTINGS, HeldOut, Regression, read_measurements
from predictors.cost.transfer import OtherDevices
from search_spaces import Architecture, SearchSpace, make_space
from search_spaces.errors import DataError

QUICK = replace(SETTINGS, folds=0, steps=20)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return make_space("nasbench201", {"cells": 1})


@pytest.fixture(scope="module")
def counter(space: SearchSpace) -> BlockCounts:
    return BlockCounts(space)


def members(space: SearchSpace, number: int, seed: int = 0) -> list[Architecture]:
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(number)]


def device(space: SearchSpace, cells: list[Architecture], noise: float = 0.0, conv: float = 3.0) -> np.ndarray:
    """Milliseconds of a device that runs what the output needs, one operator after the other."""
    price = {"relu_conv_bn": conv, "avg_pool2d": 1.0, "add": 0.2}
    times = []
    for a in cells:
        blocks = [n.signature.body.live() for n in space.graph(a).nodes if n.operator == "nasbench201_cell"]
        times.append(5.0 + sum(price.get(n.operator, 0.0) for b in blocks for n in b.nodes))
    return np.array(times) * np.exp(noise * np.random.default_rng(7).normal(size=len(times)))


def test_a_dead_operator_counts_in_one_view_and_one_fed_zeros_in_two(space: SearchSpace) -> None:
    dead = space.from_text("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")
    fed_zeros = space.from_text("|none~0|+|none~0|none~1|+|skip_connect~0|nor_conv_3x3~1|none~2|")
    calls = {
        name: [count(space.graph(a))["amount", view, "conv2d/dense calls"] for view in VIEWS]
        for name, a in (("dead", dead), ("zeros", fed_zeros))
    }
    plain = count(space.graph(space.from_text("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")))
    rest = plain["amount", "fed", "conv2d/dense calls"]
    assert calls["dead"] == [rest + 3, rest, rest]
    assert calls["zeros"] == [rest + 3, rest + 3, rest]


def test_counts_are_the_same_from_stored_columns(space: SearchSpace, counter: BlockCounts) -> None:
    graphs = [space.graph(a) for a in members(space, 5)]
    again = BlockCounts(space, [list(c) for c in counter.columns])
    np.testing.assert_array_equal(counter.of(graphs), again.of(graphs))
    with pytest.raises(DataError, match="not the columns"):
        BlockCounts(space, [["one"]])


def test_a_sum_of_executed_operators_is_learned_from_sixty_cells(space: SearchSpace, counter: BlockCounts) -> None:
    cells = members(space, 360)
    cost = device(space, cells)
    model = Regression.fit(space, cells[:60], cost[:60], settings=QUICK, counter=counter)
    mean, std = model.predict(cells[60:])
    figures = HeldOut.of(cost[60:], mean)
    assert figures.spearman > 0.98
    assert figures.within_10_percent > 0.97
    assert (std > 0).all()
    macs = Macs().costs(map(space.graph, cells[60:]))
    assert figures.spearman > HeldOut.of(cost[60:], macs).spearman + 0.05


def test_spoilt_measurements_are_doubted(space: SearchSpace, counter: BlockCounts) -> None:
    cells = members(space, 280)
    cost = device(space, cells, noise=0.01)
    spoilt = cost[:80].copy()
    spoilt[::10] *= 3
    model = Regression.fit(space, cells[:80], spoilt, settings=QUICK, counter=counter)
    doubt = model.process.doubt[np.argsort(np.random.default_rng(0).permutation(80))]
    assert np.median(doubt[::10]) > 20 * np.median(doubt)
    assert HeldOut.of(cost[80:], model.predict(cells[80:])[0]).within_10_percent > 0.8


def test_errors_are_of_measurements_left_out(space: SearchSpace, counter: BlockCounts) -> None:
    cells = members(space, 250)
    cost = device(space, cells, noise=0.05)
    settings = replace(QUICK, folds=3)
    model = Regression.fit(space, cells[:50], cost[:50], settings=settings, counter=counter)
    told, true = model.held_out, HeldOut.of(cost[50:], model.predict(cells[50:])[0])
    assert told is not None
    assert told.networks == 50
    assert told.median_error == pytest.approx(true.median_error, rel=1.0)
    assert told.within_10_percent < 1


def test_other_devices_help_where_little_is_measured(space: SearchSpace, counter: BlockCounts) -> None:
    cells = members(space, 400)
    points = counter.of(map(space.graph, cells))
    tables = {f"device{conv}": device(space, cells, conv=conv)[:150] for conv in (1.0, 6.0)}
    others = OtherDevices.learn(space, cells[:150], tables, counter=counter, counts=points[:150], steps=20)
    cost = device(space, cells, noise=0.03)
    few, rest = slice(150, 160), slice(160, 400)
    errors = {}
    for name, priors in (("alone", None), ("with", others)):
        model = Regression.fit(
            space, cells[few], cost[few], priors=priors, settings=QUICK, counter=counter, counts=points[few]
        )
        errors[name] = HeldOut.of(cost[rest], model.of_counts(points[rest])[0])
    assert errors["with"].spearman > 0.95
    assert errors["with"].spearman > errors["alone"].spearman
    again = Regression.from_json(model.to_json(), space)
    np.testing.assert_allclose(again.predict(cells[rest])[0], model.predict(cells[rest])[0], rtol=1e-9)
    assert again.summary()["other_devices"] == ["device1.0", "device6.0"]


def test_a_stored_model_costs_the_same(space: SearchSpace, counter: BlockCounts) -> None:
    cells = members(space, 60)
    settings = replace(QUICK, folds=2)
    model = Regression.fit(
        space, cells[:40], device(space, cells[:40]), name="energy_mj", unit="mJ", settings=settings, counter=counter
    )
    again = Regression.from_json(model.to_json(), space)
    graphs = [space.graph(a) for a in cells]
    np.testing.assert_allclose(again.costs(graphs), model.costs(graphs), rtol=1e-9)
    assert again.cost(graphs[0]) == pytest.approx(model.cost(graphs[0]), rel=1e-9)
    assert (again.quantity, again.unit, again.source) == ("energy_mj", "mJ", "predicted")
    assert again.held_out == model.held_out
    assert again.summary()["measurements"] == 40


def test_it_fits_any_space() -> None:
    other = make_space("mobile")
    counter = BlockCounts(other)
    cells = members(other, 80)
    macs = Macs().costs(map(other.graph, cells))
    model = Regression.fit(other, cells[:60], macs[:60] / 1e6 + 3, settings=QUICK, counter=counter)
    assert HeldOut.of(macs[60:] / 1e6 + 3, model.predict(cells[60:])[0]).spearman > 0.9


def test_it_is_filed_as_a_predicted_cost() -> None:
    assert cost_models["regression"] is Regression
    assert Regression.source == "predicted"


@pytest.mark.parametrize(
    ("number", "values", "told"),
    [
        (3, [1.0, 2.0, 3.0], "needs 5 or more"),
        (6, [1.0, 2.0], "one value each"),
        (6, [1.0, 2.0, 3.0, -1.0, 5.0, 6.0], "leave out what was not measured"),
        (6, [1.0, 2.0, 3.0, float("nan"), 5.0, 6.0], "leave out what was not measured"),
    ],
)
def test_what_are_no_measurements(
    space: SearchSpace, counter: BlockCounts, number: int, values: list[float], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        Regression.fit(space, members(space, number), values, counter=counter)


def test_what_is_no_model(space: SearchSpace, counter: BlockCounts) -> None:
    cells = members(space, 8)
    text = Regression.fit(space, cells, device(space, cells), settings=QUICK, counter=counter).to_json()
    with pytest.raises(DataError, match="not of 'mobile'"):
        Regression.from_json(text, make_space("mobile"))
    for wrong in ("{}", "[]", "nothing", text.replace('"process"', '"gone"')):
        with pytest.raises(DataError, match="expected what Regression.to_json writes"):
            Regression.from_json(wrong, space)


def test_other_devices_need_costs(space: SearchSpace, counter: BlockCounts) -> None:
    cells = members(space, 6)
    with pytest.raises(DataError, match="at least one table"):
        OtherDevices.learn(space, cells, {}, counter=counter)
    with pytest.raises(DataError, match="above 0"):
        OtherDevices.learn(space, cells, {"phone": [0.0] * 6}, counter=counter)


def test_a_table_of_measurements_is_read(space: SearchSpace, tmp_path: Path) -> None:
    cells = members(space, 3)
    path = tmp_path / "phone.csv"
    path.write_text("code,ms\n" + "".join(f"{a.code},{ms}\n" for a, ms in zip(cells, ("1.5", "-1", "2"), strict=True)))
    read, values = read_measurements(space, path, "ms")
    assert read == [cells[0], cells[2]]
    np.testing.assert_array_equal(values, [1.5, 2.0])
    path.write_text(f"arch_str,ms\n{space.to_text(cells[1])},4\n")
    assert read_measurements(space, path, "ms")[0] == [cells[1]]
    with pytest.raises(DataError, match="no column 'latency'"):
        read_measurements(space, path, "latency")
    with pytest.raises(DataError, match="no file"):
        read_measurements(space, tmp_path / "gone.csv", "ms")
    path.write_text("name,ms\nfirst,4\n")
    with pytest.raises(DataError, match="does not name its networks"):
        read_measurements(space, path, "ms")


@pytest.mark.slow
def test_a_measured_edge_gpu_from_a_hundred_cells(shared_file: Callable[[str], Path]) -> None:
    import pandas as pd

    frame = pd.read_parquet(shared_file("hw_nas_bench/hw_nas_bench_nb201.parquet")).sample(600, random_state=0)
    space = make_space("nasbench201")
    cells = [space.from_text(text) for text in frame["arch_str"]]
    cost = frame["cifar10_edgegpu_latency"].to_numpy()
    model = Regression.fit(space, cells[:100], cost[:100], settings=replace(SETTINGS, folds=0))
    figures = HeldOut.of(cost[100:], model.predict(cells[100:])[0])
    assert figures.spearman > 0.93
    assert figures.within_10_percent > 0.75
