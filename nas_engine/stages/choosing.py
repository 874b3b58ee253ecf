"""The choose stage: trained networks are measured, the Pareto front is formed, the test split is used once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.errors import EngineError

from ..context import Context, Summary
from ..files import Record, write_json
from ..quality import PERPLEXITY

if TYPE_CHECKING:
    from predictors.cost.measure import Measurement

    from ..config import Bound
    from ..tuning import TrialSummary

_MEASURE_SECONDS = 0.5
_TEST_BATCH = 512


class NothingTrainedError(EngineError):
    """A search in which no candidate finished an epoch."""


def choose(context: Context) -> Summary:
    """Measure every trained candidate, choose from the Pareto front; `choose/chosen.json` says why and why not."""
    from predictors.cost.measure import measure_networks

    from ..tuning import read_trials

    trials = read_trials(context.directory.path)
    judged = [t for t in trials if t.state in ("finished", "stopped") and t.accuracy is not None]
    if not judged:
        raise NothingTrainedError(
            "no candidate was trained to the end of an epoch; see the errors in search/trials.jsonl, "
            "or give the search more trials (--set search.trials=N)"
        )
    context.step("candidates measured on the device", 0, len(judged))
    graphs = [context.space.graph(context.space.decode(t.code)) for t in judged]
    whole = context.space.reference
    if whole is not None:
        graphs.append(context.space.graph(whole))
    # in turns, so that what disturbs the machine disturbs all candidates alike
    latencies = measure_networks(graphs, context.latency.profile, seconds=_MEASURE_SECONDS)
    reference = _reference(context, latencies.pop()) if whole is not None else {}
    rows = [_row(context, trial, latency) for trial, latency in zip(judged, latencies, strict=True)]
    bounds = context.config.resolved(reference).bounds
    missed = _mark(context, rows, bounds)
    _test(context, rows)
    dropped = [
        {"trial": t.number, "code": t.code, "state": t.state, "reason": t.error or t.state}
        for t in trials
        if t not in judged
    ]
    believed = _trust(context, rows)
    chosen = [r for r in rows if r["chosen"]]
    write_json(context.path("choose", "trust.json"), believed)
    write_json(
        context.path("choose", "chosen.json"),
        {
            "networks": rows,
            "dropped": dropped,
            "objectives": context.config.objectives,
            "constraints": [str(b) for b in bounds],
            "reference": reference,
            "validation_images": len(context.data.validation),
            "test_images": len(context.data.test),
            "warnings": [*context.warnings, *missed],
        },
    )
    best = max(chosen, key=lambda r: r["accuracy"])
    quality = context.data.quality
    reached = quality.told(best["test_accuracy"])
    text = f"{len(chosen)} of {len(rows)} networks; best {reached} on the test {quality.cases}"
    if reference:
        text += f", latency {best['latency_ms'] / reference['latency_ms']:.2f}x of the uncut network"
    return {"chosen": [r["trial"] for r in chosen], "text": text}


def _reference(context: Context, latency: Measurement) -> dict[str, float]:
    """What relative bounds are of: costs of the network before the cut, its latency measured beside the candidates."""
    done = context.directory.done("device") or {}
    return {**(done.get("reference") or {}), "latency_ms": latency.median_ms}


def _row(context: Context, trial: TrialSummary, latency: Measurement) -> dict[str, Any]:
    """One trained candidate with its costs; latency measured now, beside what was predicted."""
    architecture = context.space.decode(trial.code)
    graph = context.space.graph(architecture)
    costs = {name: model.cost(graph) for name, model in context.costs.items()}
    believed = context.table.lookup(architecture)
    return {
        "trial": trial.number,
        "code": trial.code,
        "id": architecture.id,
        "state": trial.state,
        "epochs": trial.epochs,
        "accuracy": trial.accuracy,
        "loss": trial.loss,
        **costs,
        "latency_ms": latency.median_ms,
        "latency_spread_ms": latency.iqr_ms,
        "latency_ms_predicted": costs["latency_ms"],
        "accuracy_predicted": believed.get("accuracy"),
        "accuracy_predicted_std": believed.get("accuracy_std"),
        "test_accuracy": None,
    }


def _mark(context: Context, rows: list[dict[str, Any]], bounds: Sequence[Bound]) -> list[str]:
    """Set bounds_met, pareto, chosen and reason in every row; returns warnings."""
    objectives = context.config.objectives
    for row in rows:
        broken = [b for b in bounds if not b.holds(row[b.metric])]
        row["bounds_met"] = not broken
        row["reason"] = "; ".join(f"measured {b.metric} {row[b.metric]:.4g} breaks {b}" for b in broken)
    eligible = [r for r in rows if r["bounds_met"]]
    warnings = []
    if not eligible:
        eligible = [min(rows, key=lambda r: max(b.excess(r[b.metric]) for b in bounds))]
        warnings.append(
            f"no trained network meets {' and '.join(map(str, bounds))} when measured; the nearest one is handed over. "
            "Loosen the bound or give the search more trials"
        )
        context.warn(warnings[0])
    for row in rows:
        row["pareto"] = row in eligible and not any(dominates(o, row, objectives) for o in eligible)
    front = sorted((r for r in rows if r["pareto"]), key=lambda r: -r["accuracy"])
    chosen = spread(front, context.config.export.networks)
    for row in rows:
        row["chosen"] = row in chosen
        row["reason"] = row["reason"] or _reason(row, eligible, objectives)
    return warnings


def _reason(row: dict[str, Any], rivals: list[dict[str, Any]], objectives: Mapping[str, str]) -> str:
    if row["chosen"]:
        return "on the front of measured accuracy and cost"
    if row["pareto"]:
        return "on the front, but others were spread wider over it"
    rival = next(o for o in rivals if dominates(o, row, objectives))
    return f"trial {rival['trial']} is at least as good in {', '.join(objectives)} and better in one"


def dominates(a: dict[str, Any], b: dict[str, Any], objectives: Mapping[str, str]) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better; ties in all go to the earlier trial."""
    signs = {name: 1.0 if direction == "max" else -1.0 for name, direction in objectives.items()}
    gaps = [sign * (a[name] - b[name]) for name, sign in signs.items()]
    if all(g == 0 for g in gaps):
        return bool(a["trial"] < b["trial"])
    return all(g >= 0 for g in gaps)


def spread(front: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Up to `count` rows of a front sorted by accuracy: the most accurate one, then evenly down the front."""
    places = np.linspace(0, len(front) - 1, min(count, len(front)))
    return [front[i] for i in dict.fromkeys(round(p) for p in places.tolist())]


def _test(context: Context, rows: list[dict[str, Any]]) -> None:
    """The only place that sees the test split: the accuracy of the chosen networks."""
    from ..evaluate import judge
    from ..train import load_candidate

    for row in rows:
        if row["chosen"]:
            network, _ = load_candidate(context.space, row["code"], context.trial_path(row["trial"]))
            device = context.config.device.name
            text = context.data.quality is PERPLEXITY
            size = 1 if text else _TEST_BATCH  # of a text: exactly, all of it in one stream
            judged = judge(network.to(device), context.data, context.data.test, batch_size=size, device=device)
            row["test_accuracy"] = judged.accuracy


def _trust(context: Context, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rank correlation of beliefs with really trained accuracies.

    Trials are compared after `search.grace_epochs` epochs, which all of them reached: comparing final
    accuracies would compare trainings of different lengths, or only those that early stopping let live.
    """
    from predictors import trust
    from predictors.ranking import FEW

    from ..tuning import MemberJob, score_members

    grace = context.config.search.grace_epochs
    reached = {
        e["trial"]: e["accuracy"]
        for e in Record(context.path("search", "trials.jsonl")).rows
        if e.get("epoch") == grace
    }
    trained = [r for r in rows if r["trial"] in reached and r["accuracy_predicted"] is not None]
    if len(trained) < 4:
        return {}
    truth = np.array([reached[r["trial"]] for r in trained])
    scores: dict[str, float] = {}
    job = MemberJob.of(context.config, context.space, context.directory.path, workers=1)
    score_members(job, [r["code"] for r in trained], lambda code, s: scores.update({code: s["accuracy"]}), context.stop)
    beliefs = {
        "supernet": [scores.get(r["code"], float("nan")) for r in trained],
        "predictor": [r["accuracy_predicted"] for r in trained],
    }
    verdicts = {n: trust(truth, np.array(b), rng=context.rng("trained")) for n, b in beliefs.items()}
    for name, verdict in verdicts.items():
        if verdict.low_trust and verdict.n >= FEW:  # of fewer the report tells, but nothing can be concluded
            context.warn(f"{name} against trained candidates: {verdict.words}")
    return {name: verdict.to_dict() for name, verdict in verdicts.items()}
