"""The sampler over the lookup table, in plain Optuna studies and in searches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest

from nas_engine.config import Bound
from nas_engine.tuning import (
    PredictedSampler,
    SearchJob,
    architecture_of,
    distributions,
    read_trials,
    recorded,
    search_recorded,
)
from nas_engine.tuning.sampling import Told
from nas_engine.tuning.sampling.predicted import _Rows
from predictors.table import LookupTable, pareto
from search_spaces import SearchSpace

Jobs = Callable[..., SearchJob]
Curves = Callable[[str], list[float]]
Write = Callable[..., Path]
BOTH = {"accuracy": "max", "params": "min"}


def codes(study: optuna.Study, space: SearchSpace, count: int) -> list[str]:
    """The next proposals of a study; all told."""
    found = []
    for _ in range(count):
        trial = study.ask(distributions(space))
        found.append(architecture_of(space, trial.params).code)
        study.tell(trial, [0.0] * len(study.directions))
    return found


def test_without_doubt_or_costs_the_best_rows_come_first(
    job: Jobs, accuracies: Curves, write_table: Write, tiny: SearchSpace
) -> None:
    path = write_table(job(over=tiny))
    study = optuna.create_study(direction="maximize", sampler=PredictedSampler(tiny, path))
    ranked = sorted((a.code for a in tiny.enumerate()), key=lambda code: -accuracies(code)[-1])
    assert codes(study, tiny, 10) == ranked[:10]


def test_a_bad_row_of_large_error_is_not_taken_for_the_best(tiny: SearchSpace) -> None:
    sampler = PredictedSampler(tiny, "not read")
    known = sorted(a.code for a in tiny.enumerate())[:3]
    accuracy, std = np.array([0.9, 0.89, 0.5]), np.array([0.01, 0.01, 0.5])
    sampler.__dict__["_rows"] = _Rows(np.array(known, dtype="S"), accuracy, std, np.zeros((3, 0)))
    nothing = Told(0, [], np.zeros((0, 1)), np.zeros(0, dtype=bool), [])
    proposed = [sampler.propose(nothing, np.random.default_rng(i)) for i in range(100)]
    assert {a.code for a in proposed if a is not None} == set(known[:2])


def test_doubt_spreads_proposals_and_seeds_differ(job: Jobs, write_table: Write, tiny: SearchSpace) -> None:
    path = write_table(job(over=tiny), std=0.2)
    runs = [
        codes(optuna.create_study(direction="maximize", sampler=PredictedSampler(tiny, path, seed=seed)), tiny, 8)
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_rows_are_proposed_in_proportion_to_being_best(job: Jobs, write_table: Write, tiny: SearchSpace) -> None:
    """Two rows stand out, equal in doubt, one standard deviation of their difference apart: P(best) = Phi(1) = .841."""
    one, other = [a.code for a in tiny.enumerate()][:2]
    means = {one: 10.0, other: 10.0 - np.sqrt(2) * 0.5}
    path = write_table(job(over=tiny), std=0.5, accuracy=lambda code: means.get(code, 0.0))
    first = []
    table = LookupTable.open(path)
    for seed in range(400):
        study = optuna.create_study(direction="maximize", sampler=PredictedSampler(tiny, table, seed=seed))
        first += codes(study, tiny, 1)
    assert set(first) == {one, other}
    assert first.count(one) / len(first) == pytest.approx(0.841, abs=0.06)


def test_without_doubt_two_objectives_give_the_front(job: Jobs, write_table: Write, tiny: SearchSpace) -> None:
    path = write_table(job(over=tiny))
    rows = LookupTable.open(path).query()
    front = set(rows["code"][pareto(np.column_stack([-rows["accuracy"], rows["params"]]))])
    for seed in range(20):
        sampler = PredictedSampler(tiny, path, objectives=BOTH, seed=seed)
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        assert codes(study, tiny, 1)[0] in front


def test_weights_walk_along_the_front(job: Jobs, write_table: Write, tiny: SearchSpace) -> None:
    path = write_table(job(over=tiny))
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=PredictedSampler(tiny, path, objectives=BOTH)
    )
    params = {row.code: row.params for row in LookupTable.open(path).query().itertuples()}
    found = [params[code] for code in codes(study, tiny, 12)]
    spread = (max(found) - min(found)) / (max(params.values()) - min(params.values()))
    assert spread > 0.5


def test_every_row_within_the_bounds_once_and_no_other(job: Jobs, write_table: Write, tiny: SearchSpace) -> None:
    made = job(over=tiny)
    path = write_table(made, std=0.1)
    limit = sorted(made.costs_of(a)["params"] for a in tiny.enumerate())[20]
    feasible = {a.code for a in tiny.enumerate() if made.costs_of(a)["params"] <= limit}
    bounds = [Bound.parse(f"params <= {limit}"), Bound.parse("accuracy >= 0.99")]
    study = optuna.create_study(direction="maximize", sampler=PredictedSampler(tiny, path, bounds=bounds))
    found = codes(study, tiny, len(feasible))
    assert set(found) == feasible
    assert len(found) == len(feasible)
    codes(study, tiny, 2)  # then anything goes


def test_concurrent_proposals_differ(job: Jobs, write_table: Write, tiny: SearchSpace) -> None:
    path = write_table(job(over=tiny))
    study = optuna.create_study(direction="maximize", sampler=PredictedSampler(tiny, path))
    running = [study.ask(distributions(tiny)) for _ in range(8)]
    assert len({architecture_of(tiny, t.params).code for t in running}) == 8


def test_a_study_goes_on_as_if_it_had_not_been_interrupted(job: Jobs, write_table: Write, tiny: SearchSpace) -> None:
    path = write_table(job(over=tiny), std=0.2)

    def make() -> PredictedSampler:
        return PredictedSampler(tiny, path, objectives=BOTH, seed=4)

    whole = optuna.create_study(directions=["maximize", "minimize"], sampler=make())
    part = optuna.create_study(directions=["maximize", "minimize"], sampler=make())
    expected = codes(whole, tiny, 12)
    found = codes(part, tiny, 5)
    part.sampler = make()
    assert found + codes(part, tiny, 7) == expected


def test_in_a_study_of_somebody_else(job: Jobs, write_table: Write, tiny: SearchSpace) -> None:
    """Define-by-run, with a parameter that is no choice of the space."""
    path = write_table(job(over=tiny))
    study = optuna.create_study(direction="maximize", sampler=PredictedSampler(tiny, path))

    def objective(trial: optuna.Trial) -> float:
        params = {c.name: trial.suggest_categorical(c.name, c.options) for c in tiny.choices}
        rate = trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)
        return sum(architecture_of(tiny, params).indices) + rate

    study.optimize(objective, n_trials=6)
    assert len({t.params["learning_rate"] for t in study.trials}) == 6
    assert len({architecture_of(tiny, t.params).code for t in study.trials}) == 6


def test_rows_without_figures_are_passed_over(job: Jobs, write_table: Write, tiny: SearchSpace) -> None:
    codes_of = [a.code for a in tiny.enumerate()]
    nan = float("nan")
    path = write_table(job(over=tiny), accuracy=lambda code: 0.5 if code == codes_of[3] else nan)
    study = optuna.create_study(direction="maximize", sampler=PredictedSampler(tiny, path))
    assert codes(study, tiny, 1) == [codes_of[3]]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_search_with_the_table_rejects_nothing(
    job: Jobs, accuracies: Curves, write_table: Write, concurrency: int
) -> None:
    made = job(sampler="predicted", trials=6, concurrency=concurrency, constraints=["params <= 1300"])
    write_table(made, std=0.02)
    outcome = search_recorded(made, recorded(accuracies))
    assert outcome.state == "finished"
    assert "reject" not in (made.folder / "trials.jsonl").read_text()
    assert len(read_trials(made.directory)) == 6


def test_the_table_beats_chance(job: Jobs, accuracies: Curves, write_table: Write, tmp_path: Path) -> None:
    """With a table of the right figures the very first trials are the best there are."""
    objective = {"accuracy": "max"}
    guided = job(sampler="predicted", objectives=objective, trials=3, directory=tmp_path / "guided")
    blind = job(sampler="random", objectives=objective, trials=3, directory=tmp_path / "blind")
    write_table(guided)
    for made in (guided, blind):
        search_recorded(made, recorded(accuracies))
    best, chance = (max(t.accuracy or 0 for t in read_trials(made.directory)) for made in (guided, blind))
    assert best > chance
    assert best == max(accuracies(a.code)[-1] for a in map(guided.space.canonical, guided.space.enumerate()))
