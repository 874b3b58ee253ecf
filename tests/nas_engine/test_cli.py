"""The command line: what it prints for people and machines, its errors and exit codes, and that it starts light."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nas_engine import overview, pipeline, remote
from nas_engine.config import Config, load_config
from nas_engine.failures import EXIT_CODES
from nas_engine.files import write_torch
from nas_engine.profile import BoundVerdict, Extent, SpaceProfile
from nas_engine.run import Run
from tests.nas_engine.commands import bad, call, good
from tests.nas_engine.synthetic import begin_stage, build_run

VERBS = ("init", "profile", "search", "status", "list", "predict", "table", "report", "export")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests copy it before they change it."""
    return build_run(tmp_path_factory.mktemp("results"), name="whole").path


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a finished run under results/."""
    shutil.copytree(finished, tmp_path / "results" / "whole")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- the whole ---------------------------------------------------------------------------------------------


def test_help_names_every_verb_and_exit_code() -> None:
    text = good("--help")
    for verb in VERBS:
        assert re.search(rf"^  {verb} +[A-Z]", text, re.MULTILINE), verb
        assert "Usage: nas-engine" in good(verb, "--help")
        assert good(verb, "-h") == good(verb, "--help")
    for code, words in EXIT_CODES.items():
        assert re.search(rf"^ +{code} +{re.escape(words)}$", text, re.MULTILINE), code


def test_version() -> None:
    assert re.fullmatch(r"nas-engine \d+\.\d+\.\d+\S*\n", good("--version"))


def test_mistyped_verbs_and_options_are_usage_errors() -> None:
    bad(2, r"^error: unknown verb 'serch': did you mean 'search'\?", "serch")
    for arguments in (
        ("search", "--nope", "x"),
        ("search",),
        ("table", "query", "x", "--top", "many"),
        ("table", "query", "x", "--top", "0"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert "Error: " in result.stderr
        assert "Traceback" not in result.stderr


def test_starting_imports_nothing_heavy() -> None:
    heavy = ("torch", "ray", "optuna", "numpy", "pandas", "duckdb", "pyarrow", "sklearn", "plotly", "onnx", "pydantic")
    program = f"import sys, nas_engine.cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_console_script_and_the_module_are_the_same_program() -> None:
    module = subprocess.run(
        [sys.executable, "-m", "nas_engine.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert module.stdout.startswith("Usage: nas-engine ")
    failed = subprocess.run(
        [sys.executable, "-m", "nas_engine.cli", "status", "gone"], capture_output=True, text=True, check=False, cwd="/"
    )
    assert (failed.returncode, failed.stdout) == (5, "")
    assert failed.stderr.startswith("error: 'gone' is not a run")


# ---- init --------------------------------------------------------------------------------------------------


def test_init_writes_what_loads_and_tells_the_next_commands(empty: Path) -> None:
    text = good("init")
    assert load_config("search.yaml") == Config(name="search")
    assert "nas-engine profile search.yaml" in text
    assert "nas-engine search search.yaml" in text
    text = good("init", "my search.yaml", "--data", "npz:d.npz", "--space", "mobile")
    config = load_config("my search.yaml")
    assert (config.data.source, config.space.name) == ("npz:d.npz", "mobile")
    assert "nas-engine profile 'my search.yaml'" in text


def test_init_replaces_nothing_unasked(empty: Path) -> None:
    Path("search.yaml").write_text("mine")
    bad(2, "'search.yaml' is there already; .*--force", "init")
    assert Path("search.yaml").read_text() == "mine"
    good("init", "--force")
    bad(2, r"unknown space 'mobil': did you mean 'mobile'\?", "init", "a.yaml", "--space", "mobil")
    bad(3, r"unknown data set 'cifr10': did you mean 'CIFAR10'\?", "init", "a.yaml", "--data", "cifr10")
    assert not Path("a.yaml").exists()


# ---- profile -----------------------------------------------------------------------------------------------


def profiled(*verdicts: BoundVerdict, share: float = 1.0) -> dict[str, Any]:
    extents = (Extent("params", "parameters", 1e4, 2e5, 3.456e6), Extent("latency_ms", "ms", 0.0123, 1.5, 1234.0))
    found = SpaceProfile(15625, 2000, extents, verdicts, share)
    return {
        "space": "nasbench201",
        "size": 15625,
        "distinct_sampled": 2000,
        "profile": found.to_dict(),
        "stages": [{"stage": "supernet", "seconds": 200.0, "words": "40 epochs"}],
        "device": {"processor": "x86-64", "threads": 1, "accelerator": ""},
        "latency": {"measured_share": 0.9},
    }


@pytest.fixture
def profiling(empty: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], list[Config]]:
    """Sets what `pipeline.profile` finds; returns the list of configurations it is asked about."""
    good("init")

    def find(found: dict[str, Any]) -> list[Config]:
        asked: list[Config] = []

        def profile(config: Config, *, progress: Any) -> dict[str, Any]:
            asked.append(config)
            progress("note", {"text": "measuring [bold] things"})
            return found

        monkeypatch.setattr(pipeline, "profile", profile)
        return asked

    return find


def test_profile_shows_costs_bounds_and_time(profiling: Callable[[dict[str, Any]], list[Config]]) -> None:
    words = "latency_ms <= 2 is met by 40% of the sampled members"
    asked = profiling(profiled(BoundVerdict("latency_ms <= 2", 0.4, True, False, words), share=0.4))
    result = call("profile", "search.yaml", "--set", "seed=7", "--set", "space.channels=8")
    assert result.exit_code == 0, result.output
    assert (asked[0].seed, asked[0].space.parameters) == (7, {"channels": 8})
    for piece in ("15,625", "2,000", "3.46 M", "0.0123 ms", "1,230 ms", words, "3 min 20 s", "40 epochs"):
        assert piece in result.stdout, piece
    assert "next: nas-engine search search.yaml --set seed=7 --set space.channels=8" in result.stdout
    assert "measuring [bold] things" in result.stderr


def test_profile_json_is_pure(profiling: Callable[[dict[str, Any]], list[Config]]) -> None:
    found = profiled(share=1.0)
    profiling(found)
    assert json.loads(good("profile", "search.yaml", "--json")) == json.loads(json.dumps(found))


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_profile_of_bounds_that_cannot_be_met_exits_4(
    profiling: Callable[[dict[str, Any]], list[Config]], flags: tuple[str, ...]
) -> None:
    verdict = BoundVerdict(
        "latency_ms <= 0.001", 0.0, False, False, "no member meets latency_ms <= 0.001: it goes from 1 to 2"
    )
    profiling(profiled(verdict, share=0.0))
    result = call("profile", "search.yaml", *flags)
    assert result.exit_code == 4
    assert "error: no member meets latency_ms <= 0.001" in result.stderr
    assert "next:" not in result.stdout
    if flags:
        assert json.loads(result.stdout)["profile"]["share"] == 0.0


# ---- search ------------------------------------------------------------------------------------------------


def test_search_shows_the_front_and_where_things_are(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Config] = []

    def run_pipeline(config: Config, *, progress: Any, stop: Callable[[], bool], address: str | None) -> Run:
        asked.append(config)
        assert not stop()
        progress("stage", {"name": "device", "state": "skipped", "text": "done before"})
        return Run.open("results/whole")

    monkeypatch.setattr(pipeline, "run_pipeline", run_pipeline)
    result = call("search", "results/whole", "--set", "search.trials=33")
    assert result.exit_code == 0, result.output
    assert (asked[0].search.trials, asked[0].directory) == (33, Path("results/whole"))
    assert "done before" in result.stderr
    networks = json.loads(Path("results/whole/choose/chosen.json").read_text())["networks"]
    for row in networks:
        assert (row["id"] in result.stdout) == (row["pareto"] or row["chosen"])
        if row["chosen"]:
            assert f"{100 * row['test_accuracy']:.1f} %" in result.stdout
    assert result.stdout.count("/export/") == sum(row["chosen"] for row in networks)
    for piece in (
        "results/whole/report.html",
        "nas-engine table query results/whole",
        "nas-engine export results/whole",
    ):
        assert piece in result.stdout
    document = json.loads(good("search", "results/whole", "--json"))
    assert [r["id"] for r in document["networks"]] == [
        r["id"] for r in sorted(networks, key=lambda r: -r["accuracy"]) if r["pareto"] or r["chosen"]
    ]
    assert document["report"] == "results/whole/report.html"


def test_an_interrupted_search_tells_how_to_go_on(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_pipeline(config: Config, *, progress: Any, stop: Any, address: str | None) -> Run:
        os.kill(os.getpid(), 2)  # Ctrl-C
        assert stop()
        raise pipeline.Interrupted("stopped in stage 'search'; go on with: nas-engine search results/a/config.yaml")

    good("init", "a.yaml")
    monkeypatch.setattr(pipeline, "run_pipeline", run_pipeline)
    bad(130, r"^stopped in stage 'search'; go on with: nas-engine search results/a/config\.yaml$", "search", "a.yaml")


def test_a_run_in_use_is_left_alone(place: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from nas_engine.run import RunDirectory\n"
        "with RunDirectory(Path('results/whole')).locked(): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        bad(
            5,
            r"'results/whole' is in use by another process; .*nas-engine status results/whole",
            "search",
            "results/whole",
        )
        assert "results/whole: running" in good("status", "whole")
        assert json.loads(good("list", "--json"))[0]["state"] == "running"
        process.kill()
    assert "running" not in good("status", "whole")


def test_a_run_begun_with_other_settings_is_not_mixed(place: Path) -> None:
    inputs = Path("results/whole/supernet/inputs.json")
    config = load_config("results/whole/config.yaml").model_dump(mode="json")
    for stage in Path("results/whole").glob("*/inputs.json"):
        stage.unlink()
    inputs.write_text(json.dumps({"supernet": {k: v for k, v in config["supernet"].items() if k != "processes"}}))
    before = Path("results/whole/config.yaml").read_text()
    bad(
        5,
        r"was begun with supernet\.epochs 40, now 3\. .*--set name=NEW",
        "search",
        "results/whole",
        "--set",
        "supernet.epochs=3",
    )
    assert Path("results/whole/config.yaml").read_text() == before


# ---- mistakes in the configuration -----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["profile", "search"])
def test_mistakes_in_the_configuration(empty: Path, verb: str) -> None:
    bad(2, r"^error: no file 'gone\.yaml'; write one with: nas-engine init gone\.yaml$", verb, "gone.yaml")
    good("init", "a.yaml")
    for override, message in {
        "serch.trials=3": r"unknown key 'serch': did you mean 'search'\?",
        "search.trials=many": r"search\.trials: .*got 'many'",
        "constraints=latency <= 3": r"did you mean 'latency_ms'\?",
        "space.name=nasbench": r"unknown space 'nasbench': did you mean 'nasbench201'\?",
        "space.chanels=3": r"takes no 'chanels': did you mean 'channels'\?",
        "predictor.name=gnc": r"unknown predictor 'gnc': did you mean 'gcn'\?",
        "predictor.hiden=3": "hiden",
        "search.sampler=nsga": r"unknown sampler 'nsga': did you mean 'nsga2'\?",
        "nothing": "is not of the form a.b=value",
    }.items():
        bad(2, message, verb, "a.yaml", "--set", override)
    bad(3, "unknown data set 'digit': did you mean 'digits'", verb, "a.yaml", "--set", "data.source=digit")
    bad(3, "there is no file gone.npz", verb, "a.yaml", "--set", "data.source=npz:gone.npz")
    assert not Path("results").exists(), "a mistake must leave no run behind"


# ---- status and list -----------------------------------------------------------------------------------------


def test_status_of_a_run(place: Path) -> None:
    text = good("status", "whole")
    assert text == good("status")  # the only run is the latest
    for piece in ("device", "done", "13 min 25 s", "waiting"):
        assert piece in text
    document = json.loads(good("status", "results/whole", "--json"))
    assert document["command"] == "nas-engine search results/whole/config.yaml"
    assert [row["stage"] for row in document["stages"]][:2] == ["device", "supernet"]


def test_status_tells_how_far_an_interrupted_stage_is(empty: Path) -> None:
    half = build_run(Path("results"), name="half", until="supernet")
    begin_stage(half, "sample")
    half.directory.interrupted("sample", 61.0)
    scores = half.path / "sample" / "scores.jsonl"
    scores.write_text('{"code": "000000", "accuracy": 0.5}\n{"code": "0000')
    text = good("status", "half")
    assert "half: stopped" in text
    assert re.search(r"sample +stopped +1 min 1 s +1 of 200 members scored", text)
    assert "go on with: nas-engine search results/half/config.yaml" in text
    assert scores.read_text().endswith('{"code": "0000'), "status must not touch what a running search may be writing"


def test_status_of_a_search_that_is_asked_for_more(place: Path) -> None:
    begin_stage(Run.open("whole"), "search")
    stages = {row["stage"]: row for row in json.loads(good("status", "whole", "--json"))["stages"]}
    assert stages["search"]["state"] == "stopped"
    assert stages["search"]["text"] == "14 of 14 trials ended"
    assert {stages[name]["state"] for name in ("choose", "export", "report")} == {"waiting"}


def test_status_tells_the_epochs_of_shared_weights(empty: Path) -> None:
    early = build_run(Path("results"), name="early", until="device")
    begin_stage(early, "supernet")
    assert "0 of 40 epochs" in good("status", "early")
    history = [{"epoch": i, "loss": 2.0, "seconds": 1.0} for i in (1, 2, 3)]
    write_torch(early.path / "supernet" / "checkpoint.pt", {"history": history})
    assert "3 of 40 epochs" in good("status", "early")


def test_all_runs(place: Path) -> None:
    build_run(Path("results"), name="half", until="predict")
    (place / "results" / "broken").mkdir()
    (place / "results" / "broken" / "config.yaml").write_text("a: [")
    rows = {Path(row["run"]).name: row for row in json.loads(good("list", "--json"))}
    assert set(rows) == {"whole", "half", "broken"}
    assert rows["broken"]["state"] == "damaged"
    assert rows["half"]["stage"] == "table"
    assert rows["whole"]["accuracy"] > 0.9
    assert rows == {Path(row["run"]).name: row for row in json.loads(good("status", "--all", "--json"))}
    text = good("list", "runs")
    assert "is not YAML" in text
    assert re.search(r"results/half +stopped +table", text)
    assert good("list", "--results", "elsewhere").startswith("no runs yet")
    assert json.loads(good("list", "--results", "elsewhere", "--json")) == []


def test_unknown_runs(empty: Path) -> None:
    for arguments in (
        ("status", "a"),
        ("table", "query", "a"),
        ("table", "info", "a"),
        ("report", "a"),
        ("export", "a"),
    ):
        bad(5, "'a' is not a run: there is no run under results/ yet", *arguments)
    bad(5, "there is no run under 'results' yet; begin with: nas-engine init", "status")
    bad(2, "not both", "status", "a", "--all")


@pytest.mark.parametrize("kind", overview.KINDS)
def test_every_registry_is_listed(kind: str) -> None:
    rows = json.loads(good("list", kind, "--json"))
    assert rows
    text = good("list", kind)
    for row in rows:
        assert row["name"] in text
        assert "\n" not in row["about"]


def test_an_unknown_registry() -> None:
    bad(2, r"nothing called 'spces' can be listed: did you mean 'spaces'\?", "list", "spces")


# ---- query, report, export -----------------------------------------------------------------------------------


def test_query_sorts_filters_and_cuts(place: Path) -> None:
    rows = json.loads(
        good("table", "query", "whole", "--where", "latency_ms < 0.6 and params > 1e3", "--top", "5", "--json")
    )
    assert len(rows) == 5
    assert all(row["latency_ms"] < 0.6 for row in rows)
    assert [row["accuracy"] for row in rows] == sorted((row["accuracy"] for row in rows), reverse=True)
    text = good("table", "query", "whole", "--top", "3")
    assert "latency" in text
    assert "%" in text
    assert "no member" in good("table", "query", "whole", "--where", "latency_ms < 0")
    assert json.loads(good("table", "query", "whole", "--where", "latency_ms < 0", "--json")) == []


@pytest.mark.parametrize("condition", ["latency < 2", "latency_ms <", "1; drop table x", "select 1"])
def test_a_condition_that_cannot_be_read(place: Path, condition: str) -> None:
    bad(2, "error: ", "table", "query", "whole", "--where", condition)
    bad(2, "error: ", "export", "whole", "--best", condition)


def test_an_unknown_column_to_sort_by(place: Path) -> None:
    bad(2, "latency_ms", "table", "query", "whole", "--sort", "latency")


def test_report_prints_where_it_is(place: Path) -> None:
    assert good("report", "whole") == "results/whole/report.html\n"
    assert Path("results/whole/report.html").read_text().lstrip().lower().startswith("<!doctype html")


def test_export_picks_a_network(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, Path | None]] = []

    def export(run: Run, trial: int, directory: Path | None = None) -> Path:
        asked.append((trial, directory))
        return Path("bundle")

    monkeypatch.setattr(Run, "export", export)
    best = Run.open("whole").best()["trial"]
    cheap = Run.open("whole").best("latency_ms < 0.5")["trial"]
    assert good("export", "whole") == "bundle\n"
    good("export", "whole", "--trial", "4", "--to", "there")
    good("export", "whole", "--best", "latency_ms < 0.5")
    assert asked == [(best, None), (4, Path("there")), (cheap, None)]
    bad(2, "either --trial or --best", "export", "whole", "--trial", "1", "--best", "params < 1")
    bad(5, "none of the 12 trained networks", "export", "whole", "--best", "params < 1")


def test_a_run_that_is_not_so_far(empty: Path) -> None:
    build_run(Path("results"), name="half", until="predict")
    bad(5, "has no table yet; make it with: nas-engine table build results/half/config.yaml", "table", "query", "half")
    bad(5, "has not chosen networks yet; continue it with", "export", "half")


# ---- clusters and runs under a URI -----------------------------------------------------------------------------


def test_an_address_is_passed_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def run_pipeline(config: Config, *, address: str | None, **others: Any) -> Run:
        asked.append(address)
        return Run.open("results/whole")

    monkeypatch.setattr(pipeline, "run_pipeline", run_pipeline)
    good("search", "results/whole", "--address", "10.0.0.1:6379")
    good("table", "build", "results/whole", "--address", "auto")
    good("search", "results/whole")
    assert asked == ["10.0.0.1:6379", "auto", None]


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_cluster_that_is_none_is_told_before_anything_is_trained(
    empty: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    good("init", "a.yaml", "--space", "nasbench201")
    given: tuple[str, ...] = ()
    if by == "option":
        given = ("--address", "ray://10.0.0.1:10001")
    else:
        monkeypatch.setenv("RAY_ADDRESS", "ray://10.0.0.1:10001")
    bad(1, "^error: ray://10.0.0.1:10001 is an address of Ray Client", "search", "a.yaml", *given)
    assert not (empty / "results").exists()


def test_a_run_under_a_uri(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    monkeypatch.setattr(remote, "_MIRRORS", {})
    (place / "results").rename(place / "bucket")
    results = f"file://{place}/bucket"
    uri = f"{results}/whole"
    told = good("status", uri)
    assert told.startswith(f"{uri}: ")
    document = json.loads(good("status", uri, "--json"))
    assert document["command"] == f"nas-engine search {uri}"
    copy = Run.open(uri).path
    assert copy.is_relative_to(place / "cache")
    assert json.loads(good("list", "--results", results, "--json"))[0]["run"] == uri
    assert len(json.loads(good("table", "query", uri, "--top", "2", "--json"))) == 2
    (place / "bucket" / "whole" / "report.html").write_text("old")
    assert good("report", uri) == f"{copy}/report.html\n"
    assert (place / "bucket" / "whole" / "report.html").read_text() != "old"
    assert Run.open(uri).config.uri == uri
    assert Run.open(copy).location == uri, "a working copy is known for what it is"
    bad(5, "whole/none' is not a run: no config.yaml there", "status", f"{uri}/none")
    bad(5, "cannot use foo://bucket/whole .*give a URI that pyarrow knows", "status", "foo://bucket/whole")
