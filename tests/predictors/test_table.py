"""The lookup table: written in parts, read lazily, asked with conditions, reduced to Pareto fronts."""

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
from hypothesis import given
from hypothesis import strategies as st

from predictors import LookupTable, Predictor, TableWriter, build_rows, merge_parts, pareto, table_metadata
from predictors.cost import make_cost_model
from predictors.table import table_schema
from search_spaces import Architecture, Graph, SearchSpace, make_space
from search_spaces.errors import ConfigError, EngineError

COSTS = ("params", "latency_ms")


class ByMacs(Predictor):
    """Predicts the MACs of the sketch; remembers how many members it was asked for at once."""

    name = "by_macs"

    def _fit(self, architectures: Sequence[Architecture], scores: np.ndarray, groups: np.ndarray) -> None:
        self.asked: list[int] = []

    def _predict(
        self, architectures: Sequence[Architecture], sketches: Sequence[Graph] | None
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


def rows(frame: pd.DataFrame) -> pa.RecordBatch:
    schema = table_schema(COSTS)
    return pa.record_batch([pa.array(frame[f.name], f.type) for f in schema], schema=schema)


def made_up(count: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    params = np.round(rng.lognormal(12, 1, count))
    return pd.DataFrame(
        {
            "code": [f"{i:06d}" for i in rng.permutation(count)],
            "id": [f"{i:016x}" for i in range(count)],
            "accuracy": np.round(rng.uniform(0.5, 0.9, count), 3),
            "accuracy_std": 0.01,
            "params": params,
            "latency_ms": params / 1e5 * rng.lognormal(0, 0.3, count),
        }
    )


def written(path: Path, *frames: pd.DataFrame, metadata: Mapping[str, Any] | None = None) -> LookupTable:
    with TableWriter(path, COSTS, metadata or {"seed": 1}) as writer:
        for frame in frames:
            writer.write(rows(frame))
    return LookupTable.open(path)


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
    with TableWriter(path, models, table_metadata(space, asked, models, seed=7, parameters={"classes": 10})) as writer:
        for batch in build_rows(space, asked, models, iter(drawn), batch=10):
            writer.write(batch)
    assert asked.asked == [10, 10, 5]
    table = LookupTable.open(path)
    assert len(table) == 25
    assert table.columns == ("code", "id", "accuracy", "accuracy_std", "params", "macs")
    assert table.costs == ("params", "macs")
    found = table.query()
    for i, a in enumerate(drawn):
        cost = space.graph(a).cost
        assert tuple(found.iloc[i]) == (a.code, a.id, space.sketch(a).cost.macs, 0.5, cost.params, cost.macs)
        assert space.decode(found["code"][i]) == a
    meta = table.metadata
    assert meta["space"]["name"] == space.name
    assert meta["space"]["parameters"] == {"classes": 10}
    assert (meta["model"]["predictor"], meta["model"]["id"], meta["seed"]) == ("by_macs", asked.id, 7)
    assert meta["columns"]["macs"] == {"unit": models["macs"].unit, "source": "analytic"}
    assert meta["columns"]["accuracy"]["source"] == "predicted"
    assert meta["date"].startswith("20")


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
    with TableWriter(path, COSTS, {}) as writer:
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
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [65_536, 34_464, 50_000]
    assert meta.row_group(0).column(0).compression == "ZSTD"


def test_rows_of_another_table_are_refused(tmp_path: Path, frame: pd.DataFrame) -> None:
    with (
        pytest.raises(EngineError, match="this table has"),
        TableWriter(tmp_path / "t.parquet", ["macs"], {}) as writer,
    ):
        writer.write(rows(frame))


def test_parts_are_merged_in_order(tmp_path: Path, frame: pd.DataFrame) -> None:
    parts = [tmp_path / f"{i}.parquet" for i in range(3)]
    for i, part in enumerate(parts):
        written(part, frame.iloc[i * 10 : i * 10 + 10], metadata={"seed": 1, "date": f"202{i}"})
    assert merge_parts(parts, tmp_path / "all.parquet") == 30
    table = LookupTable.open(tmp_path / "all.parquet")
    assert table.query()["code"].tolist() == frame["code"][:30].tolist()
    assert table.metadata == {"seed": 1, "date": "2020"}


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
    ],
)
def test_conditions_mean_what_they_say(table: LookupTable, frame: pd.DataFrame, where: str, python: str) -> None:
    expected = frame.query(python)
    assert table.count(where) == len(expected)
    pd.testing.assert_frame_equal(table.query(where), expected.reset_index(drop=True), check_dtype=False)


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
    assert list(table.pareto({"accuracy": "max", "params": "min"}).columns) == list(table.columns)


def test_what_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no table at"):
        LookupTable.open(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(EngineError, match="is not a table"):
        LookupTable.open(tmp_path / "text.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(EngineError, match="no column 'code'"):
        LookupTable.open(tmp_path / "other.parquet")


# ---- Pareto fronts -----------------------------------------------------------------------------------------


def by_pairs(losses: np.ndarray) -> list[int]:
    """Non-dominated rows, by comparing all with all."""
    kept = []
    for i, row in enumerate(losses):
        beaten = ((losses <= row).all(1) & (losses < row).any(1)).any()
        if not beaten and not np.isnan(row).any():
            kept.append(i)
    return kept


@given(
    st.integers(1, 4).flatmap(
        lambda k: st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, 2.0, 3.5, 1e18, np.inf, np.nan])] * k), max_size=30)
    )
)
def test_front_against_all_pairs(points: list[tuple[float, ...]]) -> None:
    losses = np.array(points, dtype=float).reshape(len(points), len(points[0]) if points else 2)
    assert pareto(losses).tolist() == by_pairs(losses)


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_front_of_many_rows(objectives: int) -> None:
    """Enough rows for several blocks, on a curved surface where much is not dominated."""
    rng = np.random.default_rng(objectives)
    losses = np.abs(rng.normal(size=(3000, objectives)))
    losses /= np.linalg.norm(losses, axis=1, keepdims=True) / rng.choice([1.0, 1.2], size=(3000, 1))
    assert pareto(losses).tolist() == by_pairs(losses)


def test_front_of_a_table(table: LookupTable, frame: pd.DataFrame) -> None:
    for where, some in ((None, frame), ("latency_ms > 2", frame[frame["latency_ms"] > 2])):
        front = table.pareto({"accuracy": "max", "latency_ms": "min", "params": "min"}, where)
        losses = np.column_stack([-some["accuracy"], some["latency_ms"], some["params"]])
        assert set(front["code"]) == set(some["code"].iloc[by_pairs(losses)])
        assert front["accuracy"].is_monotonic_decreasing
        assert tuple(front.columns) == table.columns


def test_front_over_row_groups(tmp_path: Path) -> None:
    frames = [made_up(60_000, seed) for seed in range(3)]
    table = written(tmp_path / "t.parquet", *frames)
    front = table.pareto({"params": "min", "accuracy": "max"})
    both = pd.concat(frames, ignore_index=True)
    expected = both.iloc[pareto(np.column_stack([both["params"], -both["accuracy"]]))]
    assert sorted(front["id"]) == sorted(expected["id"])
    assert front["params"].is_monotonic_increasing
