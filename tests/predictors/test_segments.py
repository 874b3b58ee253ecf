"""Segment-wise search against made-up noisy supernets, and against the measured truth of NAS-Bench-Macro."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predictors.base import Predictor
from predictors.partition import extend, partition, size
from predictors.segments import SegmentSearch, segment_members
from search_spaces import Architecture, Choice, SearchSpace, make_space
from search_spaces.errors import ConfigError, DataError, UnsatisfiableError
from search_spaces.graph import Graph, GraphBuilder

Evaluate = Callable[[Architecture], float]


class Chain(SearchSpace):
    """Eight layers, each left out or an inverted residual in one of two sizes, as in NAS-Bench-Macro."""

    name = "chain"

    def __init__(self) -> None:
        super().__init__([Choice(f"layer{i}", ("identity", "MB3_K3", "MB6_K5")) for i in range(8)])

    def graph(self, architecture: Architecture) -> Graph:
        g = GraphBuilder(self.input_shape)
        x = g.add("conv_bn_act", g.input, name="stem", out_channels=32)
        for i, option in enumerate(architecture.indices):
            if option:
                kernel, expansion = ((3, 3), (5, 6))[option - 1]
                x = g.add(
                    "inverted_residual", x, name=f"l{i}", out_channels=32, kernel_size=kernel, expansion=expansion
                )
        return g.build(g.add("classifier", x, name="classifier", classes=self.classes))


class Pairs(Predictor):
    """Ridge regression on options and on pairs of neighbouring choices: the floor that has no settings."""

    name = "pairs"

    def _features(self, architectures: Sequence[Architecture]) -> np.ndarray:
        rows = np.array([self.space.canonical(a).indices for a in architectures])
        one = np.eye(max(len(c.options) for c in self.space.choices))[rows]
        pairs = one[:, :-1, :, None] * one[:, 1:, None, :]
        return np.concatenate([one.reshape(len(rows), -1), pairs.reshape(len(rows), -1)], axis=1)

    def _fit(
        self, architectures: Sequence[Architecture], scores: np.ndarray, groups: np.ndarray, extra: np.ndarray
    ) -> None:
        x = self._features(architectures)
        self._mean = float(scores.mean())
        self._weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ (scores - self._mean))

    def _predict(
        self, architectures: Sequence[Architecture], sketches: Sequence[Graph] | None, extra: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        mean = self._features(architectures) @ self._weights + self._mean
        return mean, np.ones_like(mean)

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {"weights": self._weights}, {"mean": self._mean}

    def _restore(self, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        self._weights, self._mean = tensors["weights"], facts["mean"]


def unit(text: str) -> float:
    """A number from 0 to 1 that follows from a text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def quality(architecture: Architecture) -> float:
    """Made up: what each option is worth, and a little for each pair of neighbours."""
    code = architecture.code
    single = sum(unit(f"{i}{d}") for i, d in enumerate(code))
    return single + 0.3 * sum(unit(f"{i}{a}{b}") for i, (a, b) in enumerate(pairwise(code)))


def noisy(architecture: Architecture) -> float:
    return quality(architecture) + unit(architecture.code) - 0.5


def weight(members: Sequence[Architecture]) -> np.ndarray:
    """A cost that grows with every option."""
    return np.array([float(sum(a.indices)) for a in members])


def run(search: SegmentSearch, evaluate: Evaluate = noisy) -> SegmentSearch:
    while (members := search.ask()) is not None:
        search.tell([evaluate(a) for a in members])
    return search


@pytest.fixture(scope="module")
def cells() -> SearchSpace:
    return make_space("nasbench201")


@pytest.fixture(scope="module")
def mobile() -> SearchSpace:
    """Two stages of one or two blocks; the second block counts where the depth is 2."""
    return make_space("mobile", {"widths": (16, 24), "strides": (1, 2), "depths": (1, 2)})


# ---- cutting ---------------------------------------------------------------------------------------------------------


def test_cells_are_cut_in_the_middle(cells: SearchSpace) -> None:
    assert partition(cells, 2, keep=6, limit=300_000) == ((0, 1, 2), (3, 4, 5))
    assert partition(cells, None, keep=6, limit=300_000) == (tuple(range(6)),)
    assert len(partition(cells, None, keep=6, limit=800)) == 2


def test_stages_stay_whole_and_parents_come_first() -> None:
    space = make_space("mobile")
    parts = partition(space, None, keep=6, limit=300_000)
    stages = [{space.choices[p].name.split(".")[0] for p in part} for part in parts]
    assert stages == [{"resolution", "activation", "stage0"}, {"stage1"}, {"stage2"}, {"stage3"}]
    assert size(space, parts[1]) == 4914
    for limit in (200, 1000, 20_000):
        order = [space.choices[p] for part in partition(space, None, keep=6, limit=limit) for p in part]
        names = [c.name for c in order]
        assert sorted(names) == sorted(c.name for c in space.choices)
        assert all(c.when is None or names.index(c.when[0]) < i for i, c in enumerate(order))


def test_segments_list_every_member_once(mobile: SearchSpace) -> None:
    parts = partition(mobile, 3, keep=6, limit=300_000)
    assert size(mobile, range(len(mobile.choices))) == mobile.size
    rows, before = np.zeros((1, 0), dtype=np.int64), list[int]()
    for part in parts:
        rows, before = extend(mobile, before, rows[:500], part), [*before, *part]
        assert len(np.unique(rows, axis=0)) == len(rows)
    rows = rows[:, np.argsort(before)]
    assert all(mobile.from_indices(row).indices == tuple(row) for row in rows[::97].tolist())


def test_whole_spaces_are_listed_in_any_cut() -> None:
    space = make_space("mobile", {"widths": (16,), "strides": (1,), "depths": (1, 2), "kernels": (3, 5)})
    rows, before = np.zeros((1, 0), dtype=np.int64), list[int]()
    for part in partition(space, 3, keep=1, limit=10_000):
        rows, before = extend(space, before, rows, part), [*before, *part]
    codes = {space.from_indices(row).code for row in rows[:, np.argsort(before)].tolist()}
    assert codes == {a.code for a in space.enumerate()}
    assert len(rows) == space.size


@pytest.mark.parametrize(
    ("segments", "limit", "message"),
    [
        (7, 300_000, "choose from 1 to 6"),
        (1, 1000, "choose from 2 to 6"),
        (None, 20, "does not fit 6 super-cells"),
        ([["edge01"], ["edge02", "edge12", "edge03", "edge13", "edge33"]], 300_000, "did you mean"),
        ([["edge01"], ["edge02", "edge12", "edge03", "edge13"]], 300_000, "once"),
        ([["edge01"], [], ["edge02", "edge12", "edge03", "edge13", "edge23"]], 300_000, "empty"),
        ([["edge01"], ["edge02", "edge12", "edge03", "edge13", "edge23"]], 10_000, "segment 2 has 18,750"),
    ],
)
def test_bad_segments(cells: SearchSpace, segments: Any, limit: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        partition(cells, segments, keep=6, limit=limit)


def test_children_before_parents_are_refused(mobile: SearchSpace) -> None:
    names = [c.name for c in mobile.choices]
    with pytest.raises(ConfigError, match="depends on 'stage1.depth'"):
        partition(mobile, [names[::-1]], keep=1, limit=10**9)


# ---- searching -------------------------------------------------------------------------------------------------------


def test_finds_good_cells(cells: SearchSpace) -> None:
    search = run(SegmentSearch(cells, Pairs, segments=2, samples=80, check=20, seed=1))
    assert 150 <= len(search.scored) <= search.questions == 200
    assert [len(part) for part in search.super_cells] == [6]
    all_cells = {cells.canonical(a) for a in cells.enumerate()}
    best = quality(cells.decode(search.ranking().best()[0]))
    assert np.mean([quality(a) > best for a in all_cells]) < 0.01
    assert best > quality(cells.decode(max(search.scored, key=search.scored.__getitem__)))


def test_finds_good_mobile_networks(mobile: SearchSpace) -> None:
    search = run(SegmentSearch(mobile, Pairs, samples=150, check=30, limit=5000, seed=0))
    assert len(search.segments) >= 2
    rng = np.random.default_rng(0)
    others = [quality(mobile.sample(rng)) for _ in range(5000)]
    found = [quality(mobile.decode(code)) for code in search.ranking().best(5)]
    assert np.mean(np.array(others) > np.mean(found)) < 0.002


def test_nothing_is_asked_twice_and_super_cells_stay(mobile: SearchSpace) -> None:
    search = SegmentSearch(mobile, Pairs, segments=3, samples=40, check=10, seed=3)
    asked: list[str] = []
    while (members := search.ask()) is not None:
        assert search.ask() == members
        later = len(search.super_cells)
        if later:
            before = [p for part in search.segments[:later] for p in part]
            kept = {cell.indices for cell in search.super_cells[-1]}
            assert all(tuple(a.indices[p] for p in before) in kept for a in members)
        asked += [a.code for a in members]
        search.tell([noisy(a) for a in members])
    assert len(asked) == len(set(asked)) == 150
    assert all(mobile.decode(code).code == code for code in asked)


def test_super_cells_are_different_networks(cells: SearchSpace) -> None:
    search = run(SegmentSearch(cells, Pairs, segments=2, keep=10, samples=60, check=0))
    rests = [cells.decode(f"000{rest}").indices[3:] for rest in ("444", "321", "142")]
    networks = {
        tuple(cells.canonical(cells.from_indices((*cell.indices, *rest))).code for rest in rests)
        for cell in search.super_cells[0]
    }
    assert len(networks) == 10


def test_the_same_seed_asks_the_same(cells: SearchSpace) -> None:
    one, same, other = (run(SegmentSearch(cells, Pairs, segments=2, samples=30, check=5, seed=s)) for s in (0, 0, 1))
    assert one.state == same.state
    assert one.state["rounds"] != other.state["rounds"]


def test_a_small_space_is_scored_whole() -> None:
    space = make_space("mobile", {"widths": (16,), "strides": (1,), "depths": (1,), "kernels": (3,)})
    search = run(SegmentSearch(space, Pairs, segments=2, samples=500, check=10))
    assert len(search.scored) == space.size
    assert set(search.ranking().codes) <= {a.code for a in space.enumerate()}


# ---- going on --------------------------------------------------------------------------------------------------------


def spread(space: SearchSpace) -> SegmentSearch:
    settings = {"segments": 2, "samples": 30, "check": 8, "completions": 3, "cost": weight, "seed": 5}
    return SegmentSearch(space, Pairs, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def undisturbed(mobile: SearchSpace) -> SegmentSearch:
    return run(spread(mobile))


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
@pytest.mark.parametrize("answered", [False, True])
def test_goes_on_from_any_state(mobile: SearchSpace, undisturbed: SegmentSearch, rounds: int, answered: bool) -> None:
    first = spread(mobile)
    for _ in range(rounds):
        members = first.ask()
        assert members is not None
        first.tell([noisy(a) for a in members])
    if not answered:
        first.ask()
    second = spread(mobile)
    second.restore(json.loads(json.dumps(first.state)))
    assert run(second).state == undisturbed.state


def test_a_restored_search_ranks_as_the_first(mobile: SearchSpace, undisturbed: SegmentSearch) -> None:
    again = spread(mobile)
    again.restore(undisturbed.state)
    assert again.ask() is None
    one, other = again.ranking(), undisturbed.ranking()
    assert one.codes == other.codes
    assert np.array_equal(one.mean, other.mean)


def test_questions_of_a_state_are_not_computed_again(cells: SearchSpace) -> None:
    first = SegmentSearch(cells, Pairs, segments=2, samples=30, check=8)
    members = first.ask()
    assert members is not None
    first.tell([noisy(a) for a in members])
    checked = first.ask()

    def fail(space: SearchSpace) -> Predictor:
        raise AssertionError("a fit where the state holds the question")

    second = SegmentSearch(cells, fail, segments=2, samples=30, check=8)
    second.restore(first.state)
    assert second.ask() == checked


def test_states_of_other_searches_are_refused(cells: SearchSpace) -> None:
    state = run(SegmentSearch(cells, Pairs, segments=2, samples=10, check=0)).state
    with pytest.raises(DataError, match="begun with samples 10, now it is 12"):
        SegmentSearch(cells, Pairs, segments=2, samples=12, check=0).restore(state)
    with pytest.raises(DataError, match="damaged"):
        SegmentSearch(cells, Pairs, segments=2, samples=10, check=0).restore({**state, "rounds": [{"segment": 0}]})
    with pytest.raises(DataError, match="damaged"):
        list(segment_members({"segments": 3}, cells))
    with pytest.raises(DataError, match="damaged"):
        list(segment_members({**state, "super_cells": [[{"indices": [0, 9, 0], "score": 1.0, "cost": None}]]}, cells))


def test_wrong_answers_are_refused(cells: SearchSpace) -> None:
    search = SegmentSearch(cells, Pairs, segments=2, samples=10, check=0)
    with pytest.raises(DataError, match=r"call ask\(\) first"):
        search.tell([1.0])
    search.ask()
    with pytest.raises(DataError, match="10 members were asked for, 1 scores came"):
        search.tell([1.0])
    with pytest.raises(DataError, match="finite"):
        search.tell([float("nan")] * 10)
    with pytest.raises(DataError, match="not over"):
        search.ranking()
    with pytest.raises(DataError, match="0 of 2 segments"):
        list(segment_members(search.state, cells))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"samples": 3}, "samples >= 4"), ({"keep": 0}, "keep >= 1"), ({"at_most": 3.0}, "give it cost=")],
)
def test_bad_settings(cells: SearchSpace, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmentSearch(cells, Pairs, **settings)


# ---- costs and the table ---------------------------------------------------------------------------------------------


def test_super_cells_span_the_costs(mobile: SearchSpace) -> None:
    plain = run(SegmentSearch(mobile, Pairs, segments=2, samples=100, check=20))
    spread = run(SegmentSearch(mobile, Pairs, segments=2, samples=100, check=20, cost=weight, bands=6))
    costs = [cell.cost for cell in spread.super_cells[0]]
    alone = [sum(cell.indices) for cell in plain.super_cells[0]]
    assert all(cost is not None for cost in costs)
    assert np.ptp([cost or 0 for cost in costs]) > np.ptp(alone)
    bound = float(np.quantile(weight([mobile.sample(np.random.default_rng(i)) for i in range(500)]), 0.1))
    best = spread.ranking().best(at_most=bound)
    assert weight([mobile.decode(best[0])])[0] <= bound
    with pytest.raises(ConfigError, match="needs a search with costs"):
        plain.ranking().best(at_most=bound)


def test_a_bound_holds_for_all_that_is_asked(mobile: SearchSpace) -> None:
    search = run(SegmentSearch(mobile, Pairs, segments=2, samples=60, check=10, cost=weight, at_most=10))
    assert weight(list(map(mobile.decode, search.scored))).max() <= 10
    assert weight(list(map(mobile.decode, search.ranking().codes))).max() <= 10
    impossible = SegmentSearch(mobile, Pairs, segments=2, samples=60, cost=weight, at_most=-1)
    with pytest.raises(UnsatisfiableError, match="raise at_most"):
        impossible.ask()


def test_the_subspace_of_the_table(cells: SearchSpace) -> None:
    search = run(SegmentSearch(cells, Pairs, segments=2, samples=40, check=10))
    state = json.loads(json.dumps(search.state))
    codes = list(segment_members(state, cells))
    assert len(codes) == len(set(codes))
    assert set(search.scored) <= set(codes)
    assert all(cells.canonical(cells.decode(code)).code == code for code in codes)
    product = {
        cells.canonical(cells.from_indices((*cell.indices, *cells.decode(f"000{i:03d}").indices[3:]))).code
        for cell in search.super_cells[0]
        for i in (0, 123, 444, 412)
    }
    assert product <= set(codes)
    assert set(search.ranking().codes) == set(segment_members(state, cells, scored=False))


# ---- NAS-Bench-Macro -------------------------------------------------------------------------------------------------


def test_finds_the_top_of_nas_bench_macro_through_noise(shared_file: Callable[[str], Path]) -> None:
    """Noise of one standard deviation of the truth, 600 scores: two segments of 300 against the best score."""
    with gzip.open(shared_file("nasbench_macro/nasbench_macro_cifar10.csv.gz"), "rt") as file:
        truth = {row["arch"]: float(row["mean_acc"]) for row in csv.DictReader(file)}
    values, space = np.array(list(truth.values())), Chain()
    top = np.quantile(values, 0.99)
    picked: dict[str, list[float]] = {"search": [], "raw": []}
    for seed in range(10):
        rng = np.random.default_rng([seed, 77])
        scores = dict(zip(truth, values + values.std() * rng.standard_normal(len(values)), strict=True))
        search = SegmentSearch(space, Pairs, segments=2, samples=240, check=60, seed=seed)
        run(search, lambda a, scores=scores: scores[a.code])  # type: ignore[misc]
        picked["search"].append(truth[search.ranking().best()[0]])
        drawn = rng.choice(list(truth), 600, replace=False)
        picked["raw"].append(truth[max(drawn, key=scores.__getitem__)])
    hits = {name: np.mean(np.array(found) >= top) for name, found in picked.items()}
    assert hits["search"] > hits["raw"]
    assert np.mean(picked["search"]) > np.mean(picked["raw"]) + 0.3
