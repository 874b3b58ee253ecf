"""Longest chains against enumeration of all paths, and against networkx."""

import itertools
import math

import networkx
import numpy as np
import pytest

from nas_engine.compress.criteria.lean_chains import Chains, Extraction, Layer, extract

Edge = tuple[int, int, float, int | None]  # from, to, logarithm, kernel


def random_layers(seed: int, shift: float = 0.0) -> tuple[int, list[Layer]]:
    """Nodes 0-2, kernels to 3-6, a grouped layer to 7-8, sums of earlier nodes to 9-10, kernels from all to 11-12."""
    rng = np.random.default_rng(seed)

    def logs(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) + shift

    layers = [
        Layer(3, np.array([[0, 1, 2]]), logs(4, 3), 0),
        Layer(7, np.array([[3, 4], [5, 6]]), logs(2, 2), 12),
        Layer(9, np.array([[3, 7], [4, 8]]), np.array([[0.0, 0.0], [-0.3, 0.2]])),
        Layer(11, np.array([[0, 3, 7, 8, 9, 10]]), logs(2, 6), 16),
    ]
    layers[0].logs[1, 2] = -np.inf
    return 13, layers


def edges_of(layers: list[Layer]) -> list[Edge]:
    found = []
    for layer in layers:
        rows = layer.targets // len(layer.sources)
        for (row, column), log in np.ndenumerate(layer.logs):
            if log > -np.inf:
                kernel = None if layer.offset is None else layer.offset + row * layer.logs.shape[1] + column
                found.append((int(layer.sources[row // rows, column]), layer.first + row, float(log), kernel))
    return found


def all_paths(nodes: int, edges: list[Edge]) -> list[list[Edge]]:
    """Every path that begins with a kernel and whose product never falls below 1, written out."""
    paths = [[e] for e in edges if e[3] is not None and e[2] > 0]
    found = []
    while paths:
        path = paths.pop()
        found.append(path)
        total = sum(e[2] for e in path)
        paths += [[*path, e] for e in edges if e[0] == path[-1][1] and total + e[2] > 0]
    return found


@pytest.mark.parametrize(("seed", "shift"), itertools.product(range(15), [-1.0, 0.0, 1.0]))
def test_takes_what_enumeration_of_all_paths_takes(seed: int, shift: float) -> None:
    nodes, layers = random_layers(seed, shift)
    edges, expected, chains = edges_of(layers), [], 0
    while paths := all_paths(nodes, edges):
        best = max(paths, key=lambda p: sum(e[2] for e in p))
        taken = [e[3] for e in reversed(best) if e[3] is not None]
        expected += taken
        chains += 1
        edges = [e for e in edges if e[3] not in taken or e[3] is None]
    rest = sorted((e for e in edges if e[3] is not None), key=lambda e: -e[2])
    found = extract(nodes, layers)
    assert found.chains == chains
    assert found.chained == len(expected)
    assert found.order.tolist() == [*expected, *(e[3] for e in rest), 5]  # 5 is the edge that is not there


@pytest.mark.parametrize("seed", range(10))
def test_the_first_chain_is_the_longest_path_of_networkx(seed: int) -> None:
    nodes, layers = random_layers(seed, shift=3.0)  # no value below 1: nothing begins anew
    graph = networkx.DiGraph()
    for source, target, log, kernel in edges_of(layers):
        graph.add_edge(source, target, weight=log if kernel is not None else max(log, 0.0))
    layers[2].logs.clip(min=0, out=layers[2].logs)
    chain = Chains(nodes, layers).longest()
    assert sum(layers[i].logs[row, column] for i, row, column in chain) == pytest.approx(
        networkx.dag_longest_path_length(graph)
    )
    assert [layers[i].first + row for i, row, _ in reversed(chain)] == networkx.dag_longest_path(graph)[1:]


def dense(seed: int, widths: list[int], shift: float) -> tuple[int, list[Layer]]:
    """Full layers one after the other."""
    rng = np.random.default_rng(seed)
    layers, first, offset = [], 0, 0
    for before, width in itertools.pairwise(widths):
        logs = rng.standard_normal((width, before)) + shift
        layers.append(Layer(first + before, np.arange(first, first + before)[None], logs, offset))
        first, offset = first + before, offset + logs.size
    return first + widths[-1], layers


def eager(nodes: int, layers: list[Layer], quota: int) -> list[int]:
    """The same computed anew for every chain, a whole layer at a time."""
    logs = [layer.logs.copy() for layer in layers]
    order: list[int] = []
    while len(order) < quota:
        value, column = np.zeros(nodes), np.zeros(nodes, dtype=int)
        for layer, known in zip(layers, logs, strict=True):
            along = known + value[layer.sources[0]]
            span = slice(layer.first, layer.first + layer.targets)
            value[span], column[span] = along.max(1).clip(min=0), along.argmax(1)
        node = int(value.argmax())
        while value[node] > 0:
            layer = next(s for s in layers if s.first <= node < s.first + s.targets)
            row = node - layer.first
            logs[layers.index(layer)][row, column[node]] = -np.inf
            order.append(layer.offset + row * logs[layers.index(layer)].shape[1] + int(column[node]))
            node = int(layer.sources[0, column[node]])
    return order[:quota]


@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.5])
def test_bounds_brought_up_to_date_late_are_exact(shift: float) -> None:
    nodes, layers = dense(0, [3, 12, 16, 16, 12, 4], shift)
    quota = 150 if shift < 0 else 500
    found = extract(nodes, layers, quota, patience=10**9)
    reference = eager(nodes, layers, found.chained)
    assert found.order[: found.chained].tolist() == reference
    assert found.chained > 50


def test_a_quota_is_met_exactly_and_is_the_beginning_of_the_full_order() -> None:
    nodes, layers = random_layers(3)
    full = extract(nodes, layers).order
    assert sorted(full.tolist()) == list(range(28))
    for quota in range(29):
        assert extract(nodes, layers, quota).order.tolist() == full[:quota].tolist()


def test_patience_ends_the_search_for_chains_of_one_kernel() -> None:
    nodes, layers = dense(1, [20, 20], 2.0)  # one layer: all chains have one kernel
    found: Extraction = extract(nodes, layers, patience=7)
    assert (found.chains, found.chained) == (7, 7)
    logs = layers[0].logs.ravel()
    assert found.order.tolist() == np.argsort(-logs, kind="stable").tolist()


def test_weak_edges_are_used_only_inside_chains_that_stay_above_one() -> None:
    log = math.log
    layers = [
        Layer(1, np.array([[0]]), np.array([[log(4.0)]]), 0),
        Layer(2, np.array([[1]]), np.array([[log(0.5)]]), 1),  # 4 * 0.5 = 2 goes on
        Layer(3, np.array([[2]]), np.array([[log(3.0)]]), 2),
        Layer(4, np.array([[3]]), np.array([[log(0.1)]]), 3),  # 6 * 0.1 < 1 begins anew
        Layer(5, np.array([[4]]), np.array([[log(5.0)]]), 4),
    ]
    assert extract(6, layers, 3).order.tolist() == [2, 1, 0]
    assert extract(6, layers).order.tolist() == [2, 1, 0, 4, 3]


def test_equal_chains_are_taken_in_the_order_of_their_nodes() -> None:
    layers = [Layer(2, np.array([[0, 1]]), np.ones((2, 2)), 0)]
    assert extract(4, layers).order.tolist() == [0, 1, 2, 3]
