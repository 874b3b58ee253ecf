"""The way a search flows, from data to exported networks.

Measure the device, train shared weights, score some members with them, fit a predictor to these noisy scores,
predict and cost the whole space, train the most promising candidates for real, choose among what was
measured, export, train the networks of others for comparison, report. Each stage is one function of `stages`; it
reads and writes files of the run directory and is skipped when it is done and nothing it depends on has changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.errors import EngineError

from . import stages
from .config import Config
from .context import Context, Summary
from .files import Progress
from .interrupt import never
from .progress import silent
from .run import STAGES, Run


class Interrupted(EngineError):
    """The user asked a run to stop; everything done so far is kept."""

    exit_code = 130


@dataclass(frozen=True)
class Stage:
    """A stage's work, the configuration sections it depends on, and whether what it left is enough."""

    work: Callable[[Context], Summary]
    sections: tuple[str, ...]
    title: str
    enough: Callable[[Config, Summary], bool] = lambda config, done: True


def _same_bounds(config: Config, done: Summary) -> bool:
    """Whether the device stage has judged the bounds that are asked for now."""
    asked = [str(b.resolved(done.get("reference") or {})) for b in config.bounds if b.metric != "accuracy"]
    return [b["bound"] for b in done["profile"]["bounds"]] == asked


FLOW: dict[str, Stage] = {
    "device": Stage(
        stages.device,
        ("data", "space", "device", "seed"),
        "measure the device, check the bounds",
        _same_bounds,
    ),
    "supernet": Stage(stages.supernet, ("supernet",), "train the shared weights"),
    "sample": Stage(stages.sample, ("sample",), "score members with the shared weights"),
    "predict": Stage(stages.predict, ("predictor",), "fit the predictor to the scores"),
    "table": Stage(stages.table, ("table",), "predict and cost the space"),
    "search": Stage(
        stages.search,
        ("search", "objectives", "constraints"),
        "train candidates",
        lambda config, done: done["trials"] >= config.search.trials or done["exhausted"],
    ),
    "choose": Stage(stages.choose, ("export",), "choose by what was measured"),
    "export": Stage(stages.export, ("export",), "export and verify"),
    "baselines": Stage(
        stages.baselines,
        (),
        "train the networks of others for comparison",
        lambda config, done: stages.is_answered(config.baselines, done),
    ),
    "report": Stage(stages.report, (), "write the report", lambda config, done: False),
}

# what changes how long a stage takes or how much of it is done, but not what its results are worth
_FREE: dict[str, dict[str, tuple[str, ...]]] = {
    "supernet": {"supernet": ("processes",)},
    "sample": {"sample": ("workers", "gpus")},
    "table": {"table": ("workers",)},
    "search": {"search": ("trials", "concurrency", "max_failures", "gpus", "storage")},
    "choose": {"export": ("formats",)},
    "export": {"export": ("networks",)},
}


def run_pipeline(
    config: Config,
    *,
    progress: Progress = silent,
    stop: Callable[[], bool] = never,
    until: str = STAGES[-1],
    address: str | None = None,
) -> Run:
    """Run or continue a search.

    Args:
        config: what is asked for; the run lives in `config.directory`, or under `config.uri`.
        progress: listens to events, see `nas_engine.progress`.
        stop: asked between pieces of work; once true, the run ends cleanly with `Interrupted`.
        until: the last stage to run; all of them by default.
        address: of a Ray cluster to work on, joined before anything else; see `tuning.cluster.start`.

    Raises:
        ClusterError: the cluster cannot be joined, or its nodes cannot do this work.
        ConfigError, SpaceError, DataError: an unknown name or setting; told before the directory is touched.
        RunError: the directory is locked or belongs to another configuration.
        UnsatisfiableError: no member can meet the bounds; told before anything is trained.
        Interrupted: `stop` became true; the same call continues.
    """
    context = Context(config, progress, stop)
    context.check_names()
    join_cluster(address)
    directory = context.directory
    with directory.locked(context.note):
        context.progress = directory.publishing(progress)
        directory.check({name: inputs(context, name) for name in STAGES})
        directory.create(config)
        for name, stage in FLOW.items():
            done = directory.done(name)
            if done is not None and stage.enough(config, done):
                progress("stage", {"name": name, "state": "skipped", "text": f"{stage.title}: done before"})
            else:
                _run_stage(context, name, stage, Run(directory.path, config).command_until(until))
            if name == until:
                break
    return Run(directory.path, config)


def join_cluster(address: str | None = None) -> None:
    """Join the cluster at an address or at RAY_ADDRESS; without either Ray is started where it is first needed."""
    if address or os.environ.get("RAY_ADDRESS"):
        from .tuning import cluster

        cluster.start(address=address)


def _run_stage(context: Context, name: str, stage: Stage, command: str) -> None:
    directory = context.directory
    context.progress("stage", {"name": name, "state": "start", "text": stage.title})
    directory.begin(name, inputs(context, name))
    started = time.perf_counter()
    try:
        summary = stage.work(context)
        if context.stop():
            raise Interrupted(f"stopped in stage {name!r}; go on with: {command}")
    except BaseException:
        directory.interrupted(name, time.perf_counter() - started)
        raise
    directory.end(name, summary, time.perf_counter() - started)
    context.progress("stage", {"name": name, "state": "done", "text": summary.get("text", "")})


def inputs(context: Context, name: str) -> dict[str, Any]:
    """What a stage's results depend on, beside the results of the stages before it."""
    dumped = context.config.model_dump(mode="json")
    chosen = {key: dumped[key] for key in FLOW[name].sections}
    for section, keys in _FREE.get(name, {}).items():
        chosen[section] = {key: value for key, value in chosen[section].items() if key not in keys}
    if name == "device":
        chosen["data"] = {**chosen["data"], "fingerprint": context.data.fingerprint}
    if name == "supernet" and context.space.pretrained:
        chosen["weights"] = stages.fingerprint(dumped["space"].get("weights"))
    if name == "sample" and context.config.sample.strategy == "segments":  # which asks a predictor what to score
        chosen["predictor"] = dumped["predictor"]
    return chosen


def profile(config: Config, *, progress: Progress = silent) -> dict[str, Any]:
    """Size of the space, costs, verdicts of the bounds and an estimate of time, with no training.

    Nothing is written but the device's latency table in the user's cache.
    """
    context = Context(config, progress)
    context.check_names()
    return stages.profile(context)


def export_trial(run: Run, trial: int, directory: Path | None = None) -> Path:
    """Export the network of one trial of a run; see `Run.export`."""
    path = stages.export_one(Context(run.config), trial, directory)
    run.directory.publish_beside()
    return path
