"""What users take away: the report, the choices, and the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from search_spaces import Network

from ..export import Card, export_bundle
from ..files import Progress, read_json
from . import verdict
from .allocation import Cut
from .choosing import Choosing

_SAMPLES = 64  # images that a bundle's forms are compared on


def choices(choosing: Choosing, cut: Cut) -> dict[str, Any]:
    """The cut as a member of the space of cuts: the kept share of each group, and which blocks stay; and the units."""
    coupling, request = choosing.subject.coupling, choosing.request
    blocks = {f"{b.name}.kept": b.name not in cut.without for b in coupling.blocks}
    shares = {g.name: float(cut.keep[g.units].mean()) for g in coupling.groups}
    return {
        "model": request.model,
        "criterion": request.criterion.model_dump(),
        "choices": {**blocks, **shares},
        "widths": {g.name: int(cut.keep[g.units].sum()) for g in coupling.groups},
        **cut.to_dict(coupling),
    }


def report(
    choosing: Choosing, cut: Cut, accuracy: Mapping[str, Mapping[str, Any]], latency: Mapping[str, Any]
) -> dict[str, Any]:
    """All figures of a compression, but for its bundle and its duration.

    Args:
        accuracy: `before`, `cut` (where it was trained afterwards) and `after`.
        latency: what was measured, with words.
    """
    request, coupling, data = choosing.request, choosing.subject.coupling, choosing.data
    place = choosing.place
    return {
        **{k: getattr(request, k) for k in ("model", "weights", "finetune", "distill", "seed")},
        "allocation": choosing.allocation,
        "criterion": request.criterion.model_dump(),
        "schedule": request.schedule.model_dump(),
        "targets": list(request.targets),
        "data": data.description,
        "out": str(place.path),
        "accuracy": {name: {p: found[p] for p in ("validation", "test")} for name, found in accuracy.items()},
        "images": {"validation": len(data.validation), "test": len(data.test)},
        "costs": {
            "before": verdict.counted(coupling.graph),
            "after": verdict.counted(cut.graph(coupling)),
        },
        "latency": latency["times"],
        "threads": latency["threads"],
        "device": choosing.device["profile"],
        "multiple": choosing.device["multiple"],
        "without": list(cut.without),
        "widths": {g.name: [len(g), int(cut.keep[g.units].sum())] for g in coupling.groups},
        "uncuttable": [asdict(frozen) for frozen in coupling.frozen],
        "words": latency["words"],
        "warnings": [
            words
            for words in (accuracy["before"]["warning"], _forced(choosing), _disturbed(choosing, latency["times"]))
            if words
        ],
        "choices": str(place.file("choices.json")),
    }


def _forced(choosing: Choosing) -> str:
    """What to say of units that a schedule had to cut at its end."""
    done = read_json(choosing.place.file("cut.json")).get("schedule", {})
    if not done.get("forced"):
        return ""
    epochs = choosing.request.schedule.epochs
    return (
        f"{done['forced']} units were still undecided when the {epochs} epochs of schedule {done['name']!r} ended and "
        f"were cut at once, which costs accuracy; give it more, such as --set schedule.epochs={2 * epochs}"
    )


def _disturbed(choosing: Choosing, times: Mapping[str, Any]) -> str:
    words = verdict.disturbance(times)
    file = choosing.place.file("measure.json")
    return words and f"{words}; to measure again, remove {file} and give the same command"


def export(choosing: Choosing, network: Network, found: Mapping[str, Any], progress: Progress) -> str:
    """The directory of the bundle, written and verified, or kept if it is there.

    Raises:
        ExportError: a form does not reproduce the network.
    """
    progress("stage", {"name": "export", "state": "start", "text": "bundle written and verified"})
    request, data = choosing.request, choosing.data
    bundle = export_bundle(
        network,
        choosing.place.file("bundle"),
        samples=data.samples(_SAMPLES).cpu(),
        card=_card(choosing, found),
        formats=request.formats,
    )
    worst = max(bundle.differences.values(), default=0.0)
    text = f"{bundle.path}, largest difference of a reloaded form {worst:.1e}"
    progress("stage", {"name": "export", "state": "skipped" if bundle.kept else "done", "text": text})
    return str(bundle.path)


def _card(choosing: Choosing, found: Mapping[str, Any]) -> Card:
    request, data = choosing.request, choosing.data
    accuracy = found["accuracy"]["after"]
    metrics = {"accuracy": accuracy["validation"], "test_accuracy": accuracy["test"]}
    times = found["latency"].get(f"{request.device.runtime}_{request.device.batch}")
    if times:
        metrics |= {"latency_ms": times["after"]["median_ms"], "latency_spread_ms": times["after"]["iqr_ms"]}
    targets = ", ".join(request.targets)
    return Card(
        name=f"{choosing.subject.name}-{request.criterion.name}",
        data=data.description,
        source=data.source,
        classes=tuple(map(str, data.classes)),
        mean=data.mean,
        std=data.std,
        epochs=request.finetune,
        seed=request.seed,
        inherited=True,
        metrics=metrics,
        device=choosing.device["profile"],
        validation_images=len(data.validation),
        test_images=len(data.test),
        limits=(f"It was cut from {request.model} to {targets} by {request.criterion.name}.",),
    )
