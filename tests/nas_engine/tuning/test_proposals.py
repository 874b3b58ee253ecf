"""What is trained, what is turned away, and what the sampler is told; searches run on recorded accuracies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from nas_engine.config import Bound
from nas_engine.tuning import SearchJob, architecture_of, read_trials, recorded, search_recorded
from nas_engine.tuning.history import Trial
from nas_engine.tuning.study import STUDY, Database, Judge, storage_of
from search_spaces import EngineError, SearchSpace
from search_spaces.errors import UnsatisfiableError

Jobs = Callable[..., SearchJob]
Curves = Callable[[str], list[float]]
Events = Callable[[Path], list[dict[str, Any]]]
CHEAP = "params <= 1300"  # about one member in four


def stored(job: SearchJob) -> optuna.Study:
    path = job.folder / "optuna.journal"
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    return optuna.load_study(study_name=STUDY, storage=storage)


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_only_new_members_that_meet_the_bounds_are_trained(
    job: Jobs, accuracies: Curves, events: Events, space: SearchSpace, sampler: str
) -> None:
    made = job(sampler=sampler, trials=8, constraints=[CHEAP])
    outcome = search_recorded(made, recorded(accuracies))
    assert outcome.state == "finished"
    asked = [e for e in events(made.directory) if e["event"] == "ask"]
    assert len(asked) == outcome.finished + outcome.stopped == 8
    assert len({e["code"] for e in asked}) == 8
    for event in asked:
        architecture = space.decode(event["code"])
        assert architecture == space.canonical(architecture_of(space, event["params"]))
        assert event["costs"] == made.costs_of(architecture)
        assert event["costs"]["params"] <= 1300


def test_turned_away_proposals_are_told_to_the_sampler(job: Jobs, accuracies: Curves, events: Events) -> None:
    made = job(trials=8, constraints=[CHEAP])
    search_recorded(made, recorded(accuracies))
    rejected = [e for e in events(made.directory) if e["event"] == "reject"]
    assert any(e["reason"].startswith("breaks params <= 1300") for e in rejected)
    study = stored(made)
    assert study.metric_names == ["accuracy", "params"]
    for event in rejected:
        trial = study.trials[event["ask"]]
        assert trial.state == optuna.trial.TrialState.COMPLETE
        assert trial.values == event["values"]
        assert (trial.constraints["params <= 1300"] > 0) == event["reason"].startswith("breaks")
    assert all(t.constraints["params <= 1300"] <= 0 for t in study.best_trials)


def test_the_study_holds_the_results(job: Jobs, accuracies: Curves) -> None:
    made = job(trials=5, constraints=["accuracy >= 0.6"])
    search_recorded(made, recorded(accuracies))
    study = stored(made)
    trials = {t.user_attrs["code"]: t for t in study.trials}
    for summary in read_trials(made.directory):
        assert trials[summary.code].values[0] == summary.accuracy
        assert (trials[summary.code].constraints["accuracy >= 0.6"] <= 0) == (summary.accuracy >= 0.6)


def test_a_repeated_proposal_gets_the_value_of_the_first(job: Jobs, accuracies: Curves, events: Events) -> None:
    made = job(sampler="nsga2", trials=12)
    search_recorded(made, recorded(accuracies))
    results = {t.number: t.accuracy for t in read_trials(made.directory)}
    repeated = [e for e in events(made.directory) if e["event"] == "reject"]
    assert repeated
    for event in repeated:
        assert event["values"][0] == results[int(event["reason"].removeprefix("is trial "))]


def test_bounds_nothing_can_meet(job: Jobs, accuracies: Curves, tiny: SearchSpace) -> None:
    made = job(over=tiny, constraints=["params <= 10"])
    least = min(made.costs_of(a)["params"] for a in tiny.enumerate())
    said = f"no member was found that meets params <= 10; the nearest one has params {least:.4g}"
    with pytest.raises(UnsatisfiableError, match=said):
        search_recorded(made, recorded(accuracies))
    assert read_trials(made.directory) == []


@pytest.mark.parametrize("with_table", [False, True])
def test_a_search_ends_when_nothing_new_meets_the_bounds(
    job: Jobs, accuracies: Curves, tiny: SearchSpace, write_table: Callable[..., Path], with_table: bool
) -> None:
    costs = {a.code: job(over=tiny).costs_of(a)["params"] for a in tiny.enumerate()}
    limit = sorted(costs.values())[7]
    feasible = {code for code, value in costs.items() if value <= limit}
    settings = {"trials": 40, "epochs": 1, "grace_epochs": 1, "constraints": [f"params <= {limit}"]}
    made = job(over=tiny, sampler="predicted" if with_table else "random", **settings)
    if with_table:
        write_table(made)
    outcome = search_recorded(made, recorded(accuracies))
    assert outcome.state == "exhausted"
    assert {t.code for t in read_trials(made.directory)} == feasible
    assert search_recorded(made, recorded(accuracies)) == outcome


def test_help_for_a_sampler_comes_from_the_table_first(
    job: Jobs, accuracies: Curves, tiny: SearchSpace, write_table: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sampler that finds nothing feasible: the table's best feasible rows are trained, best first."""
    monkeypatch.setattr("nas_engine.tuning.proposals.REJECTIONS", 0)
    limit = sorted(job(over=tiny).costs_of(a)["params"] for a in tiny.enumerate())[9]
    made = job(over=tiny, trials=4, constraints=[f"params <= {limit}"])
    write_table(made)
    search_recorded(made, recorded(accuracies))
    feasible = [a.code for a in tiny.enumerate() if made.costs_of(a)["params"] <= limit]
    best = sorted(feasible, key=lambda code: -accuracies(code)[-1])
    assert [t.code for t in read_trials(made.directory)] == best[:4]


def test_large_spaces_are_walked_from_the_best(job: Jobs, accuracies: Curves, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas_engine.tuning.proposals.REJECTIONS", 0)
    monkeypatch.setattr("nas_engine.tuning.proposals._ENUMERABLE", 0)
    made = job(trials=6, constraints=[CHEAP])
    outcome = search_recorded(made, recorded(accuracies))
    assert outcome.state == "finished"
    trials = read_trials(made.directory)
    assert all(made.costs_of(made.space.decode(t.code))["params"] <= 1300 for t in trials)


def test_failed_trials_are_left_out_and_not_repeated(job: Jobs, accuracies: Curves) -> None:
    made = job(trials=5)
    train = recorded(accuracies)

    def sometimes(trial: Trial) -> Iterator[dict[str, Any]]:
        if trial.number == 1:
            raise RuntimeError("out of memory")
        yield from train(trial)

    outcome = search_recorded(made, sometimes)
    assert (outcome.state, outcome.failed, outcome.finished + outcome.stopped) == ("finished", 1, 4)
    trials = read_trials(made.directory)
    assert (trials[1].state, trials[1].error) == ("failed", "RuntimeError: out of memory")
    assert len({t.code for t in trials}) == 5
    assert search_recorded(made, train) == outcome


def test_progress_is_told(job: Jobs, accuracies: Curves) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    made = job(trials=3, progress=lambda event, details: told.append((event, details)))
    search_recorded(made, recorded(accuracies))
    steps = [d for e, d in told if e == "step"]
    ends = [d for e, d in told if e == "trial"]
    assert steps[0]["total"] == 3
    assert [d["trial"] for d in ends] == [0, 1, 2]
    assert steps[0]["text"] == "candidates; trial 0 begins"
    assert steps[1]["text"].startswith("candidates; trial 0, epoch 1, accuracy ")
    assert all("accuracy" in d["text"] for d in ends)


def test_another_storage(job: Jobs, accuracies: Curves, tmp_path: Path, events: Events) -> None:
    """The study may live in any storage of Optuna; the record is the same."""
    search_recorded(job(trials=3), recorded(accuracies))
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    other = job(trials=3, storage=url, directory=tmp_path / "other")
    search_recorded(other, recorded(accuracies))
    assert events(other.directory) == events(tmp_path / "run")
    assert not (other.folder / "optuna.journal").exists()
    proposed = sum(e["event"] in ("ask", "reject") for e in events(other.directory))
    kept = storage_of(other.config, other.directory, url)
    assert isinstance(kept, Database)
    assert len(optuna.load_study(study_name=kept.study, storage=url).trials) == proposed


def test_a_damaged_record_is_an_error_of_one_line(job: Jobs, accuracies: Curves) -> None:
    made = job(trials=2)
    search_recorded(made, recorded(accuracies))
    path = made.folder / "trials.jsonl"
    path.write_text(path.read_text().replace('"event":"ask"', '"event":', 1))
    with pytest.raises(EngineError, match="line 1"):
        search_recorded(made, recorded(accuracies))


class TestJudge:
    judge = Judge({"params": "min", "accuracy": "max"}, tuple(map(Bound.parse, ("params < 100", "accuracy >= 0.5"))))

    def test_values_are_in_the_order_of_the_objectives(self) -> None:
        assert [d.name for d in self.judge.directions] == ["MINIMIZE", "MAXIMIZE"]
        assert self.judge.values({"params": 7}, 0.25) == [7.0, 0.25]

    def test_constraints_are_positive_where_bounds_are_broken(self) -> None:
        assert self.judge.constraints({"params": 50.0}, None) == {"params < 100": -0.5}
        assert self.judge.constraints({"params": 150.0}, 0.25) == {"params < 100": 0.5, "accuracy >= 0.5": 0.5}
        assert self.judge.constraints({"params": 100.0}, None)["params < 100"] > 0, (
            "a strict bound is broken when met exactly"
        )
