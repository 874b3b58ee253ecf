"""The page: complete for finished runs, honest for interrupted ones, self-contained and safe in both."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from nas_engine.report import write_report
from nas_engine.report.findings import Findings, read_rows
from nas_engine.report.page import render
from nas_engine.report.sections import warnings
from nas_engine.run import STAGES, Run
from search_spaces.errors import RunError
from tests.nas_engine.synthetic import begin_stage

SECTIONS = ("answer", "pareto", "search", "trust", "latency", "space", "networks", "left", "run")
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Reader(HTMLParser):
    """Checks that elements close in order; collects text, ids, links and scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += filter(None, [given.get("id")])
        self.links += [v for k, v in attrs if k in ("href", "src", "srcset", "action", "data") and v]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attrs):
        self.links += [v for k, v in attrs if k in ("href", "src") and v]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="session")
def page(finished: Run) -> Reader:
    return Reader(render(Findings(finished)))


def test_every_section_is_there_and_no_id_twice(page: Reader):
    assert set(SECTIONS) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} == set(SECTIONS)


def test_the_answer_comes_with_its_errors(finished: Run, page: Reader):
    f = Findings(finished)
    best = f.winners[0]
    assert f"{100 * best['test_accuracy']:.1f} ± " in page.text
    assert "were used once, after the choice, for the chosen networks and the networks of others only" in page.text
    for network in f.winners:
        assert network["id"] in page.text
        assert f"export/{network['id']}" in page.text
    for text in f.chosen["warnings"]:
        assert text in page.text


def test_latency_is_told_with_its_errors(page: Reader):
    for text in (
        "median 11.8 %; rank correlation 0.97 (52 operators)",
        "median 3.4 %, largest 8.1 %; rank correlation 0.98 (12 networks)",
        "0.0210 ms + 1.08 × sum of the operators",
        "52 (85.2 %)",
        "Kendall tau of the ranks",
        "runtime version",
    ):
        assert text in page.text


def test_every_trial_is_accounted_for(finished: Run, page: Reader):
    f = Findings(finished)
    for network in f.networks:
        assert network["id"] in page.text
        assert network["chosen"] or network["reason"] in page.text
    for dropped in f.chosen["dropped"]:
        assert dropped["reason"] in page.text


def test_the_page_needs_nothing_but_itself(finished: Run, page: Reader):
    outside = [link for link in page.links if not link.startswith(("#", "data:", "export/"))]
    assert outside == []
    text = render(Findings(finished))
    assert text.count(get_plotlyjs()) == 1
    own = text.replace(get_plotlyjs(), "")
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", own) == []
    assert "default-src 'none'" in own
    assert "url(" not in own


def test_figures_are_json_of_finite_numbers(page: Reader):
    figures = [json.loads(s, parse_constant=pytest.fail) for s in page.scripts if s.startswith('{"data"')]
    assert len(figures) >= 16  # two for each of five costs, and six more
    assert all(trace["type"] == "scatter" for figure in figures for trace in figure["data"])


def test_written_atomically_and_the_same_again(make_run):
    run = make_run()
    path = write_report(run)
    assert path == run.path / "report.html"
    first = path.read_bytes()
    assert write_report(run).read_bytes() == first
    assert list(run.path.glob(".report*")) == []


@pytest.mark.parametrize("until", STAGES[:-2])
def test_an_interrupted_run_says_what_is_missing(make_run, until):
    run = make_run(until=until)
    following = STAGES[STAGES.index(until) + 1]
    begin_stage(run, following)
    page = Reader(render(Findings(run)))
    assert "The run has not ended" in page.text
    assert run.command in page.text
    assert set(SECTIONS) <= set(page.ids)
    missing = "not exported yet" if following == "export" else "has not ended; continue the run with"
    assert missing in page.text


def test_a_run_without_any_stage(make_run):
    run = make_run(until="device")
    begin_stage(run, "device")
    text = Reader(render(Findings(run))).text
    assert "No stage has ended yet." in text
    assert run.config.data.source in text


def test_a_search_under_way_shows_its_trials(make_run):
    run = make_run(until="search")
    begin_stage(run, "search")
    record = run.path / "search" / "trials.jsonl"
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(lines[:16]) + '{"event":"epo')
    f = Findings(run)
    assert [t.state for t in f.trials] == ["finished", "running"]
    assert "Training of 2 candidates has begun" in Reader(render(f)).text


def test_results_of_an_earlier_pass_are_not_shown(make_run):
    run = make_run()
    begin_stage(run, "search")  # more trials were asked for: choose and export are to be done again
    f = Findings(run)
    assert (f.networks, f.bundles, f.trust_trained) == ([], {}, {})


def test_reading_leaves_a_growing_record_alone(tmp_path):
    record = tmp_path / "record.jsonl"
    record.write_bytes(b'{"a":1}\n[1]\n{"a":')
    assert read_rows(record) == [{"a": 1}]
    assert record.read_bytes() == b'{"a":1}\n[1]\n{"a":'
    assert read_rows(tmp_path / "none.jsonl") == []


def test_what_comes_from_data_is_escaped(make_run):
    run = make_run(name="a.b-c")
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    for stage, file in (("device", "done.json"), ("choose", "chosen.json"), ("predict", "trust.json")):
        path = run.path / stage / file
        data = json.loads(path.read_text())
        if stage == "device":
            data["class_names"] = [attack] * 10
            data["data"] = data["device"]["processor"] = attack
        elif stage == "choose":
            data["warnings"] = [attack]
            data["dropped"][0]["reason"] = data["networks"][0]["reason"] = attack
            data["networks"][0]["id"] = attack
        else:
            data["predictor"]["words"] = attack
        path.write_text(json.dumps(data))
    held = run.path / "predict" / "held_out.jsonl"
    held.write_text(json.dumps({"code": attack, "score": 0.5, "predicted": 0.5, "std": 0.1}) + "\n")
    text = render(Findings(run)).replace(get_plotlyjs(), "")
    assert attack in Reader(text).text
    assert "<script>alert" not in text
    assert "<img" not in text


def test_doubtful_predictions_are_warned_of_once(make_run):
    run = make_run()
    path = run.path / "predict" / "trust.json"
    trust = json.loads(path.read_text())
    trust["predictor"] |= {"tau": 0.1, "low": -0.1, "high": 0.3, "words": "its ranks could be chance"}
    path.write_text(json.dumps(trust))
    assert warnings(Findings(run)).count("predictor: its ranks could be chance") == 1
    chosen = run.path / "choose" / "chosen.json"
    data = json.loads(chosen.read_text())
    data["warnings"].append("predictor: its ranks could be chance")
    chosen.write_text(json.dumps(data))
    assert sum("could be chance" in text for text in warnings(Findings(run))) == 1


def test_a_chosen_network_that_was_stopped_is_told(make_run):
    run = make_run()
    path = run.path / "choose" / "chosen.json"
    data = json.loads(path.read_text())
    next(n for n in data["networks"] if n["chosen"])["state"] = "stopped"
    path.write_text(json.dumps(data))
    assert any("stopped early" in text for text in warnings(Findings(run)))


def test_a_space_that_is_gone_leaves_a_report(make_run):
    run = make_run()
    path = run.path / "config.yaml"
    path.write_text(path.read_text().replace("name: nasbench201", "name: forgotten"))
    text = Reader(render(Findings(Run.open(run.path)))).text
    assert "They cannot be drawn" in text
    assert "forgotten" in text


def test_a_damaged_file_is_named(make_run):
    run = make_run()
    (run.path / "choose" / "chosen.json").write_text("{")
    with pytest.raises(RunError, match=r"chosen\.json is damaged"):
        write_report(run)
