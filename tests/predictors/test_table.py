"""The lookup table: written in parts, read lazily, asked with conditions."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from predictors import LookupTable, Predictor, TableWriter, build_rows, merge_parts, table_metadata
from predictors.cost import CostModel, make_cost_model
from predictors.table import ROW_GROUP, CostSources, choice_columns, table_schema
from search_spaces import Architecture, Choice, Graph, SearchSpace, Signature, make_space
from search_spaces.errors import ConfigError, EngineError
from tests.predictors.made_up import METADATA, SCHEMA, Line, made_up, rows, written


class ByMacs(Predictor):
    """Predicts the MACs of the sketch; remembers how many members it was asked for at once."""

    name = "by_macs"

    def _fit(
        self, architectures: Sequence[Architecture], scores: np.ndarray, groups: np.ndarray, extra: np.ndarray
    ) -> None:
        self.asked: list[int] = []

    def _predict(
        self, architectures: Sequence[Architecture], sketches: Sequence[Graph] | None, extra: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(len(architectures))
        graphs = sketches if sketches is not None else [self.space.sketch(a) for a in architectures]
        return np.array([float(g.cost.macs) for g in graphs]), np.full(len(graphs), 0.5)

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {}, {}

    def _restore(self, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        self.asked = []


@pytest.fixture(scope="module", params=["nasbench201", "mobile"])
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return make_space(request.param)


def members(space: SearchSpace, count: int, seed: int = 0) -> list[Architecture]:
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(count)]


def predictor(space: SearchSpace) -> ByMacs:
    made = ByMacs(space)
    made.fit(members(space, 4), [1.0, 2.0, 3.0, 4.0])
    return made


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return made_up(2000)


@pytest.fixture(scope="module")
def table(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> LookupTable:
    return written(tmp_path_factory.mktemp("it's a table") / "table.parquet", frame)


# ---- writing -----------------------------------------------------------------------------------------------


def test_rows_say_what_the_space_says(space: SearchSpace, tmp_path: Path) -> None:
    models = {name: make_cost_model(name) for name in ("params", "macs")}
    asked, drawn = predictor(space), members(space, 25)
    path = tmp_path / "t.parquet"
    metadata = table_metadata(space, asked, models, seed=7, parameters={"classes": 10})
    with TableWriter(path, table_schema(space, models), metadata) as writer:
        for batch in build_rows(space, asked, models, iter(drawn), batch=10, seed=7, date="2025-01-02"):
            writer.write(batch)
    assert asked.asked == [10, 10, 5]
    table = LookupTable.open(path)
    assert len(table) == 25
    names = [c.name for c in space.choices]
    assert table.useful == ("code", "id", *names, "accuracy", "accuracy_std", "params", "macs")
    assert table.columns == (*table.useful, "params_source", "macs_source", "model", "seed", "date")
    assert table.costs == ("params", "macs")
    assert table.choices == {name: name for name in names}
    found = table.query(columns=table.columns)
    for i, a in enumerate(drawn):
        cost = space.graph(a).cost
        row = found.iloc[i].to_dict()
        assert {name: row[name] for name in names} == a.values
        assert [row[n] for n in ("code", "id", "accuracy", "accuracy_std", "params", "macs")] == [
            *(a.code, a.id, space.sketch(a).cost.macs, 0.5, cost.params, cost.macs)
        ]
        assert [row[n] for n in ("params_source", "macs_source", "model", "seed", "date")] == [
            *("analytic", "analytic", asked.id, 7, "2025-01-02")
        ]
        assert space.decode(found["code"][i]) == a
    meta = table.metadata
    assert meta["space"]["name"] == space.name
    assert meta["space"]["parameters"] == {"classes": 10}
    assert (meta["model"]["predictor"], meta["model"]["id"], meta["seed"]) == ("by_macs", asked.id, 7)
    assert meta["columns"]["macs"] == {"unit": models["macs"].unit, "source": "analytic"}
    assert meta["columns"]["accuracy"]["source"] == "predicted"
    assert meta["choices"][names[0]]["options"] == list(space.choices[0].options)
    assert meta["date"].startswith("20")


class Awkward(Line):
    """Choices of every kind of option, called like other columns and like each other."""

    def __init__(self) -> None:
        options = {
            "code": ("a", "b"),
            "Params": (1, 2.5),
            "choice_code": (False, True),
            "params_source": (1, "x", True),
            "date": (3,),
        }
        SearchSpace.__init__(self, [Choice(name, o) for name, o in options.items()])


def test_choices_are_columns_of_their_own() -> None:
    space = Awkward()
    assert choice_columns(space, ["params"]) == {
        "code": "choice_code",
        "Params": "choice_Params",
        "choice_code": "choice_choice_code",
        "params_source": "choice_params_source",
        "date": "choice_date",
    }
    schema = table_schema(space, ["params"])
    kinds = [str(schema.field(column).type) for column in choice_columns(space, ["params"]).values()]
    assert kinds[1:3] == ["double", "bool"]
    assert "string" in kinds[0]
    assert "string" in kinds[3]
    assert kinds[4] == "int64"


def test_conditions_on_choices(tmp_path: Path) -> None:
    space = make_space("mobile")
    drawn = members(space, 60)
    path = tmp_path / "t.parquet"
    with TableWriter(path, table_schema(space, []), table_metadata(space, predictor(space), {}, seed=0)) as writer:
        for batch in build_rows(space, predictor(space), {}, drawn):
            writer.write(batch)
    table = LookupTable.open(path)
    for where, expected in (
        ("activation = 'relu'", [a for a in drawn if a["activation"] == "relu"]),
        (
            "stage0.depth >= 2 and stage1.width < 1",
            [a for a in drawn if a["stage0.depth"] > 1 and a["stage1.width"] < 1],
        ),
        ("`stage2.block0.kernel` in (3, 7)", [a for a in drawn if a["stage2.block0.kernel"] != 5]),
        ("stage3.se", [a for a in drawn if a["stage3.se"]]),
    ):
        assert table.query(where)["code"].tolist() == [a.code for a in expected], where


class Parts(CostModel):
    """A table of parts of which one was not measured."""

    name, unit, source = "parts", "ms", "table"

    def cost(self, graph: Graph) -> float:
        return 1.0

    def source_of(self, signature: Signature) -> str:
        return "interpolated" if signature.operator.attributes.get("kernel_size") == 7 else "measured"


def test_sources_differ_from_row_to_row() -> None:
    space = make_space("mobile", {"widths": [8], "strides": [1], "depths": [1]})
    drawn = members(space, 30)
    (batch,) = build_rows(space, predictor(space), {"parts": Parts(), "macs": make_cost_model("macs")}, drawn)
    expected = ["predicted" if a["stage0.block0.kernel"] == 7 else "table" for a in drawn]
    assert set(expected) == {"predicted", "table"}
    assert batch["parts_source"].to_pylist() == expected
    assert set(batch["macs_source"].to_pylist()) == {"analytic"}
    assert CostSources(Parts())([space.graph(drawn[0])]).to_pylist() == expected[:1]


def test_rows_are_built_as_they_are_asked_for() -> None:
    space = make_space("mobile")
    taken = 0

    def endless() -> Iterator[Architecture]:
        nonlocal taken
        rng = np.random.default_rng(0)
        while True:
            taken += 1
            yield space.sample(rng)

    stream = build_rows(space, predictor(space), {}, endless(), batch=8)
    assert len(next(stream)) == 8
    assert taken == 8


def interrupted(path: Path, frame: pd.DataFrame) -> None:
    with TableWriter(path, SCHEMA, {}) as writer:
        writer.write(rows(frame))
        raise KeyboardInterrupt


def test_a_table_appears_whole_or_not_at_all(tmp_path: Path, frame: pd.DataFrame) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(KeyboardInterrupt):
        interrupted(path, frame)
    assert list(tmp_path.iterdir()) == []
    written(path, frame.head(3))
    with pytest.raises(KeyboardInterrupt):
        interrupted(path, frame)
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]
    assert len(LookupTable.open(path)) == 3


def test_row_groups_are_bounded(tmp_path: Path) -> None:
    big = made_up(50_000)
    written(tmp_path / "t.parquet", big, big, big)
    meta = pq.ParquetFile(tmp_path / "t.parquet").metadata
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [65_536, 65_536, 18_928]
    assert meta.row_group(0).column(0).compression == "ZSTD"


def test_no_more_than_a_row_group_waits(tmp_path: Path) -> None:
    """Whatever the size of the batches, rows leave memory when a row group is full."""
    frame = rows(made_up(50_000))
    with TableWriter(tmp_path / "t.parquet", SCHEMA, METADATA) as writer:
        for size in (50_000, 50_000, 1, 40_000, 25_536, 50_000):
            writer.write(frame.slice(0, size))
            assert sum(map(len, writer._waiting)) == writer._rows < ROW_GROUP
    assert len(LookupTable.open(tmp_path / "t.parquet")) == 215_537


def test_rows_of_another_table_are_refused(tmp_path: Path, frame: pd.DataFrame) -> None:
    with (
        pytest.raises(EngineError, match="this table has"),
        TableWriter(tmp_path / "t.parquet", table_schema(Line(), ["macs"]), {}) as writer,
    ):
        writer.write(rows(frame))


def test_parts_are_merged_in_order(tmp_path: Path, frame: pd.DataFrame) -> None:
    parts = [tmp_path / f"{i}.parquet" for i in range(3)]
    for i, part in enumerate(parts):
        written(part, frame.iloc[i * 10 : i * 10 + 10], metadata={"seed": 1, "date": f"202{i}"})
    assert merge_parts(parts, tmp_path / "all.parquet") == 30
    table = LookupTable.open(tmp_path / "all.parquet")
    assert table.query()["code"].tolist() == frame["code"][:30].tolist()
    assert table.metadata == {**METADATA, "date": "2020"}
    assert (
        table.query(columns=["choice_Accuracy"])["choice_Accuracy"].tolist() == frame["choice_Accuracy"][:30].tolist()
    )


def test_parts_of_different_runs_are_not_merged(tmp_path: Path, frame: pd.DataFrame) -> None:
    parts = [tmp_path / f"{i}.parquet" for i in range(2)]
    for i, part in enumerate(parts):
        written(part, frame, metadata={"seed": i})
    with pytest.raises(EngineError, match="different runs"):
        merge_parts(parts, tmp_path / "all.parquet")
    with pytest.raises(EngineError, match="no parts"):
        merge_parts([], tmp_path / "all.parquet")
    assert not (tmp_path / "all.parquet").exists()


# ---- asking ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "python"),
    [
        ("latency_ms < 2 and params < 5e5", "latency_ms < 2 and params < 5e5"),
        ("not (accuracy >= 0.7 or params > 100000)", "not (accuracy >= 0.7 or params > 100000)"),
        ("params between 1e5 and 2e5", "1e5 <= params <= 2e5"),
        ("params * 2 + 1 > latency_ms * 3e5", "params * 2 + 1 > latency_ms * 3e5"),
        ("code in ('000001', \"000007\")", "code in ('000001', '000007')"),
        ("accuracy > 5", "accuracy > 5"),
        ("depth = 2 and choice_Accuracy = 'high'", "depth == 2 and choice_Accuracy == 'high'"),
        ("latency_ms_source = 'predicted' and `seed` = 7", "latency_ms_source == 'predicted'"),
    ],
)
def test_conditions_mean_what_they_say(table: LookupTable, frame: pd.DataFrame, where: str, python: str) -> None:
    expected = frame.query(python)
    assert table.count(where) == len(expected)
    found = table.query(where, columns=table.columns)
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True), check_dtype=False)


def test_order(table: LookupTable, frame: pd.DataFrame) -> None:
    best = frame.sort_values(["accuracy", "code"], ascending=[False, True])
    assert table.query(sort="accuracy", top=20)["code"].tolist() == best["code"][:20].tolist()
    cheapest = frame.sort_values(["latency_ms", "code"])
    assert table.query("accuracy > 0.6", "latency_ms", 5, ["code"]).columns.tolist() == ["code"]
    assert table.query(None, "latency_ms", 5)["code"].tolist() == cheapest["code"][:5].tolist()
    assert table.query(None, "latency_ms", 1, descending=True)["code"].item() == cheapest["code"].iloc[-1]
    assert table.query(sort="code", top=2)["code"].tolist() == ["000000", "000001"]


def test_what_is_no_number_comes_last(tmp_path: Path, frame: pd.DataFrame) -> None:
    few = frame.head(4).assign(accuracy=[0.1, np.nan, 0.3, None])
    table = written(tmp_path / "t.parquet", few)
    assert table.query(sort="accuracy")["accuracy"].tolist()[:2] == [0.3, 0.1]
    assert len(table.pareto({"accuracy": "max"})) == 1


def test_lookup(table: LookupTable, frame: pd.DataFrame) -> None:
    row = frame.iloc[123]
    assert table.lookup(row["code"]) == row.to_dict()
    assert table.lookup("no such") == {}
    space = make_space("nasbench201")
    assert table.lookup(space.from_indices([0, 0, 0, 0, 0, 1]))["code"] == "000001"


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda t: t.query("latency < 2"), "did you mean 'latency_ms'"),
        (lambda t: t.query(sort="acuracy"), "did you mean 'accuracy'"),
        (lambda t: t.query(columns=["cod"]), "did you mean 'code'"),
        (lambda t: t.query("params <"), "cannot answer that"),
        (lambda t: t.query("params < 'small'"), "cannot answer that"),
        (lambda t: t.query("params < 1) union (select 1"), "parenthesis|no column"),
        (lambda t: t.query(top=0), "at least 1"),
        (lambda t: t.pareto({}), "needs objectives"),
        (lambda t: t.pareto({"accuracy": "largest"}), "'max' or 'min'"),
        (lambda t: t.pareto({"code": "min"}), "'max' or 'min'"),
        (lambda t: t.pareto({"latncy_ms": "min"}), "did you mean 'latency_ms'"),
        (lambda t: list(t.iter_batches(columns=["cod"])), "did you mean 'code'"),
    ],
)
def test_mistakes_are_named(table: LookupTable, ask: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as told:
        ask(table)
    assert "\n" not in str(told.value)


def test_the_database_reads_nothing_else(table: LookupTable, tmp_path: Path) -> None:
    import duckdb

    other = tmp_path / "secret.csv"
    other.write_text("a\n1\n")
    for sql in (
        f"SELECT * FROM read_csv('{other}')",
        f"SELECT * FROM read_text('{other}')",
        f"COPY (SELECT 1) TO '{tmp_path / 'out.csv'}'",
        "SET enable_external_access = true",
        f"ATTACH '{tmp_path / 'new.db'}'",
    ):
        with pytest.raises(duckdb.Error):
            table._connection.cursor().execute(sql)
    assert len(list(tmp_path.iterdir())) == 1


def test_batches(table: LookupTable, frame: pd.DataFrame) -> None:
    batches = list(table.iter_batches(600, ["code"]))
    assert [len(b) for b in batches] == [600, 600, 600, 200]
    assert [c for b in batches for c in b["code"].to_pylist()] == frame["code"].tolist()


def test_tables_travel(table: LookupTable) -> None:
    table.count()
    assert pickle.loads(pickle.dumps(table)).count("params < 1e5") == table.count("params < 1e5")


def test_a_file_from_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"code": ["0", "1"], "accuracy": [0.1, 0.2], "latency_ms": [1, 2]}), path)
    table = LookupTable.open(path)
    assert table.metadata == {}
    assert table.query(sort="accuracy", top=1)["code"].item() == "1"
    assert len(table.pareto({"accuracy": "max", "latency_ms": "min"})) == 2


def test_an_empty_table(tmp_path: Path) -> None:
    table = written(tmp_path / "t.parquet")
    assert (len(table), table.count(), table.lookup("0")) == (0, 0, {})
    assert table.query("params < 1", "accuracy", 3).empty
    assert list(table.pareto({"accuracy": "max", "params": "min"}).columns) == list(table.useful)
    assert table.about()["row_groups"] == 0


def test_what_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no table at"):
        LookupTable.open(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(EngineError, match="is not a table"):
        LookupTable.open(tmp_path / "text.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(EngineError, match="no column 'code'"):
        LookupTable.open(tmp_path / "other.parquet")


# ---- laziness ----------------------------------------------------------------------------------------------


@pytest.fixture
def torn(tmp_path: Path) -> LookupTable:
    """A table in the order of its codes whose last row group is destroyed on the disk, all but the footer."""
    frame = made_up(200_000).assign(code=[f"{i:06d}" for i in range(200_000)])
    frame["params"] = np.arange(200_000.0)
    path = written(tmp_path / "t.parquet", frame).path
    group = pq.ParquetFile(path).metadata.row_group(3)
    starts = [
        group.column(i).dictionary_page_offset or group.column(i).data_page_offset for i in range(group.num_columns)
    ]
    length = sum(group.column(i).total_compressed_size for i in range(group.num_columns))
    with path.open("r+b") as file:
        file.seek(min(starts))
        file.write(b"\xff" * length)
    return LookupTable.open(path)


def test_only_row_groups_that_can_hold_an_answer_are_read(torn: LookupTable) -> None:
    assert len(torn) == 200_000
    assert torn.lookup("000017")["params"] == 17
    assert torn.query("params < 1000", "accuracy", 5)["params"].max() < 1000
    assert torn.count("params between 70000 and 70009") == 10
    assert torn.query("params < 65536 and depth = 2", top=3)["depth"].tolist() == [2, 2, 2]
    assert len(next(torn.iter_batches(100))) == 100
    with pytest.raises(EngineError):
        torn.query("params > 199000")


def test_what_a_table_is_stands_in_its_footer(torn: LookupTable) -> None:
    about = torn.about()
    assert (about["rows"], about["row_groups"], about["largest_row_group"]) == (200_000, 4, ROW_GROUP)
    assert about["bytes"] == torn.path.stat().st_size
    columns = {column["name"]: column for column in about["columns"]}
    assert tuple(columns) == torn.columns
    params = columns["params"]
    assert (params["kind"], params["unit"], params["source"]) == ("cost", "u", "analytic")
    assert (params["smallest"], params["largest"]) == (0, 199_999)
    kinds = [columns[n]["kind"] for n in ("code", "depth", "accuracy", "latency_ms_source", "seed")]
    assert kinds == ["name", "choice", "predicted", "source", "provenance"]


def test_a_table_may_be_larger_than_the_memory_granted(tmp_path: Path) -> None:
    """Sorting and filtering with less memory than the columns take."""
    frame = made_up(50_000)
    table = written(tmp_path / "t.parquet", *[frame] * 20)
    table._connection.close()
    del table.__dict__["_connection"]
    import duckdb

    with duckdb.connect(":memory:") as connection:
        connection.execute("SET memory_limit = '40MB'")
        connection.execute("SET threads = 1")
        connection.execute("SET max_temp_directory_size = '0B'")
        table.__dict__["_connection"] = connection
        best = table.query("latency_ms < 3", "accuracy", 10)
        assert best["accuracy"].tolist() == [frame["accuracy"][frame["latency_ms"] < 3].max()] * 10
        assert table.count("params > 0") == 1_000_000
