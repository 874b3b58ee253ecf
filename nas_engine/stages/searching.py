"""The search stage: candidates that a sampler proposes are trained for real."""

from __future__ import annotations

from ..context import Context, Summary


def search(context: Context) -> Summary:
    """Train up to `search.trials` candidates; `search/trials.jsonl` is the truth about them."""
    from ..tuning import SearchJob, read_hypervolume, search

    settings = context.config.search
    outcome = search(
        SearchJob(
            config=context.resolved,
            space=context.space,
            directory=context.directory.path,
            costs=context.costs,
            stop=context.stop,
            progress=context.progress,
        )
    )
    counts = {s: getattr(outcome, s) for s in ("finished", "stopped", "failed", "diverged")}
    for state in ("failed", "diverged"):
        if counts[state]:
            context.warn(f"{counts[state]} of {settings.trials} trials {state}; the report says why")
    exhausted = outcome.state == "exhausted"
    if exhausted:
        context.note("no further member meets the bounds that has not been tried; the search ended early")
    found = read_hypervolume(context.directory.path, context.resolved, context.directory.done("device"))
    text = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    if found.reference:
        text += f"; hypervolume {found.last:.3f}"
    summary = {"trials": sum(counts.values()), "exhausted": exhausted, **counts}
    return {**summary, "hypervolume": found.last, "reference": found.reference, "text": text}
