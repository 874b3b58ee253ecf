"""The whole way, and that a compression which is stopped anywhere goes on to the same end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_engine.compress.compressing import compress, report_of
from nas_engine.compress.criteria import criteria
from nas_engine.compress.request import make_request
from nas_engine.export import load_bundle
from nas_engine.pipeline import Interrupted
from search_spaces.errors import ConfigError, RunError, SpaceError, UnsatisfiableError
from search_spaces.models import models
from tests.nas_engine.compress.conftest import Made

pytestmark = pytest.mark.usefixtures("quick_settings")
Report = dict[str, Any]


class Killed(BaseException):
    """Ends a compression anywhere."""


def kept(report: Report) -> Report:
    """What must be the same however often a compression was stopped."""
    return {key: report[key] for key in ("accuracy", "costs", "widths", "without", "targets", "allocation")}


def after(events: int) -> Callable[[str, dict[str, Any]], None]:
    """Listens to so many events and then kills."""
    left = [events]

    def listen(event: str, details: dict[str, Any]) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    return listen


def test_from_a_network_to_a_smaller_one(trained: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    request = make_request(trained.request(finetune=2, optimizer={"batch_size": 64, "learning_rate": 0.02}))
    report = compress(request, out)
    accuracy = report["accuracy"]
    assert accuracy["before"]["test"] > 0.8
    assert accuracy["after"]["test"] > accuracy["before"]["test"] - 0.1
    assert set(accuracy) == {"before", "cut", "after"}
    macs = [report["costs"][state]["macs"] for state in ("before", "after")]
    assert 0.3 < macs[1] / macs[0] <= 0.5
    assert set(report["latency"]) == {"torch_1", "torch_16"}
    assert report["words"]
    assert report == report_of(out)

    small = load_bundle(Path(report["bundle"]))
    assert small.graph.cost.macs == macs[1]
    choices = json.loads((out / "choices.json").read_text())
    assert choices["widths"] == {name: widths[1] for name, widths in report["widths"].items()}
    assert choices["choices"]["a1.kept"] is True
    assert choices["choices"]["a1"] == choices["widths"]["a1"] / 20

    again = compress(request, out)
    assert kept(again) == kept(report)
    again = compress(make_request({**trained.request(), "model": report["bundle"], "weights": None}), tmp_path / "more")
    assert again["accuracy"]["before"] == accuracy["after"]


@pytest.mark.parametrize(
    "more",
    [
        {"finetune": 2, "distill": True},
        {"schedule": {"name": "geometric", "steps": 2, "epochs": 2}, "criterion": {"name": "magnitude"}},
        {"schedule": {"name": "spp", "every": 4, "epochs": 2}, "criterion": {"name": "magnitude"}, "finetune": 1},
    ],
)
def test_it_goes_on_where_it_was_stopped(trained: Made, tmp_path: Path, more: dict[str, Any]) -> None:
    request = make_request(trained.request(**more))
    events: list[str] = []
    whole = compress(request, tmp_path / "whole", progress=lambda event, details: events.append(event))
    for stopped in range(1, len(events), 2):
        with contextlib.suppress(Killed):
            compress(request, tmp_path / "parts", progress=after(stopped))
    assert kept(compress(request, tmp_path / "parts")) == kept(whole)


def test_it_stops_when_asked_and_says_how_to_go_on(trained: Made, tmp_path: Path) -> None:
    asked = iter([False, False, True])
    with pytest.raises(Interrupted, match="go on with: nas-engine compress x"):
        compress(
            make_request(trained.request()), tmp_path / "a", stop=lambda: next(asked), command="nas-engine compress x"
        )


@pytest.mark.parametrize("schedule", ["iterative", "geometric", "spp"])
def test_schedules_meet_the_target(trained: Made, tmp_path: Path, schedule: str) -> None:
    settings = {"iterative": {"every": 5}, "geometric": {"steps": 2}, "spp": {"every": 4}}[schedule]
    request = make_request(trained.request(schedule={"name": schedule, "epochs": 2, **settings}))
    report = compress(request, tmp_path / "out")
    assert report["costs"]["after"]["macs"] <= 0.5 * report["costs"]["before"]["macs"]


def test_whole_blocks_where_only_they_are_scored(trained: Made, tmp_path: Path) -> None:
    report = compress(make_request(trained.request(criterion={"name": "layerprune"})), tmp_path / "out")
    assert report["allocation"] == "blocks"
    assert report["without"]
    assert all(before == left for before, left in report["widths"].values())


def test_a_latency_is_met_as_measured(trained: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_ENGINE_CACHE", str(tmp_path / "cache"))
    device = {"measure_seconds": 6, "batch": 16}
    request = make_request(trained.request(targets=["latency_ms=0.7x"], device=device))
    report = compress(request, tmp_path / "out")
    assert report["costs"]["after"]["macs"] < report["costs"]["before"]["macs"]
    assert json.loads((tmp_path / "out" / "cut.json").read_text())["shares"]["latency_ms"] <= 0.7


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"criterion": {"name": "tailor"}}, "did you mean 'taylor'"),
        ({"criterion": {"name": "taylor", "from": 3}}, "takes no setting 'from'.*did you mean 'form'"),
        ({"schedule": {"name": "oneshot"}}, "did you mean 'one_shot'"),
        ({"schedule": {"name": "spp_columns"}}, "leaves widths as they are"),
        ({"allocation": "globale"}, "did you mean 'global'"),
        ({"targets": ["mac=0.5x"]}, "did you mean 'macs'"),
        ({"targets": []}, "a list such as"),
        ({"distill": True}, "needs epochs to learn in"),
        ({"data": {"source": "text:a.txt"}}, "is a text"),
        ({"finetun": 3}, "did you mean 'finetune'"),
        ({"allocation": "blocks", "schedule": {"name": "spp"}}, "goes with schedule one_shot"),
        ({"weights": "absent.safetensors"}, "no file of weights"),
        ({"model": "lenet"}, "did you mean 'lenet5'"),
    ],
)
def test_requests_that_cannot_be_met(trained: Made, tmp_path: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compress(make_request(trained.request(**more)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_target_below_what_is_reachable(trained: Made, tmp_path: Path) -> None:
    request = make_request(trained.request(targets=["macs=0.001x"]))
    with pytest.raises(UnsatisfiableError, match=r"lowest macs of a cut is .* \(0\.\d+x\)"):
        compress(request, tmp_path / "out")


def test_weights_of_another_architecture_are_refused_and_untouched(trained: Made, tmp_path: Path) -> None:
    file = tmp_path / "other.pt"
    torch.save(models["lenet5"]().state_dict(), file)
    before = file.read_bytes()
    with pytest.raises(SpaceError, match="are not of"):
        compress(make_request(trained.request(weights=str(file))), tmp_path / "out")
    assert file.read_bytes() == before


def test_weights_that_know_nothing_are_told(trained: Made, tmp_path: Path) -> None:
    report = compress(make_request(trained.request(weights=None, criterion={"name": "magnitude"})), tmp_path / "out")
    assert "hardly more than by guessing" in report["warnings"][0]


def test_a_directory_is_of_one_request(trained: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Killed):
        compress(make_request(trained.request()), out, progress=after(2))
    with pytest.raises(RunError, match=r"begun with targets \['macs=0.5x'\], now \['macs=0.6x'\]"):
        compress(make_request(trained.request(targets=["macs=0.6x"])), out)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("!")
    with pytest.raises(RunError, match="holds other things"):
        compress(make_request(trained.request()), other)


@pytest.mark.slow
def test_killed_by_the_system(trained: Made, tmp_path: Path) -> None:
    """kill -9 at moments that nobody chose; the same command ends as one that was left alone."""
    sections = trained.request(finetune=3)
    code = (
        "import sys, json\nfrom pathlib import Path\nfrom nas_engine.compress import verdict\n"
        "from nas_engine.compress.compressing import compress\nfrom nas_engine.compress.request import make_request\n"
        "verdict.SETTINGS = verdict.SETTINGS[:1]\ncompress(make_request(json.loads(sys.argv[1])), Path(sys.argv[2]))\n"
    )
    arguments = [sys.executable, "-c", code, json.dumps(sections)]
    started = time.perf_counter()
    subprocess.run([*arguments, str(tmp_path / "whole")], check=True)
    took = time.perf_counter() - started
    for share in (0.5, 0.7, 0.8, 0.9):
        process = subprocess.Popen([*arguments, str(tmp_path / "parts")])
        time.sleep(share * took)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([*arguments, str(tmp_path / "parts")], check=True)
    assert kept(report_of(tmp_path / "parts")) == kept(report_of(tmp_path / "whole"))


@pytest.mark.parametrize("name", criteria.names())
def test_every_criterion_can_choose(trained: Made, tmp_path: Path, name: str) -> None:
    few = {"images": 128, "batch_size": 64, "criterion": {"name": name}, "targets": ["macs=0.7x"]}
    report = compress(make_request(trained.request(**few)), tmp_path / "out")
    assert report["costs"]["after"]["macs"] <= 0.7 * report["costs"]["before"]["macs"]
