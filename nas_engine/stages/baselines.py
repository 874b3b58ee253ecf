"""The baselines stage: networks of others, trained like the candidates and measured beside the chosen ones.

Each baseline is made once, scaled to its latency where that is asked, and trained from the beginning by the recipe of
the search. Then all are timed in turns with the chosen networks, which is what makes their latencies comparable.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search_spaces.errors import UnsatisfiableError
from search_spaces.graph import Graph
from search_spaces.scaling import DIMENSIONS, Scaling

from ..baselines import Made, Sizing, compared, make_baseline
from ..config import Baseline
from ..context import Context, Summary
from ..files import read_json, replacing, write_json, write_text
from ..show import milliseconds

if TYPE_CHECKING:
    from predictors.cost.measure import Measurement

    from ..tuning import BaselineJob
    from ..tuning.baselines import Trained

FOUND = "baselines.json"
_MEASURE_SECONDS = 0.5
_TEST_BATCH = 512
Plan = dict[str, Any]


def baselines(context: Context) -> Summary:
    """Make, train and measure what `baselines` asks for; `baselines/baselines.json` holds a row for each."""
    from ..tuning import train_baselines

    asked = [one.model_dump(mode="json") for one in context.config.baselines]
    if not asked:
        return {"asked": [], "text": "none asked for"}
    plans = []
    for i, one in enumerate(context.config.baselines):
        context.step(f"baselines made; {one}", i, len(asked))
        plans.append(_planned(context, one))
        if context.stop():
            return {}
    context.directory.publish()  # workers elsewhere fetch what was made
    job = _job(context, plans)
    trained = train_baselines(job)
    if context.stop():
        return {}
    found = _judged(context, job, plans, trained)
    write_json(context.path("baselines", FOUND), found)
    ended = sum(row["state"] == "finished" for row in found["rows"])
    text = f"{ended} of {len(asked)} baselines trained. {found['comparisons'][0]['words']}"
    return {"asked": asked, "text": text}


def is_answered(asked: Sequence[Baseline], done: Summary) -> bool:
    """Whether what the stage left is what is asked for now; the list may change when a run is over."""
    return [one.model_dump(mode="json") for one in asked] == done.get("asked")


def check_baselines(context: Context) -> None:
    """Make every baseline once, so that one that cannot be had is told before anything is trained.

    Raises:
        EngineError: naming the baseline.
    """
    done = context.directory.done("baselines")
    if done is None or not is_answered(context.config.baselines, done):
        for one in context.config.baselines:
            make_baseline(one, context.data.input_shape, len(context.data.classes))


# ---- plans ---------------------------------------------------------------------------------------------------


def _planned(context: Context, asked: Baseline) -> Plan:
    """What is to be trained for a baseline: made and written down once, `plan.json` last."""
    target = _target(context, asked)
    id = _id(asked, target)
    file = context.path("baselines", id, "plan.json")
    if file.exists():
        return dict(read_json(file))
    plan: Plan = {"id": id, "model": asked.model, "name": str(asked), "state": "ready", "reason": None}
    plan |= {"scaling": None, "target_ms": None, "scaled_predicted_ms": None, "scaled_measured_ms": None}
    try:
        made, more = _made(context, asked, id, target)
    except UnsatisfiableError as e:
        plan |= {"state": "failed", "reason": str(e)}
    else:
        plan |= more
        write_text(file.parent / "graph.json", made.graph.to_json())
        if made.initial is not None:
            _write_weights(file.parent / "initial.safetensors", made)
    write_json(file, plan)
    return plan


def _write_weights(path: Any, made: Made) -> None:
    from safetensors.torch import save_file

    with replacing(path) as file:
        save_file({name: tensor.contiguous() for name, tensor in (made.initial or {}).items()}, file)


def _id(asked: Baseline, target: Mapping[str, Any]) -> str:
    """A name for files: the model's, and a digest of all that decides what is trained."""
    described = json.dumps([asked.model_dump(mode="json"), target.get("of")], sort_keys=True)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", asked.model.rpartition(":")[2]).strip("-.")[-40:] or "model"
    return f"{name}-{hashlib.sha256(described.encode()).hexdigest()[:8]}"


def _target(context: Context, asked: Baseline) -> dict[str, Any]:
    """The latency that a baseline is brought to, and what that is of; empty where it stays as it is."""
    if asked.to is None:
        return {}
    if asked.to == "latency":
        bounds = [b for b in context.resolved.bounds if b.metric == "latency_ms" and b.operator.startswith("<")]
        tightest = min(b.value for b in bounds)
        return {"ms": tightest, "of": f"{tightest:.6g} ms", "words": f"the bound of {milliseconds(tightest)}"}
    best = max(_chosen(context), key=lambda row: row["accuracy"])
    words = f"trial {best['trial']}, which takes {milliseconds(best['latency_ms'])}"
    return {"ms": best["latency_ms"], "of": best["id"], "words": words}


def _made(context: Context, asked: Baseline, id: str, target: Mapping[str, Any]) -> tuple[Made, Plan]:
    """The network, and what its plan says of how it was scaled."""
    from predictors.cost.measure import measure_networks
    from search_spaces.scaling.forms import make_rule

    from ..tuning.baselines import seed_of

    shape, classes = context.data.input_shape, len(context.data.classes)
    if not target:
        return make_baseline(asked, shape, classes, seed=seed_of(context.config, id)), {}

    def make(scaling: Scaling) -> Graph:
        return make_baseline(asked, shape, classes, more=scaling).graph

    own = [context.space.graph(context.space.decode(row["code"])) for row in _chosen(context)]

    def measure(graph: Graph) -> float:  # in turns with the chosen networks, as it will be judged: caches are shared
        return measure_networks([graph, *own], context.latency.profile, seconds=_MEASURE_SECONDS)[0].median_ms

    sized = Sizing(make_rule(asked.rule), make, context.latency.cost, measure).to(target["ms"])
    bare = ", ".join([asked.model, *asked.model_copy(update={"to": None}).changes])
    told = {
        "name": ", ".join([bare, *_multipliers(sized.scaling)]),
        "scaling": {name: getattr(sized.scaling, name) for name in DIMENSIONS},
        "target_ms": target["ms"],
        "target": target["words"],
        "scaled_predicted_ms": sized.predicted_ms,
        "scaled_measured_ms": sized.measured_ms,
    }
    return Made(sized.graph), told


def _multipliers(scaling: Scaling) -> list[str]:
    """Multipliers other than 1, in words."""
    found = {name: getattr(scaling, name) for name in DIMENSIONS}
    return [f"{name} x{value:.3g}" for name, value in found.items() if value != 1]


def _chosen(context: Context) -> list[dict[str, Any]]:
    return [row for row in read_json(context.path("choose", "chosen.json"))["networks"] if row["chosen"]]


# ---- training and judging --------------------------------------------------------------------------------------


def _job(context: Context, plans: Sequence[Plan]) -> BaselineJob:
    from ..tuning import BaselineJob

    names = {plan["id"]: plan["name"] for plan in plans if plan["state"] == "ready"}
    return BaselineJob(context.resolved, context.directory.path, names, context.stop, context.progress)


def _judged(
    context: Context, job: BaselineJob, plans: Sequence[Plan], trained: Mapping[str, Trained]
) -> dict[str, Any]:
    """A row for each baseline and the chosen networks beside them, all timed in turns."""
    from predictors.cost.measure import measure_networks

    chosen = _chosen(context)
    ended = [plan for plan in plans if plan["id"] in trained and trained[plan["id"]].state == "finished"]
    graphs = {plan["id"]: Graph.from_json(job.file(plan["id"], "graph.json").read_text()) for plan in ended}
    own = [context.space.graph(context.space.decode(row["code"])) for row in chosen]
    context.step("baselines measured on the device, beside the chosen networks", 0, len(graphs) + len(own))
    times = measure_networks([*own, *graphs.values()], context.latency.profile, seconds=_MEASURE_SECONDS)
    measured = dict(zip(graphs, times[len(own) :], strict=True))
    rows = []
    for i, plan in enumerate(plans):
        row = {**plan, **_ended(plan, trained.get(plan["id"]))}
        if plan["id"] in graphs:
            context.step("baselines judged on the test part", i, len(plans))
            row |= _figures(context, graphs[plan["id"]], measured[plan["id"]])
            row["test_accuracy"] = _tested(context, plan["id"])
        rows.append(row)
    networks = [{**row, **_latency(time)} for row, time in zip(chosen, times, strict=False)]
    images = len(context.data.test)
    return {
        "rows": rows,
        "networks": [{k: n[k] for k in _SHOWN} for n in networks],
        "comparisons": [c.to_dict() for c in compared(networks, rows, images)],
        "test_images": images,
        "validation_images": len(context.data.validation),
        "warnings": _warned(context, rows),
    }


_SHOWN = (
    "trial", "id", "accuracy", "test_accuracy", "latency_ms", "latency_spread_ms", "latency_ms_predicted",
    "params", "macs",
)  # fmt: skip


def _ended(plan: Plan, one: Trained | None) -> dict[str, Any]:
    """How the training of a baseline ended."""
    nothing = {"epochs": 0, "accuracy": None, "loss": None, "test_accuracy": None, "seconds": 0.0}
    if one is None or not one.epochs:
        return {**nothing, **({} if one is None else {"state": one.state, "reason": one.error})}
    last, seconds = one.epochs[-1], sum(e["seconds"] for e in one.epochs)
    more = {"epochs": len(one.epochs), "accuracy": last["accuracy"], "loss": last["loss"], "seconds": seconds}
    return {**nothing, **more, "state": one.state, "reason": one.error}


def _figures(context: Context, graph: Graph, time: Measurement) -> dict[str, Any]:
    costs = {name: float(model.cost(graph)) for name, model in context.costs.items()}
    figures = {**costs, **_latency(time), "latency_ms_predicted": costs["latency_ms"]}
    bounds = [b for b in context.resolved.bounds if b.metric != "accuracy"]
    return {**figures, "bounds_met": all(b.holds(figures[b.metric]) for b in bounds)}


def _latency(time: Measurement) -> dict[str, float]:
    return {"latency_ms": time.median_ms, "latency_spread_ms": time.iqr_ms}


def _tested(context: Context, id: str) -> float:
    """Accuracy on the test part; a baseline is not chosen, so looking does no harm."""
    from ..evaluate import judge
    from ..train import load_given

    device = context.config.device.name
    folder = context.path("baselines", id)
    network = load_given(folder / "graph.json", context.directory.fetch("baselines", id, "checkpoint.pt"))
    part = context.data.test
    return judge(network.to(device), context.data, part, batch_size=_TEST_BATCH, device=device).accuracy


def _warned(context: Context, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    warnings = [f"baseline {r['name']} {r['state']}: {r['reason']}" for r in rows if r["state"] != "finished"]
    for text in warnings:
        context.warn(text)
    return warnings
