"""Building the lookup table in parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nas_engine.interrupt import Interrupt
from nas_engine.tuning import TableJob, build_table, tables
from predictors import load_predictor, make_predictor
from predictors.table import LookupTable
from search_spaces import SearchSpace
from search_spaces.errors import EngineError

from .conftest import make_small_config


@pytest.fixture(scope="module")
def fitted(space: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's directory with a predictor fitted to made-up scores."""
    directory = tmp_path_factory.mktemp("run")
    fit(space, directory / "predict" / "model", seed=0)
    return directory


def fit(space: SearchSpace, path: Path, seed: int) -> None:
    rng = np.random.default_rng(0)
    members = list(dict.fromkeys(space.canonical(space.sample(rng)) for _ in range(40)))
    predictor = make_predictor("gcn", space, members=1, folds=2, epochs=1, max_steps=5, seed=seed)
    predictor.fit(members, [0.1 * sum(a.indices) for a in members]).save(path)


@pytest.fixture
def table_job(fitted: Path, space: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> Iterator[TableJob]:
    """A sampled table of 50 rows in parts of 16, without latencies, which need a device."""
    monkeypatch.setattr(tables, "_PART", 16)
    job = TableJob.of(make_small_config(table={"rows": 50, "workers": 1}), space, fitted, whole=False)
    yield replace(job, costs=("params", "macs"))
    job.path.unlink(missing_ok=True)
    for part in fitted.glob("table/parts/*"):
        part.unlink()


def rows(job: TableJob) -> list[dict[str, object]]:
    """All that a table holds but when its rows were made."""
    table = LookupTable.open(job.path)
    return table.query(columns=[name for name in table.columns if name != "date"]).to_dict("records")


def test_a_job_is_what_the_run_says(fitted: Path, space: SearchSpace) -> None:
    job = TableJob.of(make_small_config(table={"rows": 70, "workers": 2}), space, fitted, whole=True)
    assert (job.rows, job.workers, job.whole) == (70, 2, True)
    assert "latency_ms" in job.costs
    with pytest.raises(EngineError, match="no latencies at"):
        job.open()


def test_sampled_rows_are_distinct_and_canonical(table_job: TableJob, space: SearchSpace) -> None:
    told: list[tuple[int, int | None]] = []
    assert build_table(table_job, lambda done, total: told.append((done, total))) == 50
    assert told == [(16, 50), (32, 50), (48, 50), (50, 50)]
    found = rows(table_job)
    assert len({row["code"] for row in found}) == 50
    for row in found:
        architecture = space.decode(str(row["code"]))
        assert space.canonical(architecture) == architecture
        assert row["id"] == architecture.id
        assert row["params"] == space.graph(architecture).cost.params
        assert {name: row[name] for name in architecture.values} == architecture.values
        assert (row["params_source"], row["seed"]) == ("analytic", table_job.seed)
        assert row["model"] == load_predictor(table_job.directory / "predict" / "model", space).id
    assert not table_job.part(0).parent.exists()


def test_the_whole_space_once(table_job: TableJob) -> None:
    """Every distinct member, in the order of codes."""
    whole = replace(table_job, whole=True)
    members = list(whole.members())
    assert len(members) == 6466 == len(set(members)), "the distinct cells of NAS-Bench-201"
    assert members == sorted(members)


def test_sampling_a_space_that_is_too_small_ends(table_job: TableJob) -> None:
    parameters = {
        "input_shape": (1, 8, 8),
        "widths": (8,),
        "strides": (1,),
        "depths": (1,),
        "squeeze_excite": (False,),
        "activations": ("relu",),
    }
    small = replace(table_job, space="mobile", parameters=parameters, rows=1000)
    found = list(small.members())
    assert len(found) == len(set(found)) == 27


def test_interrupted_builds_go_on_with_their_parts(table_job: TableJob) -> None:
    build_table(table_job)
    expected = rows(table_job)
    table_job.path.unlink()
    stop = Interrupt()
    assert build_table(table_job, lambda done, total: stop.set(), stop) == 0
    assert not table_job.path.exists()
    first = table_job.part(0)
    assert [p.name for p in first.parent.iterdir()] == [first.name]
    date = LookupTable.open(first).metadata["date"]
    written: list[str] = []

    def watch(done: int, total: int | None) -> None:
        written.append(LookupTable.open(first).metadata["date"])

    assert build_table(table_job, watch) == 50
    assert set(written) == {date}
    assert rows(table_job) == expected


@pytest.mark.parametrize("change", ["members", "damage", "predictor"])
def test_parts_of_another_build_are_written_anew(
    table_job: TableJob, change: str, space: SearchSpace, fitted: Path
) -> None:
    build_table(table_job)
    expected = rows(table_job)
    stop = Interrupt()
    if change == "predictor":
        fit(space, fitted / "predict" / "model", seed=1)
    build_table(replace(table_job, seed=int(change == "members")), lambda done, total: stop.set(), stop)
    if change == "predictor":
        fit(space, fitted / "predict" / "model", seed=0)
    if change == "damage":
        table_job.part(0).write_bytes(b"PAR1 torn")
    assert build_table(table_job) == 50
    assert rows(table_job) == expected


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("ray_cluster")
def test_the_table_does_not_depend_on_the_workers(table_job: TableJob) -> None:
    build_table(table_job)
    expected = rows(table_job)
    assert build_table(replace(table_job, workers=2)) == 50
    assert rows(table_job) == expected
