"""Graph features: figures of ways against all ways written out, and what is kept."""

from itertools import pairwise

import numpy as np
import pytest

from predictors import GraphFeatures
from predictors.features import GROUPS, _walk
from predictors.reading import Reader
from search_spaces import GraphBuilder, make_space
from search_spaces.errors import EngineError


@pytest.fixture(scope="module")
def space():
    return make_space("nasbench201")


@pytest.fixture(scope="module")
def features(space):
    return GraphFeatures(space)


def ways(graph):
    """All ways from inputs to the output, as lists of nodes."""
    found = {node.name: [] for node in graph.nodes}
    for node in graph.nodes:
        if node.operator == "input":
            found[node.name] = [[node]]
        elif node.operator != "zero":
            found[node.name] = [[*way, node] for name in node.inputs for way in found[name]]
    return [way for name in graph.outputs for way in found[name]]


def test_figures_of_ways_equal_those_of_all_ways_written_out(space, features):
    rng = np.random.default_rng(0)
    for _ in range(50):
        graph = space.sketch(space.sample(rng))
        row = dict(zip(features.names, features._raw(features.encoder.encode([graph]))[0], strict=True))
        found = ways(graph)
        assert row["log2 ways"] == pytest.approx(np.log2(1 + len(found)))
        learned = [sum(node.signature.cost.params > 0 for node in way) for way in found] or [-1]
        assert row["largest of learned steps on a way"] == max(learned)
        assert row["smallest of learned steps on a way"] == min(learned)
        assert row["mean of learned steps on a way"] == pytest.approx(np.mean(learned))
        if found:
            assert row["spread of learned steps on a way"] == pytest.approx(np.std(learned), abs=1e-6)


def test_ways_are_counted_as_they_read(space, features):
    cell = space.architecture(edge01="nor_conv_3x3", edge13="nor_conv_1x1", edge03="skip_connect")
    row = dict(zip(features.names, features._raw(features.encoder.encode([space.sketch(cell)]))[0], strict=True))
    there = {name for name, group in zip(features.names, features.groups, strict=True) if GROUPS[group] == "ways"}
    counted = {name: row[name] for name in there if row[name]}
    assert counted == {
        "relu_conv_bn(kernel_size=3, stride=1) > relu_conv_bn(kernel_size=1, stride=1)": 1,
        "straight through": 1,
    }


def test_columns_vary_and_differ(space, features):
    rng = np.random.default_rng(1)
    rows = features.of([space.sketch(space.sample(rng)) for _ in range(500)])
    assert rows.shape == (500, len(features)) == (500, len(features.names))
    assert (rows.std(0) > 0).all()
    columns = {column.tobytes() for column in rows.T.round(6)}
    assert len(columns) == len(features)


def test_isomorphic_cells_have_equal_features(space, features):
    dead = space.architecture(edge01="nor_conv_3x3", edge03="nor_conv_1x1")
    bare = space.architecture(edge03="nor_conv_1x1")
    np.testing.assert_array_equal(*features.of([space.sketch(dead), space.sketch(bare)]).reshape(2, 1, -1))


def test_facts_make_equal_features(space, features):
    again = GraphFeatures(space, facts=features.facts)
    sketches = [space.sketch(space.sample(np.random.default_rng(2))) for _ in range(20)]
    np.testing.assert_array_equal(features.of(sketches), again.of(sketches))
    assert again.names == features.names
    with pytest.raises(EngineError, match="not the facts of graph features"):
        GraphFeatures(space, facts={"kinds": []})


def test_large_spaces_have_bounded_features():
    mobile = make_space("mobile")
    features = GraphFeatures(mobile)
    assert 50 < len(features) < 900
    rng = np.random.default_rng(0)
    members = [mobile.sample(rng) for _ in range(64)]
    assert np.isfinite(features.of(map(mobile.sketch, members))).all()


def test_a_deep_ladder_counts_its_ways_without_walking_them():
    g = GraphBuilder((4, 8, 8))
    x = g.input
    for i in range(40):
        a, b = (g.add("activation", x, name=f"{side}{i}", kind=kind) for side, kind in (("a", "relu"), ("b", "gelu")))
        x = g.add("add", a, b, name=f"sum{i}")
    graph = g.build(x)
    features = GraphFeatures(make_space("nasbench201"))
    batch = features.encoder.encode([graph])
    nothing = np.zeros(batch.rows.shape, dtype=bool)
    figures = _walk(batch, np.ones((*batch.rows.shape, 1)), nothing, np.nonzero(batch.adjacency))
    assert figures.count[0] == 2.0**40
    assert figures.largest[0] == figures.smallest[0] == figures.mean[0] == 42  # with input and output


class TestReader:
    def test_a_small_space_is_read_once_and_whole(self, space):
        reader = Reader.of(space)
        assert Reader.of(space) is reader
        members = [space.sample(np.random.default_rng(i)) for i in range(30)]
        read = reader.read(members)
        fresh = Reader(space).encoder.encode(map(space.sketch, members))
        np.testing.assert_array_equal(read.graphs.totals, fresh.totals)
        np.testing.assert_array_equal(read.graphs.sizes, fresh.sizes)
        rows, inverse = reader.distinct(members)
        assert [reader.known(rows).architectures[i] for i in inverse] == [space.canonical(a) for a in members]
        assert all(a < b for a, b in pairwise(rows))

    def test_a_large_space_is_not(self):
        mobile = make_space("mobile")
        assert Reader.of(mobile).distinct([mobile.sample(np.random.default_rng(0))]) is None
