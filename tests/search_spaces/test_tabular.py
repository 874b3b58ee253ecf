"""Spaces made of tables: rows as members, their scores, chains and named networks, and every mistake in one line."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nas_engine.testing import StandaloneSpaceContract
from predictors import make_predictor
from predictors.encoding import Encoder
from predictors.ranking import kendall_tau
from search_spaces import Architecture, Network, SpaceError, Supernet, make_space
from search_spaces.errors import DataError, EngineError
from search_spaces.graph import Graph
from search_spaces.nasbench201 import NasBench201
from search_spaces.operators import Cost
from search_spaces.tabular import TableSpace

ROWS = """\
op,width,bias,acc,note
conv,16,True,0.5,a
pool,8,True,0.25,b
conv,8,False,0.75,c
conv,16,True,0.7,d
pool,128,False,,e
"""


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text(ROWS)
    return tmp_path / "rows.csv"


def space_of(path: Any, **arguments: Any) -> TableSpace:
    arguments = {"choices": ["op", "width", "bias"], "target": "acc", **arguments}
    made = make_space("table", {"path": path, **arguments})
    assert isinstance(made, TableSpace)
    return made


def full_product(seed: int = 0) -> pd.DataFrame:
    rows = list(product(("a", "b", "c"), (1, 2, 4, 8), (0.5, 1.5), (False, True)))
    frame = pd.DataFrame(rows, columns=["kind", "width", "rate", "bias"])
    frame["score"] = np.random.default_rng(seed).uniform(size=len(frame))
    return frame.sample(frac=1, random_state=seed)


# ---- the contracts -------------------------------------------------------------------------------------------


class _OfATable(StandaloneSpaceContract):
    """Chains have no weights, so what is asked of training and of other data does not apply."""

    output_shape = (3, 32, 32)

    def test_networks_learn_and_are_copied(self, graphs: list[Graph]) -> None:
        assert not list(Network(graphs[0]).parameters())

    def test_other_data_give_other_ends(self) -> None:
        frame = full_product()
        space = space_of(frame, choices=["kind", "width"], target="score", input_shape=(1, 8, 8), classes=3)
        graph = space.graph(space.sample(np.random.default_rng(0)))
        assert graph.inputs[0].shape == graph[graph.outputs[0]].shape == (1, 8, 8)


class TestFullProduct(_OfATable):
    space = space_of(full_product(), choices=["kind", "width", "rate", "bias"], target="score")


class TestSomeRows(_OfATable):
    """Twenty of the rows; where none differs in one choice, mutants are as near as there are."""

    space = space_of(full_product().head(20), choices=["kind", "width", "rate", "bias"], target="score")

    def test_neighbours_differ_in_one_choice(self, sampled: list[Architecture]) -> None:
        for architecture in sampled:
            near = {m for m in self.space.enumerate() if len(self.differing(architecture, m)) == 1}
            assert set(self.space.neighbours(architecture)) == near

    def test_mutants_are_other_members(self, sampled: list[Architecture]) -> None:
        rng = np.random.default_rng(0)
        members = set(self.space.enumerate())
        for architecture in sampled:
            distances = {len(self.differing(architecture, m)) for m in members} - {0}
            for changes in (1, 2, 4):
                mutant = self.space.mutate(architecture, rng, changes)
                assert mutant in members
                wanted = min(changes, max(distances))
                assert len(self.differing(architecture, mutant)) == min(distances, key=lambda d: (abs(d - wanted), d))


# ---- rows ----------------------------------------------------------------------------------------------------


def test_rows_are_members(csv: Path) -> None:
    space = space_of(csv)
    assert [c.options for c in space.choices] == [("conv", "pool"), (8, 16, 128), (False, True)]
    assert [a.values for a in space.enumerate()] == [
        {"op": "conv", "width": 8, "bias": False},
        {"op": "conv", "width": 16, "bias": True},
        {"op": "pool", "width": 8, "bias": True},
    ]
    assert space.size == 3
    np.testing.assert_allclose(space.scores, [0.75, 0.6, 0.25])
    assert [space.score(a) for a in space.enumerate()] == space.scores.tolist()
    about = {"members": 3, "repeated": 1, "left_out": 1, "target": "acc", "share": 3 / 12, "table": repr(str(csv))}
    assert space.about == about


def test_rows_give_all_their_columns(csv: Path) -> None:
    space = space_of(csv)
    first, second, _ = space.enumerate()
    assert space.row(first) == {"op": "conv", "width": 8, "bias": False, "acc": 0.75, "note": "c"}
    assert space.row(second) == {"op": "conv", "width": 16, "bias": True, "acc": pytest.approx(0.6), "note": "a"}


def test_only_rows_are_known(csv: Path) -> None:
    space = space_of(csv)
    absent = space.architecture(op="pool", width=128, bias=False)
    assert not space.known(absent)
    assert all(space.known(a) for a in space.enumerate())
    for ask in (space.score, space.row):
        with pytest.raises(SpaceError, match="no row of .*'pool'"):
            ask(absent)
    assert space.decode(absent.code) == absent, "a predictor may be asked for it all the same"
    drawn = {space.sample(np.random.default_rng(i)) for i in range(30)}
    assert drawn == set(space.enumerate())


@pytest.mark.parametrize("kind", ["parquet", "csv.gz", "frame"])
def test_kinds_of_tables_are_alike(csv: Path, kind: str) -> None:
    frame = pd.read_csv(csv)
    other: Any = frame.set_index(pd.Index([7, 7, 7, 7, 7]))
    if kind == "parquet":
        other = str(csv.with_suffix(".parquet"))
        frame.to_parquet(other)
    if kind == "csv.gz":
        other = csv.with_name("rows.csv.gz")
        other.write_bytes(gzip.compress(ROWS.encode()))
    space = space_of(other)
    assert list(space.enumerate()) == list(space_of(csv).enumerate())
    assert [space.row(a) for a in space.enumerate()] == [space_of(csv).row(a) for a in space.enumerate()]


def test_one_row_cannot_be_mutated(csv: Path) -> None:
    space = space_of(pd.read_csv(csv).head(1))
    (only,) = space.enumerate()
    with pytest.raises(SpaceError, match="one member only"):
        space.mutate(only, np.random.default_rng(0))
    assert list(space.neighbours(only)) == []


def test_digits_are_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "digits.csv"
    path.write_text("arch,acc\n002,1\n011,2\n212,4\n002,3\n")
    space = make_space("table", {"path": str(path), "digits": "arch", "target": "acc"})
    assert isinstance(space, TableSpace)
    assert [(c.name, c.options) for c in space.choices] == [
        ("arch[0]", ("0", "2")),
        ("arch[1]", ("0", "1")),
        ("arch[2]", ("1", "2")),
    ]
    first = next(space.enumerate())
    assert "".join(map(str, first.values.values())) == "002" == space.row(first)["arch"]
    assert space.score(first) == 2


def test_spaces_travel(csv: Path) -> None:
    space = space_of(csv)
    again = pickle.loads(pickle.dumps(space))
    assert list(again.enumerate()) == list(space.enumerate())
    assert again.sketch(next(again.enumerate())) == space.sketch(next(space.enumerate()))


# ---- chains --------------------------------------------------------------------------------------------------


def test_a_chain_holds_the_choices(csv: Path) -> None:
    space = space_of(csv)
    member = space.architecture(op="pool", width=16, bias=True)
    graph = space.graph(member)
    assert [n.operator for n in graph] == ["input", "choice", "choice", "choice"]
    assert [n.attributes for n in graph.nodes[1:]] == [
        {"label": "op", "option": "pool", "level": None},
        {"label": "width", "option": 16, "level": 0.5},
        {"label": "bias", "option": "True", "level": None},
    ]
    assert graph.cost == Cost()
    assert not graph.uncounted
    assert graph[graph.outputs[0]].shape == (3, 32, 32)


def test_distinct_rows_encode_distinctly() -> None:
    frame = full_product()
    frame["tiny"] = 1e-6 * frame["width"]
    space = space_of(frame, choices=["kind", "width", "rate", "bias", "tiny"], target="score")
    encoder = Encoder(space)
    batch = encoder.encode(map(space.sketch, space.enumerate()))
    features = encoder.table[batch.rows].reshape(len(batch), -1)
    assert len(np.unique(features.round(4), axis=0)) == space.size


def test_chains_cannot_be_trained(csv: Path) -> None:
    with pytest.raises(SpaceError, match="not networks that can be trained; name the space .*graph: NAME"):
        Supernet(space_of(csv))


# ---- networks of a named space -------------------------------------------------------------------------------

CELLS = [
    "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|",
    "|skip_connect~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|",
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
]


def cells(**more: Any) -> TableSpace:
    frame = pd.DataFrame({"arch_str": CELLS, "acc": [1.0, 2.0, 3.0]})
    return space_of(frame, choices=None, key="arch_str", graph="nasbench201", parameters={"channels": 4}, **more)


def test_published_names_make_networks() -> None:
    space, inner = cells(input_shape=(1, 8, 8), classes=3), NasBench201(input_shape=(1, 8, 8), classes=3, channels=4)
    for text, score in zip(CELLS, (1.0, 2.0, 3.0), strict=True):
        own = inner.from_text(text)
        member = space.from_indices(own.indices)
        assert space.score(member) == score
        assert space.graph(member) == inner.graph(own)
        assert space.sketch(member) == inner.sketch(own)
    assert space.choices == inner.choices
    assert space.about["share"] == 3 / 15_625
    assert [a.indices for a in space.envelope()] == [a.indices for a in inner.envelope()]


def test_representatives_are_of_the_table_where_it_has_one() -> None:
    inner = NasBench201(channels=4)
    own = inner.from_text(CELLS[1])
    copies = [a for a in inner.enumerate() if inner.key(a) == inner.key(own) and inner.canonical(a) != a][:2]
    frame = pd.DataFrame({"arch_str": [inner.to_text(a) for a in copies], "acc": [1.0, 2.0]})
    space = space_of(frame, choices=None, key="arch_str", graph="nasbench201", parameters={"channels": 4})
    members = [space.from_indices(a.indices) for a in copies]
    assert [space.canonical(m) for m in members] == [members[0]] * 2
    elsewhere = space.from_indices([4, 4, 4, 4, 4, 1])
    assert space.canonical(elsewhere).indices == inner.canonical(inner.from_indices([4, 4, 4, 4, 4, 1])).indices


def test_columns_called_like_the_choices() -> None:
    parameters = {"widths": [8], "strides": [1], "depths": [1, 2], "squeeze_excite": [False], "activations": ["relu"]}
    inner = make_space("mobile", parameters)
    rng = np.random.default_rng(0)
    members = [inner.sample(rng) for _ in range(30)]
    frame = pd.DataFrame([{**m.values, "acc": float(i)} for i, m in enumerate(members)])
    shallow = frame["stage0.depth"] == 1
    frame["stage0.block1.kernel"] = frame["stage0.block1.kernel"].where(~shallow)  # missing where it rests
    space = space_of(frame, choices=None, graph="mobile", parameters=parameters)
    assert {a.indices for a in space.enumerate()} == {m.indices for m in members}
    assert all(space.known(space.from_indices(m.indices)) for m in members)
    for a in space.enumerate():
        near = set(space.neighbours(a))
        both = [{i for i in space.counting(a) if i in space.counting(b)} for b in space.enumerate()]
        apart = [sum(a.indices[i] != b.indices[i] for i in c) for b, c in zip(space.enumerate(), both, strict=True)]
        assert near == {b for b, d in zip(space.enumerate(), apart, strict=True) if d == 1}


class TestNamedNetworks(StandaloneSpaceContract):
    """Real networks behind the rows of a table."""

    members, networks = 8, 2
    space = space_of(
        pd.DataFrame(
            {
                "arch_str": [
                    NasBench201().to_text(a) for a in map(NasBench201().sample, map(np.random.default_rng, range(60)))
                ],
                "acc": range(60),
            }
        ),
        choices=None,
        key="arch_str",
        graph="nasbench201",
        parameters={"channels": 4, "cells": 1},
        input_shape=(1, 8, 8),
    )
    test_other_data_give_other_ends = None
    test_neighbours_differ_in_one_choice = None
    test_mutants_are_other_members = None


# ---- mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"path": "absent/rows.csv"}, "no table 'absent/rows.csv'"),
        ({"path": "row.csv"}, "did you mean 'rows.csv'"),
        ({"path": "rows.txt"}, "give a .parquet, .csv or .csv.gz file"),
        ({"path": "torn.parquet"}, "cannot be read as a table"),
        ({"path": "torn.csv.gz"}, "cannot be read as a table"),
        ({"choices": ["op", "widht"]}, "no column 'widht': did you mean 'width'"),
        ({"target": "ac"}, "no column 'ac': did you mean 'acc'"),
        ({"target": "note"}, "holds no numbers, but 'a' for one; columns of numbers: width, acc"),
        ({"target": "bias"}, "holds no numbers"),
        ({"choices": ["acc"], "target": "width"}, "lacks 1 of 5 values"),
        ({"choices": None}, "either choices: .* or digits"),
        ({"choices": "op"}, "either choices: .* or digits"),
        ({"digits": "note"}, "either choices: .* or digits"),
        ({"choices": None, "digits": "op", "path": "uneven.csv"}, "have 1 and 2 characters"),
        ({"choices": None, "digits": "width"}, None),
        ({"key": "note"}, "key only together with graph"),
        ({"parameters": {"cells": 1}}, "parameters only together with graph"),
        ({"graph": "nasbench201"}, "has no choice 'op'"),
        ({"graph": "nasbench201", "choices": None}, "no column 'edge01'"),
        ({"graph": "nasbench21", "choices": None}, "did you mean 'nasbench201'"),
        ({"graph": "nasbench201", "key": "note", "choices": None}, "column 'note' of .*: 'a' is not a cell"),
        ({"graph": "nasbench201", "key": "note"}, "not from both"),
        ({"graph": "mobile", "key": "note", "choices": None}, "has no from_text.*nasbench201"),
    ],
)
def test_mistakes_are_told_in_one_line(
    csv: Path, arguments: dict[str, Any], words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(csv.parent)
    Path("rows.txt").write_text(ROWS)
    Path("torn.parquet").write_bytes(b"PAR1 torn")
    Path("torn.csv.gz").write_bytes(gzip.compress(ROWS.encode())[:30])
    Path("uneven.csv").write_text("op,acc\na,1\nbb,2\n")
    if words is None:
        frame = pd.read_csv("rows.csv")
        arguments, words = {**arguments, "path": frame}, "stored as numbers, so leading zeros are lost"
    with pytest.raises(EngineError, match=words) as told:
        space_of(**{"path": "rows.csv", **arguments})
    assert "\n" not in str(told.value)


def test_too_many_options() -> None:
    frame = pd.DataFrame({"a": range(63), "acc": range(63)})
    with pytest.raises(DataError, match="'a' has 63 distinct values, but a choice allows at most 62"):
        space_of(frame, choices=["a"])
    assert space_of(frame.head(62), choices=["a"]).size == 62


def test_no_score_at_all(csv: Path) -> None:
    with pytest.raises(DataError, match="no row with a score"):
        space_of(pd.read_csv(csv).tail(1))


def test_what_a_table_needs_is_named() -> None:
    with pytest.raises(SpaceError, match="space 'table' needs path and target"):
        make_space("table", {"choices": ["a"]})


# ---- the tables of the field ---------------------------------------------------------------------------------


def test_gnn_architectures(shared_file: Callable[[str], Path]) -> None:
    """26,206 rows of a space of 59,049 combinations: a partial table, learned from as any space is."""
    path = shared_file("nasbench_graph/cora.parquet")
    space = space_of(str(path), choices=["link", "op1", "op2", "op3", "op4"], target="test_perf")
    frame = pd.read_parquet(path)
    assert space.size == len(frame) == 26_206
    assert space.about["repeated"] == 0
    for i in (0, 1234, 26_205):
        values = {c.name: frame[c.name][i] for c in space.choices}
        assert space.score(space.architecture(values)) == frame["test_perf"][i]
    encoder = Encoder(space)
    batch = encoder.encode(map(space.sketch, space.enumerate()))
    assert len(np.unique(encoder.table[batch.rows].reshape(len(batch), -1), axis=0)) == space.size
    rng = np.random.default_rng(0)
    members = list(dict.fromkeys(space.sample(rng) for _ in range(260)))
    scores = [space.score(a) for a in members]
    predictor = make_predictor("gcn", space, seed=0, members=1, epochs=40).fit(members[:120], scores[:120])
    assert kendall_tau(scores[120:], predictor.predict(members[120:])[0]) > 0.25


def test_macro_networks(shared_file: Callable[[str], Path]) -> None:
    path = shared_file("nasbench_macro/nasbench_macro_cifar10.csv.gz")
    space = space_of(str(path), choices=None, digits="arch", target="mean_acc")
    assert (space.size, space.about["share"]) == (3**8, 1)
    best = max(space.enumerate(), key=space.score)
    assert (best.code, round(space.score(best), 2)) == ("22212202", 93.13)


def test_published_cells(shared_file: Callable[[str], Path]) -> None:
    path = shared_file("nasbench201/nasbench201.parquet")
    target = "cifar10_test_acc_200ep"
    space = space_of(str(path), choices=None, graph="nasbench201", key="arch_str", target=target)
    frame, inner = pd.read_parquet(path, columns=["arch_str", target]), NasBench201()
    assert space.size == 15_625
    for text, score in frame.sample(20, random_state=0).itertuples(index=False):
        member = inner.from_text(text)
        assert inner.to_text(member) == text
        assert space.score(space.from_indices(member.indices)) == score
        assert space.canonical(space.from_indices(member.indices)).indices == inner.canonical(member).indices
