"""The whole way, and that a scaling which is stopped anywhere goes on to the same end."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nas_engine.compress.workplace import Workplace
from nas_engine.export import load_bundle
from nas_engine.pipeline import Interrupted
from nas_engine.scaling.base import make_base
from nas_engine.scaling.handing import words_of
from nas_engine.scaling.request import Request
from nas_engine.scaling.work import Work, scale
from predictors.cost import Measurement, NetworkTimer
from search_spaces.errors import RunError, SpaceError, UnsatisfiableError
from search_spaces.graph import Graph
from search_spaces.models import load_model
from search_spaces.scaling import Compound
from tests.nas_engine.scaling.conftest import named, quick, without_times

Report = dict[str, Any]


class Killed(BaseException):
    """Ends a scaling anywhere."""


def after(events: int) -> Callable[[str, dict[str, Any]], None]:
    """Listens to so many events and then kills."""
    left = [events]

    def listen(event: str, details: dict[str, Any]) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    return listen


@pytest.fixture(scope="module")
def request_(nets: str) -> Request:
    return quick(f"{nets}:Net", phi=2, input="3x16x16", formats=["model.py"])


@pytest.fixture(scope="module")
def family(request_: Request, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_ENGINE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        out = tmp_path_factory.mktemp("family") / "out"
        return scale(request_, out), out


def test_a_family_by_every_rule(family: tuple[Report, Path], request_: Request) -> None:
    report, out = family
    labels = [row["label"] for row in report["members"]]
    assert labels[:3] == ["base", "compound phi 1", "compound phi 2"]
    assert len(labels) == 1 + 2 * 5
    base = make_base(request_)
    for row in report["members"][1:3]:
        graph = base.scaled(Compound().scaling(row["phi"]))
        assert row["id"] == graph.id
        assert (row["params"], row["macs"]) == (graph.cost.params, graph.cost.macs)
        assert row["shares"]["macs"] == row["macs"] / base.graph.cost.macs
        assert row["latency_ms"] > 0
    measured = {row["label"] for row in report["members"] if row["measured"]}
    assert measured == {"base", "compound phi 1"} | {f"{rule} phi 2" for rule in report["rules"]}
    assert report["impossible"] == {}
    assert any("time grows least" in words for words in report["words"])
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(report, default=str))


def test_members_are_exported_with_fresh_weights(family: tuple[Report, Path], request_: Request) -> None:
    report, out = family
    assert named(out / "members") == ["compound-phi-1", "compound-phi-2"]
    bundle = Path(report["bundles"]["compound phi 2"])
    assert load_bundle(bundle).graph.id == report["members"][2]["id"]
    assert load_model(str(bundle)).graph == make_base(request_).scaled(Compound().scaling(2))
    card = (bundle / "card.md").read_text()
    assert "the weights are random, drawn with seed 0" in card
    assert "real images" not in card
    assert "trained network" not in card
    assert (bundle / "model.py").exists()


def test_the_same_command_does_nothing_twice(family: tuple[Report, Path], request_: Request) -> None:
    report, out = family
    events: list[dict[str, Any]] = []
    again = scale(request_, out, progress=lambda event, details: events.append(details))
    assert again["members"] == report["members"]
    assert {e["state"] for e in events if "state" in e and e["name"] != "export"} == {"skipped"}
    with pytest.raises(RunError, match="begun with phi 2, now 1"):
        scale(request_.model_copy(update={"phi": 1}), out)


def test_it_goes_on_where_it_was_stopped(family: tuple[Report, Path], nets: str, tmp_path: Path) -> None:
    request = quick(f"{nets}:Net", to=["macs=2x"], input="3x16x16")
    events: list[str] = []
    whole = scale(request, tmp_path / "whole", progress=lambda event, details: events.append(event))
    for stopped in range(1, len(events), 4):
        with contextlib.suppress(Killed):
            scale(request, tmp_path / "parts", progress=after(stopped))
    parts = scale(request, tmp_path / "parts")
    left = ("latency",)  # each has measured for itself
    dropped = [{k: v for k, v in without_times(r).items() if k not in left} for r in (whole, parts)]
    for report in dropped:
        for row in report["members"]:
            del row["latency_ms"], row["shares"]["latency_ms"]
    assert dropped[0] == dropped[1]
    asked = iter([False, True])
    with pytest.raises(Interrupted, match="go on with: nas-engine scale x"):
        scale(request, tmp_path / "c", stop=lambda: next(asked), command="nas-engine scale x")


def test_members_within_a_target(nets: str, tmp_path: Path) -> None:
    request = quick(f"{nets}:Net", to=["macs=3x", "params=2.5x"], rule="width", input="3x16x16")
    report = scale(request, tmp_path / "out")
    assert [row["rule"] for row in report["members"]][:2] == ["", "width"]
    for row in report["members"][1:]:
        assert row["shares"]["macs"] <= 3
        assert row["shares"]["params"] <= 2.5
        assert row["phi"] is None
    assert named(tmp_path / "out" / "members") == ["width"]


class Model:
    """A latency model that is a fifth too low."""

    def cost(self, graph: Graph) -> float:
        return 0.8 * milliseconds(graph)

    def summary(self) -> dict[str, Any]:
        return {"measured": 0, "units": 0, "error": {"networks": None}}


def milliseconds(graph: Graph) -> float:
    """Of a device of our own: a millisecond to be called, and one for each million MACs."""
    return 1.0 + graph.cost.macs / 1e6


def test_a_latency_is_met_by_measuring(nets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clock(self: NetworkTimer, graphs: list[Graph], seconds: float) -> list[Measurement]:
        return [Measurement(milliseconds(g), 0.01, milliseconds(g), 9) for g in graphs]

    monkeypatch.setattr(NetworkTimer, "__call__", clock)
    monkeypatch.setattr(Work, "latency", Model())
    fine = {"rounding": {"divisor": 1}, "input": "3x16x16"}
    report = scale(quick(f"{nets}:Net", to=["latency_ms=10"], **fine), tmp_path / "out")
    for row in report["members"][1:]:
        assert 0.8 * 10 < row["measured"]["median_ms"] <= 10.3, row
    assert any("brings the most arithmetic" in words for words in report["words"])
    relative = scale(quick(f"{nets}:Net", to=["latency_ms=0.6x"], **fine), tmp_path / "smaller")
    base, member = relative["members"][:2]
    assert member["measured"]["median_ms"] <= 0.6 * 1.03 * base["measured"]["median_ms"]
    assert member["macs"] < base["macs"]


def test_words_say_by_which_rule_time_is_the_least() -> None:
    def row(rule: str, macs: float, low: float) -> dict[str, Any]:
        times = {"latency_ms": low, "measured": {"median_ms": low, "low_ms": low, "iqr_ms": 0}}
        shares = {"macs": macs, "params": 1.0}
        return {"rule": rule, "phi": 1, "label": rule, "shares": shares, **shares, "input": [3, 8, 8], **times}

    request = quick("resnet20", phi=1)
    grown = list(words_of(request, [row("", 1.0, 1.0), row("compound", 4.0, 4.0), row("width", 4.0, 2.0)]))
    assert grown[1] == (
        "time grows least with the arithmetic by width; as MACs to the power of 0.50 by width, 1.00 by compound"
    )
    cut = list(words_of(request, [row("", 1.0, 1.0), row("compound", 0.25, 0.25), row("width", 0.25, 0.5)]))
    assert cut[1].startswith("time falls most with the arithmetic by compound; as MACs to the power of 1.00")
    same = list(words_of(request, [row("", 1.0, 1.0), row("compound", 1.01, 1.0), row("width", 1.02, 0.5)]))
    assert "differ too little" in same[1]


def test_rules_without_a_member_are_told(nets: str, tmp_path: Path) -> None:
    report = scale(quick(f"{nets}:plain", phi=1, input="3x16x16"), tmp_path / "out")
    assert set(report["impossible"]) == {"depth"}
    assert "no stage of like blocks" in report["impossible"]["depth"]
    with pytest.raises(SpaceError, match="by rule 'depth'"):
        scale(quick(f"{nets}:plain", phi=1, rule="depth", input="3x16x16"), tmp_path / "deep")
    with pytest.raises(UnsatisfiableError, match="cannot be reached"):
        scale(quick(f"{nets}:plain", to=["macs=10"], input="3x16x16"), tmp_path / "small")


def test_the_times_are_taken_with_the_base(request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[list[str]] = []
    work = Work(request_, Workplace(tmp_path))
    monkeypatch.setattr(Work, "_times", lambda self, graphs, name: groups.append(list(graphs)) or {})
    rows = [{"rule": r, "phi": p, "label": f"{r} {p}".strip(), "depth": 1.0, "width": 1.0, "resolution": 1.0}
            for r, p in (("", 0), ("compound", 1), ("compound", 2), ("dwr", 1), ("dwr", 2))]  # fmt: skip
    work._measured(rows)
    assert groups == [["0", "compound 1"], ["0", "compound 2", "dwr 2"]]
