"""The whole flow on embedded data: what it leaves, that it is not repeated, and that a kill changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from nas_engine import Run
from nas_engine.config import Config, make_config
from nas_engine.pipeline import profile, run_pipeline
from nas_engine.run import STAGES
from search_spaces.errors import ConfigError, RunError, UnsatisfiableError
from tests.small import SMALL


def small(results: Path, **changes: object) -> Config:
    return make_config({**SMALL, "results": str(results), **changes})


@pytest.fixture(scope="module")
def run(small_run: Run) -> Run:
    return small_run


@pytest.fixture(scope="module")
def results(run: Run) -> Path:
    return run.path.parent


def test_every_stage_leaves_its_files(run: Run) -> None:
    assert [row["state"] for row in run.status] == ["done"] * len(STAGES)
    for name in (
        "device/latency.json",
        "supernet/weights.safetensors",
        "supernet/history.jsonl",
        "sample/scores.jsonl",
        "predict/trust.json",
        "table/table.parquet",
        "search/trials.jsonl",
        "choose/chosen.json",
        "report.html",
    ):
        assert (run.path / name).stat().st_size > 0, name


def test_the_table_holds_every_distinct_member(run: Run) -> None:
    assert len(run.table) == 6466
    rows = run.query("params <= 3000", sort="accuracy", top=5)
    assert len(rows) == 5
    assert (rows["params"] <= 3000).all()
    assert rows["accuracy"].is_monotonic_decreasing
    one = run.table.lookup(run.architecture(rows.iloc[0]["code"]))
    assert one["params"] == rows.iloc[0]["params"]


def test_chosen_networks_meet_the_bound_and_were_tested_once(run: Run) -> None:
    networks = run.chosen["networks"]
    chosen = [n for n in networks if n["chosen"]]
    assert 1 <= len(chosen) <= 2
    assert all(n["params"] <= 4000 and 0 < n["test_accuracy"] <= 1 and n["latency_ms"] > 0 for n in chosen)
    assert all(n["test_accuracy"] is None for n in networks if not n["chosen"])
    assert all(n["reason"] for n in networks)
    assert isinstance(run.pareto, pd.DataFrame)
    assert run.best()["accuracy"] == max(n["accuracy"] for n in networks)


def test_bundles_are_verified(run: Run) -> None:
    for bundle in (run.path / "export").iterdir():
        if bundle.is_dir():
            told = json.loads((bundle / "verification.json").read_text())
            assert set(told["differences"]) == {"model.py", "torch_export"}
            assert max(told["differences"].values()) < 1e-4


def test_any_trial_can_be_exported(run: Run, tmp_path: Path) -> None:
    trial = run.best()["trial"]
    assert (run.export(trial, tmp_path / "mine") / "model.py").is_file()
    with pytest.raises(RunError, match="no trained network"):
        run.export(99)


def test_the_same_command_repeats_nothing(run: Run, results: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.path.rglob("*.safetensors")}
    told: list[tuple[str, str]] = []
    run_pipeline(
        small(results),
        progress=lambda event, d: told.append((d["name"], d["state"])) if event == "stage" else None,
    )
    assert [name for name, state in told if state == "skipped"] == list(STAGES[:-1])
    assert before == {p: p.stat().st_mtime_ns for p in run.path.rglob("*.safetensors")}


def test_more_trials_go_on_from_those_there_are(run: Run, results: Path) -> None:
    first = (run.path / "search" / "trials.jsonl").read_bytes()
    more = run_pipeline(small(results, search={**SMALL["search"], "trials": 4}))  # type: ignore[dict-item]
    assert (more.path / "search" / "trials.jsonl").read_bytes().startswith(first)
    assert len(more.chosen["networks"]) + len(more.chosen["dropped"]) == 4


def test_another_configuration_is_refused(run: Run, results: Path) -> None:
    with pytest.raises(RunError, match=r"supernet.epochs 4, now 5.*--set name=NEW"):
        run_pipeline(small(results, supernet={"epochs": 5}))


def test_bounds_are_judged_before_training(results: Path) -> None:
    with pytest.raises(UnsatisfiableError, match="no member meets params <= 10"):
        run_pipeline(small(results, name="impossible", constraints=["params <= 10"]))
    assert not (results / "impossible" / "supernet" / "weights.safetensors").exists()


def test_names_are_checked_before_anything_runs(results: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'predicted'"):
        run_pipeline(small(results, name="typo", search={**SMALL["search"], "sampler": "predictd"}))  # type: ignore[dict-item]
    assert not (results / "typo" / "device").exists()


def test_profile_trains_nothing(results: Path) -> None:
    told = profile(small(results, name="profiled"))
    assert told["size"] == 15625
    assert {e["cost"] for e in told["profile"]["extents"]} >= {"params", "macs", "latency_ms"}
    assert {s["stage"] for s in told["stages"]} >= {"supernet", "sample", "search"}
    assert all(s["seconds"] > 0 for s in told["stages"])
    assert not (results / "profiled").exists()


_PROGRAM = """
import json, sys
from nas_engine.config import make_config
from nas_engine.pipeline import run_pipeline
run_pipeline(make_config(json.loads(sys.argv[1])))
"""


def _started(config: dict[str, object]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _PROGRAM, json.dumps(config)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def _wait_for(path: Path, process: subprocess.Popen[bytes], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def _outcome(path: Path) -> dict[str, object]:
    """What must not depend on interruptions: all of the record, the scores, and the choice, less what is timed."""
    timed = {"latency_ms", "latency_spread_ms", "latency_ms_predicted", "pareto", "chosen", "reason", "test_accuracy"}
    chosen = json.loads((path / "choose" / "chosen.json").read_text())
    trials = [json.loads(line) for line in (path / "search" / "trials.jsonl").read_text().splitlines()]
    for row in trials:
        row.get("costs", {}).pop("latency_ms", None)
    return {
        "scores": sorted((path / "sample" / "scores.jsonl").read_text().splitlines()),
        "networks": [{k: v for k, v in n.items() if k not in timed} for n in chosen["networks"]],
        "events": [(r["event"], r.get("trial"), r.get("epoch"), r.get("accuracy"), r.get("code")) for r in trials],
    }


def test_kill_9_at_any_moment_changes_nothing(run: Run, results: Path) -> None:
    """A run killed in every stage ends as an undisturbed one does."""
    base = {**SMALL, "results": str(results), "objectives": {"accuracy": "max", "params": "min"}}
    whole = _started({**base, "name": "whole"})
    assert whole.wait(300) == 0, whole.stderr and whole.stderr.read()
    broken = {**base, "name": "broken"}
    path = results / "broken"
    for moment in (
        "device/inputs.json",
        "supernet/checkpoint.pt",
        "sample/scores.jsonl",
        "predict/trust.json",
        "table/inputs.json",
        "search/trials.jsonl",
        "search/trials/0001.pt",
        "choose/inputs.json",
        "export/inputs.json",
    ):
        process = _started(broken)
        _wait_for(path / moment, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    last = _started(broken)
    assert last.wait(300) == 0, last.stderr and last.stderr.read()
    assert _outcome(path) == _outcome(results / "whole")
    assert [row["state"] for row in Run.open(path).status] == ["done"] * len(STAGES)
