"""Export and report: what the user takes away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search_spaces.errors import RunError

from ..context import Context, Summary
from ..files import read_json

_SAMPLES = 64


def export(context: Context) -> Summary:
    """A verified bundle for each chosen network under `export/`."""
    rows = [r for r in read_json(context.path("choose", "chosen.json"))["networks"] if r["chosen"]]
    bundles = []
    for i, row in enumerate(sorted(rows, key=lambda r: -r["accuracy"])):
        context.step("networks exported and verified", i, len(rows))
        report = _bundle(context, row, context.path("export", row["id"]))
        bundles.append(
            {"trial": row["trial"], "id": row["id"], "path": str(report.path), "differences": report.differences}
        )
        if context.stop():
            return {}
    worst = max(d for b in bundles for d in b["differences"].values())
    return {"bundles": bundles, "text": f"{len(bundles)} bundles, largest difference of a reloaded form {worst:.1e}"}


def export_one(context: Context, trial: int, directory: Path | None) -> Path:
    """Export any judged trial; used by `nas-engine export`."""
    rows = {r["trial"]: r for r in read_json(context.path("choose", "chosen.json"))["networks"]}
    if trial not in rows:
        raise RunError(f"trial {trial} has no trained network; trials with one: {', '.join(map(str, sorted(rows)))}")
    row = rows[trial]
    return Path(_bundle(context, row, directory or context.path("export", row["id"])).path)


def _bundle(context: Context, row: dict[str, Any], directory: Path) -> Any:
    from ..export import Card, export_bundle, refused
    from ..train import load_candidate

    data = context.data
    network, epochs = load_candidate(context.space, row["code"], context.trial_path(row["trial"]))
    formats = context.config.export.formats
    left_out = {f: f"Form {f!r} is left out: {why}." for f, why in refused(formats, network.graph).items()}
    for words in left_out.values():
        context.note(f"network {row['id']}: {words}")
    card = Card(
        name=f"{context.config.name}-{row['id']}",
        data=data.description,
        source=data.source,
        classes=tuple(map(str, data.classes)),
        mean=data.mean,
        std=data.std,
        epochs=epochs,
        seed=context.config.seed,
        inherited=context.config.search.inherit,
        metrics=row,
        device=context.latency.profile.to_dict(),
        task=data.quality.task,
        quality=data.quality,
        validation_images=len(data.validation),
        test_images=len(data.test),
        limits=tuple(left_out.values()),
    )
    return export_bundle(
        network,
        directory,
        architecture=context.space.decode(row["code"]),
        samples=data.samples(_SAMPLES).to("cpu"),
        card=card,
        formats=[name for name in formats if name not in left_out],
    )


def report(context: Context) -> Summary:
    """`report.html` in the run's directory."""
    from ..report import write_report
    from ..run import Run

    path = write_report(Run(context.directory.path, context.config))
    return {"text": str(path)}
