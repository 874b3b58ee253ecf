"""`nas-engine table` and `nas-engine predict`: what they build, ask and print, and their errors."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas_engine import Run, pipeline
from nas_engine.config import Config
from nas_engine.context import Context
from nas_engine.interrupt import Interrupt
from nas_engine.lookup import ask, read_architectures
from predictors.base import load_predictor
from predictors.cost.latency import LatencyModel
from predictors.table import LookupTable, pareto
from search_spaces import make_space
from search_spaces.errors import ConfigError
from tests.nas_engine.commands import bad, call, good
from tests.nas_engine.synthetic import build_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of two made-up runs."""
    results = tmp_path_factory.mktemp("results")
    build_run(results, name="whole", until="table")
    build_run(results, "mobile", name="wide", until="table")
    build_run(results, name="half", until="sample")
    return results


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with runs under results/ that are only read."""
    (tmp_path / "results").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answer(*arguments: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(good("table", "query", *arguments, "--json"))
    return rows


# ---- query -----------------------------------------------------------------------------------------------------


def test_a_run_and_its_file_answer_alike(place: Path) -> None:
    condition = ("--where", "edge01 = 'skip_connect' and latency_ms < 0.6", "--top", "4")
    rows = answer("whole", *condition)
    assert rows == answer("results/whole", *condition) == answer("results/whole/table/table.parquet", *condition)
    assert len(rows) == 4
    assert {row["edge01"] for row in rows} == {"skip_connect"}
    assert [row["accuracy"] for row in rows] == sorted((row["accuracy"] for row in rows), reverse=True)
    assert not {"model", "seed", "date", "params_source"} & set(rows[0])


def test_columns_are_chosen(place: Path) -> None:
    assert list(answer("whole", "--columns", "latency_ms, code")[0]) == ["latency_ms", "code"]
    assert tuple(answer("whole", "--columns", "all", "--top", "1")[0]) == Run.open("whole").table.columns
    assert len(answer("whole")) == 10
    text = good("table", "query", "whole", "--columns", "code,latency_ms_source", "--top", "2")
    assert "latency ms source" in text
    assert "accuracy" not in text


def test_many_choices_are_left_out_of_what_people_read(place: Path) -> None:
    text = good("table", "query", "wide", "--top", "2")
    assert re.search(r"\d+ columns of choices are left out, .*--columns all", text)
    assert "kernel" not in text
    assert "stage0.block0.kernel" in answer("wide", "--top", "1")[0]
    text = good("table", "query", "wide", "--where", "stage0.block0.kernel = 7", "--columns", "stage0.block0.kernel")
    assert "stage0.block0.kernel" in text
    assert "left out" not in text
    assert "edge23" in good("table", "query", "whole")


def test_fronts(place: Path) -> None:
    table = Run.open("whole").table
    frame = table.query(columns=["code", "accuracy", "latency_ms"])
    rows = answer("whole", "--pareto", "accuracy,latency_ms", "--columns", "code,accuracy")
    front = frame.iloc[pareto(np.column_stack([-frame["accuracy"], frame["latency_ms"]]))]
    assert {row["code"] for row in rows} == set(front["code"])
    assert list(rows[0]) == ["code", "accuracy"]
    assert rows[0]["accuracy"] == frame["accuracy"].max()
    cheapest = answer("whole", "--pareto", "accuracy,latency_ms", "--sort", "latency_ms", "--top", "3")
    assert [row["latency_ms"] for row in cheapest] == sorted(front["latency_ms"])[:3]
    some = answer("whole", "--pareto", "accuracy,params", "--where", "edge23 = 'none'")
    assert {row["edge23"] for row in some} == {"none"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("whole", "--where", "edge1 = 'none'"), "no column 'edge1': did you mean 'edge"),
        (("whole", "--where", "accuracy <"), "cannot answer that"),
        (("whole", "--sort", "latency"), "did you mean 'latency_ms'"),
        (("whole", "--columns", "code,acuracy"), "did you mean 'accuracy'"),
        (("whole", "--columns", "code,,id"), "--columns 'code,,id' is not a list of different columns"),
        (("whole", "--columns", "code,code"), "not a list of different columns"),
        (("whole", "--pareto", "accuracy,latency"), "did you mean 'latency_ms'"),
        (("whole", "--pareto", "code"), "give a column of numbers"),
        (("whole", "--pareto", "accuracy,latency_ms", "--sort", "latency"), "did you mean 'latency_ms'"),
    ],
)
def test_questions_that_make_no_sense(place: Path, arguments: tuple[str, ...], words: str) -> None:
    bad(2, words, "table", "query", *arguments)


def test_the_top_none_is_refused(finished: Path) -> None:
    with pytest.raises(ConfigError, match="the top 0 rows"):
        ask(Run.open(finished / "whole").table, top=0, pareto="accuracy,params")


# ---- info ------------------------------------------------------------------------------------------------------


def test_info_tells_what_a_table_is(place: Path) -> None:
    text = good("table", "info", "whole")
    for piece in (
        "1,200 rows",
        "1 row group ",
        "kB on disk",
        "nasbench201, input 1 x 8 x 8, 10 classes, channels 8, cells 2",
        "gcn 5f0c93b7aa10de42",
        "ranks strongly",
        "2025-01-02T03:04:05+00:00, seed 0",
        "none, skip_connect, avg_pool_3x3, nor_conv_1x1, nor_conv_3x3",
    ):
        assert piece in text, piece
    assert re.search(r"latency_ms +cost +ms +table +[\d.]+ ms to [\d.]+ ms", text)
    assert re.search(r"params_source +source +analytic", text)
    about = json.loads(good("table", "info", "results/whole/table/table.parquet", "--json"))
    table = Run.open("whole").table
    assert (about["rows"], about["bytes"]) == (len(table), table.path.stat().st_size)
    assert [c["name"] for c in about["columns"]] == list(table.columns)
    params = next(c for c in about["columns"] if c["name"] == "params")
    frame = table.query(columns=["params"])
    assert (params["smallest"], params["largest"]) == (frame["params"].min(), frame["params"].max())


def test_info_of_a_file_from_elsewhere(place: Path) -> None:
    import pandas as pd

    pd.DataFrame({"code": ["a", "b"], "score": [1.0, None]}).to_parquet("other.parquet")
    text = good("table", "info", "other.parquet")
    assert "not told" in text
    assert re.search(r"score +cost", text)
    assert answer("other.parquet", "--sort", "score")[0] == {"code": "a", "score": 1.0}


@pytest.mark.parametrize("verb", ["query", "info"])
def test_tables_that_are_not_there(place: Path, verb: str) -> None:
    Path("torn.parquet").write_bytes(b"PAR1")
    bad(1, "no table at .*gone.parquet; build it first", "table", verb, "gone.parquet")
    bad(1, "torn.parquet is not a table", "table", verb, "torn.parquet")
    bad(5, "'wole' is not a run: did you mean 'whole'", "table", verb, "wole")
    bad(5, "has no table yet; make it with: nas-engine table build results/half/config.yaml", "table", verb, "half")
    bad(2, r"^error: unknown verb 'quary': did you mean 'query'\?", "table", "quary")


# ---- build -----------------------------------------------------------------------------------------------------


@pytest.fixture
def own(small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of the finished small run, whose table and what follows are not there."""
    shutil.copytree(small_run.path, tmp_path / "results" / "tiny")
    monkeypatch.chdir(tmp_path)
    run = Run.open("tiny")
    run.directory.remove("table")
    (run.path / "report.html").unlink()
    return run


def test_build_makes_the_table_and_stops_there(own: Run, small_run: Run) -> None:
    text = good("table", "build", "tiny")
    assert "6,466 rows" in text
    assert "next: nas-engine table query results/tiny" in text
    states = {row["stage"]: row["state"] for row in own.status}
    assert states["table"] == "done"
    assert {states[name] for name in ("search", "choose", "export", "report")} == {"waiting"}
    assert not (own.path / "report.html").exists()
    table = own.table
    columns = [name for name in table.columns if name != "date"]
    assert table.query(columns=columns).equals(small_run.table.query(columns=columns))
    about = json.loads(good("table", "build", "results/tiny/config.yaml", "--json"))
    assert about["rows"] == 6466
    assert about["date"] == table.metadata["date"], "what is done is not done again"


def test_build_is_interrupted_and_goes_on(own: Run) -> None:
    stop = Interrupt()
    told = r"stopped in stage 'table'; go on with: nas-engine table build results/tiny/config\.yaml"
    with pytest.raises(pipeline.Interrupted, match=told):
        pipeline.run_pipeline(own.config, progress=lambda kind, event: stop.set(), stop=stop, until="table")
    assert not (own.path / "table" / "table.parquet").exists()
    assert "6,466 rows" in good("table", "build", "tiny")


def test_ctrl_c(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_pipeline(
        config: Config, *, progress: Any, stop: Callable[[], bool], until: str, address: str | None
    ) -> Run:
        os.kill(os.getpid(), 2)
        assert stop()
        assert until == "table"
        raise pipeline.Interrupted("stopped in stage 'table'; go on with: nas-engine table build results/half")

    monkeypatch.setattr(pipeline, "run_pipeline", run_pipeline)
    bad(130, "^stopped in stage 'table'; go on with: nas-engine table build", "table", "build", "half")


def test_mistakes_in_what_is_to_be_built(place: Path) -> None:
    bad(2, "no file 'gone.yaml'", "table", "build", "gone.yaml")
    Path("a.yaml").write_text("data: {source: digits}\nspace: {name: table, path: gone.csv, choices: [a], target: b}\n")
    bad(3, "there is no table 'gone.csv'", "table", "build", "a.yaml")
    bad(2, "space 'table' takes no 'pth': did you mean 'path'", "table", "build", "a.yaml", "--set", "space.pth=x")


# ---- predict ---------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "tiny").symlink_to(small_run.path)
    monkeypatch.chdir(tmp_path)
    return small_run


def test_predictions_are_those_of_the_models(trained: Run) -> None:
    space = trained.space
    member = space.architecture(edge01="skip_connect", edge23="nor_conv_3x3")
    Path("one.json").write_text(member.to_json())
    (row,) = json.loads(good("predict", "one.json", "--run", "tiny", "--json"))
    predictor = load_predictor(trained.path / "predict" / "model", space)
    mean, std = predictor.predict([member])
    assert row["accuracy"] == {"value": pytest.approx(mean[0]), "std": pytest.approx(std[0])}
    assert row["architecture"] == {"id": member.id, "code": member.code, "choices": member.values}
    canonical = space.canonical(member)
    assert canonical != member
    assert row["canonical"] == {"id": canonical.id, "code": canonical.code, "same": False}
    assert row["costs"]["params"] == {
        "value": space.graph(member).cost.params,
        "unit": "parameters",
        "source": "analytic",
    }
    latency = Context(trained.config).costs["latency_ms"]
    assert isinstance(latency, LatencyModel)
    of_parts = all(latency.source_of(node.signature) == "measured" for node in space.graph(member).nodes)
    assert row["costs"]["latency_ms"] == {
        "value": pytest.approx(latency.cost(space.graph(member))),
        "unit": "ms",
        "source": "table" if of_parts else "predicted",  # how much is measured depends on the machine's pace
    }
    assert (row["model"]["id"], row["seed"]) == (predictor.id, trained.config.seed)
    assert row["date"].startswith("20")
    stored = trained.table.lookup(canonical)
    assert row["table"] == stored
    assert stored["accuracy"] == pytest.approx(mean[0])


def test_predictions_for_people(trained: Run) -> None:
    text = good("predict", "100004", "--run", "tiny")
    for piece in ("code 100004", "edge23 nor_conv_3x3", "is the same network as its canonical form", "code 000004"):
        assert piece in text, piece
    assert re.search(r"accuracy +[\d.]+ % \+/- [\d.]+ % +predicted", text)
    assert re.search(r"latency +[\d.]+ ms +ms +(table|predicted)", text)
    assert re.search(r"its row in the table, made 20.*: accuracy", text)
    assert re.search(r"model gcn [0-9a-f]{16}, seed 0, 20", text)
    assert "is its own canonical form" in good("predict", "000004", "--run", "results/tiny")


def test_predictions_before_there_is_a_table(own: Run) -> None:
    (row,) = json.loads(good("predict", "100004", "--run", "tiny", "--json"))
    assert row["table"] is None
    assert "the table has no row" in good("predict", "100004", "--run", "tiny")
    own.directory.remove("predict")
    told = "has no predictor yet; make it with: nas-engine table build results/tiny/config.yaml"
    bad(5, told, "predict", "100004", "--run", "tiny")


@pytest.mark.parametrize(
    "form", ["one", "one bundle", "list", "lines", "codes", "one code", "codes as a list", "mixed"]
)
def test_forms_of_architectures(tmp_path: Path, form: str) -> None:
    space = make_space("nasbench201")
    members = [space.decode(code) for code in ("123401", "012340", "444444")]
    texts = [a.to_json() for a in members]
    codes = [a.code for a in members]
    contents = {
        "one": texts[0],
        "one bundle": json.dumps({"id": members[0].id, "architecture": json.loads(texts[0]), "latency": {}}),
        "list": json.dumps([json.loads(text) for text in texts], indent=1),
        "lines": "\n".join(texts) + "\n\n",
        "codes": "\n".join(codes),
        "one code": codes[0] + "\n",
        "codes as a list": json.dumps(codes),
        "mixed": f"{codes[0]}\n{texts[1]}\n{codes[2]}",
    }
    path = tmp_path / "a.json"
    path.write_text(contents[form])
    found = read_architectures(str(path), space)
    assert found == (members[:1] if form.startswith("one") else members)


def test_what_is_no_architecture(trained: Run) -> None:
    for name, content in {
        "empty.json": "[]",
        "number.json": "[1]",
        "other.json": '{"space": "mobile", "choices": {}}',
        "option.json": '{"space": "nasbench201", "choices": {"edge01": "nor_conv_5x5"}}',
        "words.json": "not an architecture",
    }.items():
        Path(name).write_text(content)
    Path("bytes.json").write_bytes(b"\xff\xfe")
    for given, words in {
        "gone.json": r"no file 'gone\.json', and it is no code of space 'nasbench201', which has 6 characters",
        "12340": "it is no code of space",
        "123409": "has options 0 to 4; got index 9",
        "empty.json": "holds no architecture",
        "number.json": "1 is no architecture",
        "other.json": "belongs to space 'mobile', this space is 'nasbench201'",
        "option.json": "no option 'nor_conv_5x5': did you mean 'nor_conv_",
        "words.json": "holds a character outside",
        "bytes.json": "cannot read 'bytes.json'",
    }.items():
        bad(2, words, "predict", given, "--run", "tiny")
    bad(5, "'tyni' is not a run: did you mean 'tiny'", "predict", "123401", "--run", "tyni")
    assert call("predict", "123401").exit_code == 2


def test_a_table_opens_without_its_run(trained: Run, tmp_path: Path) -> None:
    shutil.copy(trained.table.path, tmp_path / "alone.parquet")
    alone = LookupTable.open(tmp_path / "alone.parquet")
    assert alone.metadata["model"]["id"] == trained.table.metadata["model"]["id"]
    assert "6,466 rows" in good("table", "info", "alone.parquet")
