"""Baselines as a stage of a run: added to a finished one, trained once, told on the page, in the shell and in JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nas_engine import Run, overview
from nas_engine.config import Config, make_config
from nas_engine.pipeline import run_pipeline
from nas_engine.report.findings import Findings
from nas_engine.report.page import render
from nas_engine.show import to_json
from nas_engine.tuning import BaselineJob
from nas_engine.tuning.baselines import BaselineConductor
from search_spaces.errors import ConfigError
from tests.nas_engine.commands import good
from tests.nas_engine.synthetic import begin_stage, build_run
from tests.nas_engine.tuning.test_baselines import here
from tests.small import SMALL


@pytest.fixture(scope="module")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("nets") / "nets.py"
    file.write_text(
        "from torch import nn\n"
        "def thin(input_shape, classes):\n"
        "    layers = [nn.Conv2d(input_shape[0], 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),\n"
        "              nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]\n"
        "    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, classes))\n"
    )
    return file


def trainings(counts: list[int]) -> Callable[[BaselineJob, BaselineConductor, Any], None]:
    """Takes the place of Ray Tune; notes how many trainings were left each time."""

    def run(job: BaselineJob, conductor: BaselineConductor, trainable: Any = None) -> None:
        counts.append(conductor.remaining)
        here(job, conductor)

    return run


@pytest.mark.slow
def test_baselines_are_added_to_a_finished_run(
    small_run: Run, network_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(small_run.path, tmp_path / "tiny")
    counts: list[int] = []
    monkeypatch.setattr("nas_engine.tuning.trials.run_trials", trainings(counts))
    thin = f"{network_file}:thin"

    def asked(*baselines: object) -> Config:
        trials = small_run.config.search.trials
        search = {**SMALL["search"], "trials": trials}
        return make_config({**SMALL, "results": str(tmp_path), "search": search, "baselines": list(baselines)})

    states: list[tuple[str, str]] = []
    run = run_pipeline(
        asked(thin, {"model": thin, "to": "chosen"}),
        progress=lambda event, d: states.append((d["name"], d["state"])) if event == "stage" else None,
    )
    assert {name for name, state in states if state == "done"} == {"baselines", "report"}
    found = run.baselines
    assert found is not None
    plain, scaled = found["rows"]
    assert [row["state"] for row in found["rows"]] == ["finished", "finished"]
    assert all(0 < row["test_accuracy"] <= 1 and row["latency_ms"] > 0 and row["macs"] > 0 for row in found["rows"])
    best = run.best("chosen")
    assert scaled["target_ms"] == pytest.approx(best["latency_ms"])
    assert scaled["scaled_measured_ms"] <= 1.03 * scaled["target_ms"]
    assert (scaled["macs"] > plain["macs"]) == (scaled["scaling"]["width"] > 1)
    assert scaled["scaling"]["depth"] == scaled["scaling"]["resolution"] == 1
    assert {c["trial"] for c in found["comparisons"]} == {n["trial"] for n in run.chosen["networks"] if n["chosen"]}
    assert thin in (run.path / "report.html").read_text()
    record = (run.path / "baselines" / "trainings.jsonl").read_bytes()

    more = run_pipeline(asked({"model": "lenet5", "resolution": 28}, thin))  # another list: only what is new is trained
    assert counts == [2, 1]
    assert (more.path / "baselines" / "trainings.jsonl").read_bytes().startswith(record)
    assert [row["name"] for row in (more.baselines or {})["rows"]] == ["lenet5, at 28 pixels", thin]
    assert run_pipeline(asked()).baselines is None


def test_what_cannot_be_had_is_told_before_anything_runs(tmp_path: Path) -> None:
    config = make_config({**SMALL, "results": str(tmp_path), "baselines": ["resnet20", "timm:resnet19"]})
    with pytest.raises(ConfigError, match=r"baseline 'timm:resnet19' .* did you mean 'resnet18'"):
        run_pipeline(config)
    assert not (tmp_path / "tiny").exists()


# ---- what people see ---------------------------------------------------------------------------------------------


def test_the_shell_shows_a_table_and_a_verdict(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    text = _shown(run)
    assert "timm:resnet10t" in text
    assert "mobilenetv2_050, to latency by width" in text
    assert "points better than the best baseline at most as slow, timm:resnet10t" in text
    assert "baseline timm:resnet18 failed: OutOfMemoryError" in text
    document = json.loads(to_json(overview.outcome(run)))
    assert [row["state"] for row in document["baselines"]] == ["finished", "finished", "failed"]
    assert document["comparisons"][0]["points"] == pytest.approx(1.2)


def _shown(run: Run) -> str:
    import io

    from nas_engine import pages
    from nas_engine.show import show

    stream = io.StringIO()
    show(pages.search(overview.outcome(run)), stream)
    return stream.getvalue()


def test_the_page_shows_rows_points_and_how_they_were_scaled(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    text = render(Findings(run))
    own = text[text.index('id="baselines"') :]
    section = own[: own.index("</section>")]
    for words in ("timm:resnet10t", "scaled to the bound of 0.500 ms: 0.450 ms predicted, 0.490 ms measured then"):
        assert words in section
    table = section[section.index("<tbody>") :]
    assert table.index("trial") < table.index("timm:resnet10t"), "the most accurate one comes first"
    assert text.count('"name":"baseline"') == 5, "in the figure of each cost"


def test_a_run_without_baselines_says_nothing_of_them(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    path = run.path / "config.yaml"
    before, _, after = path.read_text().partition("baselines:\n")
    path.write_text(before + "baselines: []\nexport:" + after.partition("\nexport:")[2])
    shutil.rmtree(run.path / "baselines")  # as a run of before there were any
    run.directory.begin("report", {})
    run.directory.end("report", {}, 0.1)
    old = Run.open(run.path)
    assert old.baselines is None
    assert {row["state"] for row in old.status} == {"done"}
    assert overview.status(old)["state"] == "done"
    text = render(Findings(old))
    assert 'id="baselines"' not in text
    assert "has not ended" not in text
    assert "points" not in _shown(old)


def test_status_tells_how_many_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = build_run(tmp_path / "results", until="export")
    begin_stage(run, "baselines")
    record = run.path / "baselines" / "trainings.jsonl"
    record.write_text('{"event":"end","id":"a","state":"finished","error":null}\n{"event":"epo')
    monkeypatch.chdir(tmp_path)
    assert "1 trained of 3" in good("status", "synthetic")
    assert "The baselines are not trained yet." in render(Findings(run))
