"""The device stage: what members cost on the user's device, and whether the bounds can be met, before any training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..context import Context, Summary
from ..files import write_text
from ..profile import SpaceProfile, draw, profile_space
from ..shapes import shapes_of

if TYPE_CHECKING:
    from predictors.cost import DeviceProfile, Roofline
    from predictors.cost.latency import LatencyModel
    from search_spaces import SearchSpace

    from ..config import Optimizer, Search
    from ..train import Program


def device(context: Context) -> Summary:
    """Build the latency model, profile the space, refuse bounds that cannot be met."""
    model = _latency_model(context)
    write_text(context.path("device", "latency.json"), model.to_json())
    roofline = _roofline(context, model.profile)
    write_text(context.path("device", "roofline.json"), roofline.to_json())
    reference = _reference(context, model)
    profiled = _profile(context, model, roofline, reference)
    profiled.require()
    for verdict in profiled.bounds:
        (context.warn if verdict.trivial else context.note)(verdict.words)
    summary = model.summary()
    text = f"{model.profile}; {profiled.sampled:,} members costed"
    return {
        **shapes_of(context.data),
        "class_names": list(context.data.classes),
        "data": context.data.description,
        "device": model.profile.to_dict(),
        "latency": summary,
        "roofline": roofline.summary(),
        "profile": profiled.to_dict(),
        "reference": reference,
        "text": text,
    }


def profile(context: Context) -> dict[str, Any]:
    """What `nas-engine profile` shows: the space, its costs, the bounds, and an estimate of time for each stage."""
    model = _latency_model(context)
    roofline = _roofline(context, model.profile)
    profiled = _profile(context, model, roofline, _reference(context, model))
    return {
        "space": context.config.space.name,
        "size": profiled.size,
        "distinct_sampled": profiled.sampled,
        "profile": profiled.to_dict(),
        "stages": estimate(context),
        "device": model.profile.to_dict(),
        "latency": model.summary(),
        "roofline": roofline.summary(),
    }


def _latency_model(context: Context) -> LatencyModel:
    from predictors.cost.device import DeviceProfile
    from predictors.cost.latency import LatencyModel

    section = context.config.device
    described = DeviceProfile.detect(
        runtime=section.runtime, device=section.name, threads=section.threads, batch=section.batch
    )
    context.step(f"latency of operators on {described}", 0, None)
    return LatencyModel.build(
        context.space,
        described,
        seconds=section.measure_seconds,
        rng=context.rng("device"),
        progress=lambda share, text: context.step(f"{text} (%)", round(100 * share), 100),
    )


def _roofline(context: Context, described: DeviceProfile) -> Roofline:
    """The device's rates, by which networks are explained; what is measured is kept for later runs on the device."""
    from predictors.cost import Roofline

    context.step("rates of the device", 0, None)
    seconds = _ROOFLINE_SHARE * context.config.device.measure_seconds
    return Roofline.measure(described, seconds=seconds, rng=context.rng("roofline"))


_ROOFLINE_SHARE = 0.1  # of the seconds granted for measuring, on top of them


def _reference(context: Context, model: LatencyModel) -> dict[str, float] | None:
    """What the member costs that relative bounds refer to, latency by the run's own model; None where there is none."""
    from predictors.cost import make_cost_model

    member = context.space.reference
    if member is None:
        return None
    graph = context.space.graph(member)
    models = {n: model if n == "latency_ms" else make_cost_model(n) for n in context.config.costs}
    return {name: float(m.cost(graph)) for name, m in models.items()}


def _profile(
    context: Context, model: LatencyModel, roofline: Roofline, reference: Mapping[str, float] | None
) -> SpaceProfile:
    from predictors.cost import make_cost_model

    names = [name for name in context.config.costs if name != "latency_ms"]
    if _multiplication_free(context.space):
        names = list(dict.fromkeys([*names, "adds", "shifts"]))
    models = {**{name: make_cost_model(name) for name in names}, "latency_ms": model}
    bounds = context.config.resolved(reference or {}).bounds
    return profile_space(context.space, models, bounds, context.rng("profile"), roofline=roofline)


def _multiplication_free(space: SearchSpace) -> bool:
    """Whether some member has operators that add or shift instead of multiplying, so that counting those tells."""
    from search_spaces.operators.multiplication_free import FREE

    graphs = (space.graph(architecture).inline() for architecture in islice(space.envelope(), _LOOKED_AT))
    return any(node.operator in FREE for graph in graphs for node in graph.nodes)


_LOOKED_AT = 200  # members of the envelope


def estimate(context: Context) -> list[dict[str, Any]]:
    """Seconds each stage will take, from a few timed steps on random weights that are then thrown away."""
    config = context.config
    step, score, candidate = _timed(context)
    steps, trial_steps = (_steps(context, section.optimizer) for section in (config.supernet, config.search))
    members = min(config.sample.architectures, context.space.size)
    rungs = _expected_epochs(config.search)
    rows = context.space.size if context.space.size <= config.table.whole_up_to else config.table.rows
    seconds = {
        "supernet": (config.supernet.epochs * steps * step, f"{config.supernet.epochs} epochs of {steps} steps"),
        "sample": (members * score / config.sample.workers, f"{members} members on {config.sample.workers} workers"),
        "table": (rows * _ROW_SECONDS / config.table.workers, f"up to {rows:,} rows"),
        "search": (
            config.search.trials * rungs * trial_steps * candidate / config.search.concurrency,
            f"{config.search.trials} trials, about {rungs:.0f} of {config.search.epochs} epochs each on average",
        ),
    }
    if config.baselines:
        together = config.search.epochs * trial_steps * _baseline_seconds(context) / config.search.concurrency
        scaled = " (before they are scaled)" if any(one.to for one in config.baselines) else ""
        seconds["baselines"] = (together, f"{len(config.baselines)} of {config.search.epochs} epochs{scaled}")
    return [{"stage": name, "seconds": value, "words": words} for name, (value, words) in seconds.items()]


_ROW_SECONDS = 1e-3  # order of magnitude; the table's own benchmark says more


def _timed(context: Context) -> tuple[float, float, float]:
    """Seconds of a supernet step, of scoring a member, and of a candidate's step."""
    import torch

    from search_spaces import Network, Supernet

    from ..evaluate import MemberScorer
    from ..train import NetworkProgram, supernet_program

    config, data, space = context.config, context.data, context.space
    torch.set_num_threads(config.training_threads)
    net = Supernet(space, kernel_transform=config.supernet.kernel_transform)
    program = supernet_program(net, config.seed, config.supernet.model_copy(update={"shrinking": ()}))
    step = _step_seconds(context, program, config.supernet.optimizer)
    sample = config.sample
    scorer = MemberScorer(
        net,
        data,
        batch_size=sample.batch_size,
        recalibration_batches=sample.recalibration_batches,
        images=sample.images,
        device=config.device.name,
    )
    members = draw(space, 3, context.rng("estimate"))[:3]
    torch.set_num_threads(1)
    started = time.perf_counter()
    for member in members:
        scorer.score(member)
    score = (time.perf_counter() - started) / len(members)
    torch.set_num_threads(config.search.training_threads)
    trained = [
        _step_seconds(context, NetworkProgram(Network(space.graph(m))), config.search.optimizer) for m in members
    ]
    return step, score, float(np.mean(trained))


def _baseline_seconds(context: Context) -> float:
    """Seconds of a training step of every baseline, together."""
    from search_spaces import Network

    from ..baselines import make_baseline
    from ..train import NetworkProgram

    data, optimizer = context.data, context.config.search.optimizer
    graphs = (make_baseline(one, data.input_shape, len(data.classes)).graph for one in context.config.baselines)
    return sum(_step_seconds(context, NetworkProgram(Network(graph)), optimizer) for graph in graphs)


def _step_seconds(context: Context, program: Program, optimizer: Optimizer, steps: int = 4) -> float:
    """Mean seconds of a training step; a first one, which warms up, is not counted."""
    from ..train import train

    for count in (1, steps):
        few = context.data.beginning(optimizer.batch_size, count)
        (epoch,) = train(program, few, optimizer, epochs=1, seed=0, device=context.config.device.name)
    return epoch.seconds / len(few.epoch(optimizer.batch_size, seed=0, epoch=0))


def _steps(context: Context, optimizer: Optimizer) -> int:
    """Training steps of an epoch."""
    return len(context.data.epoch(optimizer.batch_size, seed=0, epoch=0))


def _expected_epochs(search: Search) -> float:
    """Mean epochs of a trial: with `asha` one of `reduction` goes on at each rung, with `front` all may."""
    if search.stopping != "asha":
        return search.epochs
    epochs, reduction = search.epochs, search.reduction
    total, share, reached = 0.0, 1.0, 0
    rung = search.grace_epochs
    while rung < epochs:
        total += share * (rung - reached)
        reached, share, rung = rung, share / reduction, rung * reduction
    return total + share * (epochs - reached)
