"""What lies on the disk and in the registries, as plain rows: runs, the stages of one run, registered things.

Everything here only reads, so it is safe beside a running search; a damaged run is a row that says so.
"""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from search_spaces.errors import ConfigError, EngineError, RunError, did_you_mean

from .files import Record
from .remote import uri_of
from .run import STAGES, Run

Row = dict[str, Any]


# ---- runs --------------------------------------------------------------------------------------------------


def runs(results: Path) -> list[Row]:
    """A row for each run under a directory, the last changed first.

    Keys: run, quality (what its accuracies are shown as), state (done, running, stopped, damaged), stage, networks,
    accuracy and test_accuracy of the most accurate chosen network, changed; problem where it is damaged.
    """
    found = sorted(((_changed(p.parent), p.parent) for p in results.glob("*/config.yaml")), reverse=True)
    return [{**_run(path), "changed": time.strftime("%Y-%m-%d %H:%M", time.localtime(at))} for at, path in found]


def latest(results: Path) -> Run:
    """The run under a directory that changed last.

    Raises:
        RunError: there is none.
    """
    found = [p.parent for p in results.glob("*/config.yaml")]
    if not found:
        raise RunError(f"there is no run under {str(results)!r} yet; begin with: nas-engine init")
    return Run.open(max(found, key=_changed))


def _changed(path: Path) -> float:
    """When a stage of a run last changed a file of its own."""
    files = (f for stage in STAGES for f in (path / stage).glob("*.json*"))
    return max((f.stat().st_mtime for f in files), default=(path / "config.yaml").stat().st_mtime)


def _run(path: Path) -> Row:
    row: Row = {"run": uri_of(path) or str(path), "state": "", "stage": None, "networks": None}
    row |= {"accuracy": None, "test_accuracy": None}
    try:
        run = Run.open(path)
        row["state"], row["stage"] = _state(run)
        row["quality"] = run.config.data.quality.name
        if run.directory.done("choose") is not None:
            chosen = [r for r in run.chosen["networks"] if r["chosen"]]
            best: Row = max(chosen, key=lambda r: r["accuracy"], default={})
            row.update(networks=len(chosen), accuracy=best.get("accuracy"), test_accuracy=best.get("test_accuracy"))
    except (EngineError, OSError, KeyError, TypeError) as e:
        row["state"], row["problem"] = "damaged", str(e)
    return row


def _state(run: Run) -> tuple[str, str | None]:
    """`done`, `running` or `stopped`, and the first stage that has not ended."""
    stage = next((row["stage"] for row in run.status if row["state"] != "done"), None)
    if run.directory.in_use or run.directory.is_held_elsewhere:
        return "running", stage
    return ("done", None) if stage is None else ("stopped", stage)


def stages(run: Run) -> list[Row]:
    """A row for each stage: stage, state (done, running, stopped, waiting), seconds so far, text."""
    whole, current = _state(run)
    rows = []
    for row in run.status:
        name = row["stage"]
        if row["state"] == "done":
            rows.append({**row, "text": (run.directory.done(name) or {}).get("text", "")})
        elif name == current and row["state"] == "begun":
            spent = run.directory.spent(name) or None
            rows.append({**row, "state": whole, "seconds": spent, "text": _progress(run, name)})
        else:  # also one that had begun before an earlier one was asked for more: it is repeated
            rows.append({**row, "state": "waiting", "seconds": None, "text": ""})
    return rows


def _progress(run: Run, stage: str) -> str:
    """How far a stage is that has begun, from what it has written."""
    if stage == "supernet":
        from .train.loop import finished_epochs

        checkpoint = run.directory.stage(stage) / "checkpoint.pt"
        epochs = len(finished_epochs(checkpoint)) if checkpoint.exists() else 0
        return f"{epochs} of {run.config.supernet.epochs} epochs"
    if stage == "sample":
        scored = len(Record(run.directory.stage(stage) / "scores.jsonl").rows)
        return f"{scored:,} of {run.config.sample.architectures:,} members scored"
    if stage == "search":
        from .tuning import read_trials

        trials = read_trials(run.path)
        ended = sum(t.state in ("finished", "stopped", "failed", "diverged") for t in trials)
        return f"{ended} of {run.config.search.trials} trials ended"
    if stage == "baselines":
        ended = sum(row["event"] == "end" for row in Record(run.directory.stage(stage) / "trainings.jsonl").rows)
        return f"{ended} trained of {len(run.config.baselines)}"
    return ""


def status(run: Run) -> Row:
    """Where a run is: run, state, stages, report (None before there is one), command that continues it."""
    page = run.path / "report.html"
    return {
        "run": run.location,
        "state": _state(run)[0],
        "stages": stages(run),
        "report": str(page) if page.exists() else None,
        "command": run.command,
    }


def outcome(run: Run) -> Row:
    """What a finished run found: run, quality, networks (of the front, or chosen), trained, hypervolume, baselines,
    comparisons with these, dropped, warnings, report."""
    chosen = run.chosen
    beside = run.baselines or {"rows": [], "comparisons": [], "warnings": []}
    bundles = {b["trial"]: b["path"] for b in (run.directory.done("export") or {}).get("bundles", [])}
    rows = [{**r, "bundle": bundles.get(r["trial"])} for r in chosen["networks"] if r["pareto"] or r["chosen"]]
    return {
        "run": run.location,
        "quality": run.config.data.quality.name,
        "networks": sorted(rows, key=lambda r: -r["accuracy"]),
        "trained": len(chosen["networks"]),
        "hypervolume": (run.directory.done("search") or {}).get("hypervolume"),
        "baselines": sorted(beside["rows"], key=lambda r: -(r["accuracy"] or 0.0)),
        "comparisons": beside["comparisons"],
        "dropped": chosen["dropped"],
        "warnings": [*chosen["warnings"], *beside["warnings"]],
        "report": str(run.path / "report.html"),
    }


# ---- registries --------------------------------------------------------------------------------------------


def _spaces() -> Iterator[Row]:
    from search_spaces import make_space, spaces

    for name, cls in spaces.items():
        parameters = inspect.signature(cls).parameters.values()
        ready = all(p.default is not p.empty for p in parameters)
        yield {"name": name, "members": make_space(name).size if ready else None, "about": _first_sentence(cls)}


def _operators() -> Iterator[Row]:
    from search_spaces import operators

    return _documented(operators.items())


def _predictors() -> Iterator[Row]:
    from predictors import predictors

    return _documented(predictors.items())


def _costs() -> Iterator[Row]:
    from predictors.cost import cost_models

    for name, cls in cost_models.items():
        yield {"name": name, "unit": cls.unit, "source": cls.source, "about": _first_sentence(cls)}


def _samplers() -> Iterator[Row]:
    from .tuning import samplers

    return _documented(samplers.items())


def _data() -> Iterator[Row]:
    from .data import GRAPH_SOURCES, SOURCES, TEXT_SOURCES, dataset_names

    yield from _documented([*SOURCES.items(), *TEXT_SOURCES.items(), *GRAPH_SOURCES.items()])
    for name in dataset_names():
        if name not in SOURCES:
            yield {"name": name, "about": "torchvision"}


def _models() -> Iterator[Row]:
    from search_spaces.models import models

    yield from _documented((name, getattr(make, "func", make)) for name, make in models.items())
    yield {"name": "timm:NAME", "about": "a network of timm"}
    yield {"name": "torchvision:NAME", "about": "a network of torchvision"}
    yield {"name": "FILE.py:FUNCTION", "about": "a function or class of yours that gives a torch module"}
    yield {"name": "DIRECTORY", "about": "an exported bundle, or a run (RUN:TRIAL for one of its networks)"}


def _criteria() -> Iterator[Row]:
    from .compress.criteria import criteria

    for name, cls in criteria.items():
        yield {"name": name, "needs": ", ".join(sorted(cls.needs)), "about": _first_sentence(cls)}


def _allocations() -> Iterator[Row]:
    from .compress.allocation import allocators

    return _documented(allocators.items())


def _schedules() -> Iterator[Row]:
    from .compress.schedules import schedules

    for name, cls in schedules.items():
        yield {"name": name, "cuts": cls.masks, "about": _first_sentence(cls)}


KINDS: dict[str, Callable[[], Iterator[Row]]] = {
    "spaces": _spaces,
    "operators": _operators,
    "predictors": _predictors,
    "costs": _costs,
    "samplers": _samplers,
    "data": _data,
    "models": _models,
    "criteria": _criteria,
    "allocations": _allocations,
    "schedules": _schedules,
}


def registered(kind: str) -> list[Row]:
    """What is registered: a row each with its name and the first sentence of its documentation.

    Raises:
        ConfigError: an unknown kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"nothing called {kind!r} can be listed: {did_you_mean(kind, ['runs', *KINDS])}")
    return list(KINDS[kind]())


def _documented(items: Iterable[tuple[str, Any]]) -> Iterator[Row]:
    for name, thing in items:
        yield {"name": name, "about": _first_sentence(thing)}


def _first_sentence(thing: Any) -> str:
    paragraph = (inspect.getdoc(thing) or "").split("\n\n")[0].split()
    return re.split(r"(?<!et al)(?<!e\.g)\. ", " ".join(paragraph))[0].removesuffix(".")
