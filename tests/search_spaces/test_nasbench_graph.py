"""The graph networks of NAS-Bench-Graph against the public tables: numbers, isomorphism, parameters; and as a space."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from nas_engine.testing import SpaceContract
from nas_engine.testing.measure import counted_macs
from predictors.encoding import Encoder
from search_spaces import Graph, Network, SpaceError, make_space
from search_spaces.inputs import random_inputs
from search_spaces.nasbench_graph import LINKS, OPERATIONS, PUBLISHED, NasBenchGraph

N, F, E = 12, 5, 30
SMALL: dict[str, Any] = {"input_shape": (N, F), "classes": 3, "edges": E, "hidden": 8}
DATA = {  # nodes, features, classes
    "cora": (2708, 1433, 7),
    "citeseer": (3327, 3703, 6),
    "pubmed": (19_717, 500, 3),
    "cs": (18_333, 6805, 15),
    "computers": (13_381, 767, 10),
    "arxiv": (169_343, 128, 40),
}


@pytest.fixture(scope="module")
def space() -> NasBenchGraph:
    return NasBenchGraph()


@pytest.fixture(scope="module")
def table(shared_file: Callable[[str], Path]) -> pd.DataFrame:
    return pd.read_parquet(shared_file("nasbench_graph/cora.parquet"))


class GraphContract(SpaceContract):
    output_shape = (N, 3)
    slices: ClassVar[int] = 8
    members = 24
    enumerable = 60_000

    def test_macs_are_those_torch_counts(self, graphs: list[Graph]) -> None:
        """torch counts products of matrices, not those of messages."""
        for graph in graphs:
            linear = {"gcn": 1, "sage": 2, "gat": 1, "gin_linear": 1, "cheb": 2, "arma": 2, "graph": 2}
            convolved = [n for n in graph.simplify() if n.operator == "graph_conv"]
            products = sum(
                linear[n.attributes["kind"]] * N * n.signature.inputs[0][1] * n.shape[1] for n in convolved
            ) + sum(n.signature.cost.macs for n in graph.simplify() if n.operator == "linear")
            assert products == counted_macs(graph, "cpu")


class TestContract(GraphContract):
    space = NasBenchGraph(**SMALL)


class TestContractWithLayersAround(GraphContract):
    """As on Amazon-Computers: one layer before, so that no computing node reads the input itself."""

    space = NasBenchGraph(**SMALL, before=1, after=2, heads=4, dropout=0.0)


class TestContractOfFewOperations(GraphContract):
    space = NasBenchGraph(**SMALL, after=0, operations=("skip", "gcn", "sage", "arma", "fc"))


# ---- against the public tables -------------------------------------------------------------------------------


def test_the_tables_hold_every_network_once(space: NasBenchGraph, table: pd.DataFrame) -> None:
    members = {space.canonical(a) for a in space.enumerate()}
    numbers = {space.hash(a) for a in members}
    assert space.size == 9 * (9**4 - 1)
    assert len(members) == len(numbers) == len(table) == space.distinct == 26_206
    assert numbers == set(table["hash"].tolist())


def test_every_number_is_read_and_written(space: NasBenchGraph, table: pd.DataFrame) -> None:
    for number, *row in table[["hash", "link", "op1", "op2", "op3", "op4"]].itertuples(index=False):
        member = space.from_hash(number)
        assert list(member.values.values()) == row
        assert space.hash(member) == number
        assert space.canonical(member) == member


@pytest.mark.parametrize("data", DATA)
def test_parameters_are_the_published_ones(data: str, shared_file: Callable[[str], Path]) -> None:
    """Beside weights that no forward uses: the benchmark counts one of each `arma`, and all four batch norms."""
    frame = pd.read_parquet(shared_file(f"nasbench_graph/{data}.parquet")).sample(150, random_state=0)
    nodes, features, classes = DATA[data]
    space = NasBenchGraph(input_shape=(nodes, features), classes=classes, **PUBLISHED[data])
    counted = []
    for number in frame["hash"]:
        member = space.from_hash(number)
        graph = space.graph(member).simplify()
        norms = sum(node.operator == "node_batch_norm" for node in graph)
        unused = space.hidden**2 * list(member.values.values()).count("arma") + 2 * space.hidden * (4 - norms)
        counted.append(graph.cost.params + unused)
    assert counted == (frame["params_millions"] * 1e6).round().astype(int).tolist()


def test_a_network_costs_what_its_modules_hold() -> None:
    """Cora's, worked out: two gcn behind the input, one behind the first, joined and classified."""
    space = NasBenchGraph()
    graph = space.graph(space.from_tree((0, 0, 1, 1), ("gcn", "gat", "fc", "skip")))
    first, second = 1433 * 256 + 256, 1433 * 256 + 3 * 256
    third, norms = 256 * 256 + 256, 2 * 2 * 256
    head = 3 * 256 * 256 + 256 + 256 * 7 + 7
    assert graph.simplify().cost.params == first + second + third + norms + head
    assert graph[graph.outputs[0]].shape == (2708, 7)


# ---- isomorphism -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reads", "operations", "number"),
    [
        ((0, 0, 0, 0), ("fc", "gat", "gin", "gcn"), 127),  # sorted
        ((0, 0, 1, 2), ("gcn", "gat", "fc", "cheb"), 30137),  # chains change places together
        ((0, 1, 2, 1), ("gcn", "gin", "fc", "cheb"), 61237),  # as in the benchmark's own example, whose tree is 0-1-1-2
        ((0, 1, 2, 3), ("gcn", "skip", "fc", "skip"), 88817),  # skips in a chain come first
        ((0, 0, 0, 1), ("skip", "gcn", "fc", "gat"), 58017),  # the input is not joined
        ((0, 1, 1, 2), ("gcn", "fc", "skip", "gat"), 61780),  # a node given to the output stays
        ((0, 1, 2, 2), ("gcn", "skip", "skip", "gat"), 78108),  # also where its reader is looked through
        ((0, 1, 2, 3), ("skip",) * 4, 88888),
    ],
)
def test_isomorphism_by_hand(
    space: NasBenchGraph, reads: tuple[int, ...], operations: tuple[str, ...], number: int
) -> None:
    assert space.hash(space.from_tree(reads, operations)) == number


def test_the_order_of_nodes_means_nothing(space: NasBenchGraph) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        member = space.sample(rng)
        reads, digits = space.tree(member)
        for order in permutations(range(4)):
            number = {0: 0, **{i + 1: place for place, i in enumerate(order, 1)}}
            again = [number[reads[i]] for i in order]
            if all(read <= i for i, read in enumerate(again)):
                assert space.from_tree(again, [digits[i] for i in order]) == space.canonical(member)


def test_every_tree_of_four_nodes_has_a_link(space: NasBenchGraph) -> None:
    for reads in product((0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)):
        assert space.from_tree(reads, ("gcn", "gat", "fc", "sage"))["link"] in space.choices[0].options


def test_isomorphic_members_share_graph_and_sketch(space: NasBenchGraph) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        a = space.sample(rng)
        other = space.symmetric(a, rng)
        assert space.canonical(other) == space.canonical(a)
        assert space.graph(other) == space.graph(a)
        assert space.sketch(other) == space.sketch(a)


def test_sketches_tell_networks_apart(space: NasBenchGraph) -> None:
    """As predictors read them, which is what features and graph networks see."""
    rng = np.random.default_rng(0)
    members = list({space.canonical(space.sample(rng)) for _ in range(3000)})
    encoder = Encoder(space)
    batch = encoder.encode(map(space.sketch, members))
    seen = {(r.tobytes(), a.tobytes()) for r, a in zip(batch.rows, batch.adjacency, strict=True)}
    assert len(seen) == len(members)


# ---- the published network -------------------------------------------------------------------------------------


def test_a_network_computes_what_the_benchmark_describes() -> None:
    """By hand, in evaluation: nodes normalise what they read unless it is the input; ends are joined and classified."""
    space = NasBenchGraph(**SMALL)
    graph = space.graph(space.from_tree((0, 1, 1, 2), ("fc", "gcn", "skip", "fc")))
    network = Network(graph).eval()
    x, edges = random_inputs(graph, 1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.fill_(0.1)

    def part(name: str, *given: torch.Tensor) -> torch.Tensor:
        return network.get_submodule(name)(*given)

    with torch.no_grad():
        first = part("node1.fc_of_input", x)
        second = part("node2.gcn", part("node2.norm", first).relu(), edges)
        third = part("node3.norm", first).relu()
        fourth = part("node4.fc", part("node4.norm", second).relu())
        joined = part("head.join2", torch.cat([third, fourth], -1).relu())
        torch.testing.assert_close(network(x, edges), part("head.linear1", joined))


def test_gin_is_one_linear_layer_of_sums() -> None:
    space = NasBenchGraph(**SMALL, after=0)
    graph = space.graph(space.from_tree((0, 1, 2, 3), ("skip", "skip", "skip", "gin")))
    network = Network(graph).eval()
    x, edges = random_inputs(graph, 1, torch.Generator().manual_seed(0))
    sums = x[0] + torch.zeros_like(x[0]).index_add_(0, edges[0, 1], x[0][edges[0, 0]])
    linear, head = network.get_submodule("node4.gin_of_input.conv.nn"), network.get_submodule("head.join1")
    with torch.no_grad():
        torch.testing.assert_close(network(x, edges)[0], head(linear(sums).relu()))


def test_a_network_of_skips_alone_can_be_made_but_is_not_met() -> None:
    space = NasBenchGraph(**SMALL, operations=("skip", "fc"))
    empty = space.architecture({f"op{i}": "skip" for i in (1, 2, 3, 4)})
    assert Network(space.graph(empty)).eval()(torch.randn(1, N, F), torch.zeros(1, 2, E).long()).shape == (1, N, 3)
    assert len(space.sketch(empty)) == 1
    assert space.size == len(list(space.enumerate())) == 9 * 15
    rng = np.random.default_rng(0)
    one = space.architecture({**empty.values, "op3": "fc"})
    met = [space.sample(rng) for _ in range(300)] + [space.mutate(one, rng) for _ in range(100)]
    assert empty.values["op1"] == "skip"
    assert not any(set(list(a.values.values())[1:]) == {"skip"} for a in (*met, *space.neighbours(one)))


# ---- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (100_000, "is not a network"),
        (-1, "is not a network"),
        (90_000, "is not a network"),
        (9, "is not a network"),
        (10, "not canonical.*the same network is 1$"),
        (8888, "not canonical.*is 88888"),
    ],
)
def test_numbers_that_no_table_has_are_refused(space: NasBenchGraph, number: int, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        space.from_hash(number)


def test_texts_are_numbers(space: NasBenchGraph) -> None:
    assert space.from_text("00127") == space.from_text("127") == space.from_hash(127)
    assert space.to_text(space.from_hash(127)) == "127"
    with pytest.raises(SpaceError, match="is not the number of a network"):
        space.from_text("gcn")


@pytest.mark.parametrize(
    ("reads", "operations", "words"),
    [
        ((0, 0, 0), ("gcn",) * 3, "four nodes"),
        ((0, 2, 0, 0), ("gcn",) * 4, "four nodes"),
        ((0, 0, 0, 0), ("gcn", "gcn", "gcn", "sages"), "no option 'sages': did you mean 'sage'"),
    ],
)
def test_other_trees_are_refused(
    space: NasBenchGraph, reads: tuple[int, ...], operations: tuple[str, ...], words: str
) -> None:
    with pytest.raises(SpaceError, match=words):
        space.from_tree(reads, operations)


@pytest.mark.parametrize(
    "wrong", [{"hidden": 0}, {"hidden": 9}, {"dropout": 1.0}, {"after": -1}, {"operations": ("x",)}]
)
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpaceError):
        make_space("nasbench_graph", wrong)


def test_a_table_of_the_space(table: pd.DataFrame) -> None:
    """As a user brings one: rows are members by the names of their columns."""
    space = make_space(
        "table",
        {
            "path": table,
            "target": "test_perf",
            "graph": "nasbench_graph",
            "choices": ["link", "op1", "op2", "op3", "op4"],
        }
        | {"input_shape": (2708, 1433), "classes": 7},
    )
    assert space.size == 26_206
    best = max(space.enumerate(), key=space.score)
    assert round(space.score(best), 4) == 0.8313
    inner = NasBenchGraph()
    assert space.row(best)["hash"] == inner.hash(inner.from_indices(best.indices))


def test_links_and_operations_are_the_published_ones() -> None:
    assert len(LINKS) == len(OPERATIONS) == 9
    assert [OPERATIONS.index(o) for o in ("gat", "skip")] == [0, 8]
