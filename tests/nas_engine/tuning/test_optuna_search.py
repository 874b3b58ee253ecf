"""Samplers through Ray Tune's own `OptunaSearch`, without a cluster: it is asked and told as a Tuner would do it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nas_engine.tuning import SamplerSettings, SearchJob, architecture_of, cluster, distributions, make_sampler
from search_spaces import SearchSpace

TRIALS = 12
OBJECTIVES = {"accuracy": "max", "params": "min"}


def run(name: str, job: SearchJob, table: Path) -> list[dict[str, object]]:
    """The proposals of a search of two objectives."""
    cluster.quiet_ray()
    from ray.tune.search.optuna import OptunaSearch

    settings = SamplerSettings(job.space, seed=1, objectives=OBJECTIVES, trials=TRIALS, table=table, costs=job.costs_of)
    search = OptunaSearch(
        space=distributions(job.space),
        metric=list(OBJECTIVES),
        mode=list(OBJECTIVES.values()),
        sampler=make_sampler(name, settings),
    )
    proposed = []
    for number in range(TRIALS):
        params = search.suggest(f"trial{number}")
        assert isinstance(params, dict)
        member = architecture_of(job.space, params)
        result = {"accuracy": 0.1 + 0.01 * sum(member.indices), **job.costs_of(member)}
        search.on_trial_complete(f"trial{number}", result)
        proposed.append(params)
    return proposed


@pytest.mark.parametrize("name", ["random", "tpe", "nsga2", "evolution", "local", "predicted"])
def test_a_sampler_works_in_ray_tunes_optuna_search(
    name: str, tiny: SearchSpace, job: Callable[..., SearchJob], write_table: Callable[..., Path]
) -> None:
    made = job(over=tiny)
    table = write_table(made, accuracy=lambda code: 0.1 + 0.01 * len(code))
    proposed = run(name, made, table)
    assert proposed == run(name, made, table), "the same seed proposes the same"
    assert all(set(params) == {choice.name for choice in tiny.choices} for params in proposed)
    if name in ("evolution", "local", "predicted"):
        codes = {architecture_of(tiny, params).code for params in proposed}
        assert len(codes) == TRIALS, "nothing is proposed twice"
