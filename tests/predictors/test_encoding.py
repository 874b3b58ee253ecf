"""Encoding of sketches: what stands where, for the spaces there are and for operators not seen before."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from predictors import Encoder, GraphBatch
from search_spaces import Graph, GraphBuilder, SearchSpace, make_space, spaces
from search_spaces.errors import EngineError


@cache
def space_of(name: str) -> SearchSpace:
    return make_space(name)


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(space_of("nasbench201"))


def drawn(space: SearchSpace, count: int, seed: int = 0) -> list[Graph]:
    rng = np.random.default_rng(seed)
    return [space.sketch(space.sample(rng)) for _ in range(count)]


def nodes(encoder: Encoder, batch: GraphBatch, graph: int = 0) -> list[set[str]]:
    """Names of the categorical columns that are set, node by node."""
    table = encoder.table
    return [{encoder.columns[c] for c in np.flatnonzero(table[r] == 1)} for r in batch.rows[graph] if r]


def test_a_cell_by_hand(encoder: Encoder) -> None:
    """input -> conv -> (pool, skip) -> output: the sum in front of the output is looked through."""
    space = space_of("nasbench201")
    member = space.architecture(edge01="nor_conv_3x3", edge13="avg_pool_3x3", edge03="skip_connect")
    batch = encoder.encode([space.sketch(member)])
    kinds = [next(c for c in node if c.startswith("operator=")) for node in nodes(encoder, batch)]
    assert sorted(kinds) == sorted(
        f"operator={n}" for n in ("input", "relu_conv_bn", "identity", "avg_pool2d", "output")
    )
    at = {kind.removeprefix("operator="): i for i, kind in enumerate(kinds)}
    edges = {tuple(e) for e in np.argwhere(batch.adjacency[0]).tolist()}
    assert edges == {
        (at["relu_conv_bn"], at["input"]),
        (at["identity"], at["input"]),
        (at["avg_pool2d"], at["relu_conv_bn"]),
        (at["output"], at["avg_pool2d"]),
        (at["output"], at["identity"]),
    }
    expected = {"input": 0, "relu_conv_bn": 1 / 3, "identity": 1 / 3, "avg_pool2d": 2 / 3, "output": 1}
    assert {name: batch.depth[0, i] for name, i in at.items()} == pytest.approx(expected)


def test_numbers_are_standardised_logarithms(encoder: Encoder) -> None:
    graphs = drawn(space_of("nasbench201"), 2000, seed=1)
    batch = encoder.encode(graphs)
    values = encoder.table[batch.rows[batch.rows > 1]]
    for name in ("params", "macs", ".kernel_size"):
        column = values[:, encoder.columns.index(name)]
        present = column[column != 0] if name.startswith(".") else column
        assert abs(present.mean()) < 0.15
        assert present.std() == pytest.approx(1, abs=0.15)
    assert abs(batch.totals.mean(0)).max() < 0.2


@pytest.mark.parametrize("name", [name for name in spaces.names() if name != "table"])  # it needs a file
def test_any_space(name: str) -> None:
    """Every graph encodes the same alone and among others; edges point back in order of the nodes."""
    encoder, graphs = Encoder(space_of(name)), drawn(space_of(name), 8, seed=3)
    together = encoder.encode(graphs)
    assert (together.adjacency == np.tril(together.adjacency, -1)).all()
    for i, graph in enumerate(graphs):
        alone, one = encoder.encode([graph]), together.select(np.array([i]))
        for part in ("rows", "adjacency", "depth", "totals"):
            assert (getattr(alone, part) == getattr(one, part)).all(), part
        assert one.sizes[0] == one.rows.shape[1]
        assert one.depth[0, -1] == 1


def test_members_that_differ_encode_differently() -> None:
    space = space_of("mobile")
    encoder, member = Encoder(space), space.from_indices([0] * len(space.choices))
    seen, graphs = set(), set()  # two widths may round to the same channels: then the networks are equal
    for other in [member, *space.neighbours(member)]:
        sketch = space.sketch(other)
        batch = encoder.encode([sketch])
        seen.add((encoder.table[batch.rows[0]].tobytes(), batch.adjacency.tobytes()))
        graphs.add(sketch.id)
    assert len(seen) == len(graphs) > 30


def test_isomorphic_cells_encode_the_same(encoder: Encoder) -> None:
    space = space_of("nasbench201")
    one = space.architecture(edge01="nor_conv_3x3", edge13="nor_conv_1x1")
    two = space.architecture(edge02="nor_conv_3x3", edge23="nor_conv_1x1")
    batch = encoder.encode([space.sketch(one), space.sketch(two)])
    assert (batch.rows[0] == batch.rows[1]).all()
    assert (batch.adjacency[0] == batch.adjacency[1]).all()


def unheard_of() -> Graph:
    g = GraphBuilder((3, 64, 64))
    x = g.add("conv2d", g.input, out_channels=24, kernel_size=(5, 5), padding="same")
    x = g.add("conv_bn_act", x, out_channels=24, activation="mish")
    return g.build(g.add("flatten", x))


def test_what_was_not_seen_still_encodes() -> None:
    encoder = Encoder(space_of("mobile"))
    batch = encoder.encode([unheard_of()])
    found = nodes(encoder, batch)
    assert "operator=?" in found[1]
    assert {"operator=conv_bn_act", ".activation=?"} <= found[2]
    assert "operator=?" in found[3]
    assert np.isfinite(encoder.table).all()
    assert np.abs(encoder.table).max() <= 5
    conv = encoder.table[batch.rows[0, 1]]
    known = encoder.table[batch.rows[0, 2]]
    kernel, channels = (encoder.columns.index(c) for c in (".kernel_size", "channels_out"))
    assert conv[kernel] > known[kernel]
    assert conv[channels] == known[channels]


def test_vocabulary_does_not_depend_on_what_was_encoded(encoder: Encoder) -> None:
    other = Encoder(space_of("nasbench201"))
    other.encode(drawn(space_of("nasbench201"), 50, seed=9))
    assert json.dumps(other.vocabulary) == json.dumps(encoder.vocabulary)


@pytest.mark.parametrize(
    "copied",
    [lambda e: Encoder(e.space, json.loads(json.dumps(e.vocabulary))), lambda e: pickle.loads(pickle.dumps(e))],
    ids=["json", "pickle"],
)
def test_copies_encode_the_same(copied: Callable[[Encoder], Encoder]) -> None:
    encoder = Encoder(space_of("mobile"))
    again, graphs = copied(encoder), drawn(space_of("mobile"), 20, seed=5)
    one, two = encoder.encode(graphs), again.encode(graphs)
    assert (encoder.table[one.rows] == again.table[two.rows]).all()
    assert (one.totals == two.totals).all()


@pytest.mark.parametrize("damage", [{"columns": None}, {"mean": [1.0]}, {"totals_mean": [0.0]}, {"columns": ["a"]}])
def test_damaged_vocabulary_is_refused(encoder: Encoder, damage: dict[str, object]) -> None:
    with pytest.raises(EngineError, match="vocabulary"):
        Encoder(encoder.space, {**encoder.vocabulary, **damage})


def test_no_graphs(encoder: Encoder) -> None:
    assert len(encoder.encode([])) == 0


def test_to_pyg(encoder: Encoder) -> None:
    graph = drawn(space_of("nasbench201"), 1, seed=2)[0]
    data, batch = encoder.to_pyg(graph), encoder.encode([graph])
    data.validate()
    assert data.x.shape == (batch.sizes[0], len(encoder.columns))
    dense = np.zeros_like(batch.adjacency[0])
    dense[data.edge_index[1], data.edge_index[0]] = True
    assert (dense == batch.adjacency[0]).all()
    assert (data.depth.numpy() == batch.depth[0]).all()


def test_encoding_is_quick() -> None:
    """Reading a graph again takes less than building it (about 12 us against 120 for a mobile sketch of 13 nodes)."""
    space, rng = space_of("mobile"), np.random.default_rng(5)
    encoder = Encoder(space)
    started = time.process_time()
    graphs = [space.sketch(space.sample(rng)) for _ in range(1000)]
    built = time.process_time() - started
    encoder.encode(graphs)
    started = time.process_time()
    encoder.encode(graphs)
    assert time.process_time() - started < built
