"""The page: sections, figures and drawings put into one template, with style, scripts and plotly.js inside.

The file needs no network: a content security policy in its head forbids the browser to ask for anything. What comes
from data is escaped by the template; figures travel as JSON in script elements that are not executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_text
from ..run import Run
from . import beside, figures, sections
from .findings import Findings
from .words import COST_MEANINGS, cost_name

if TYPE_CHECKING:
    import plotly.graph_objects as go

_HERE = Path(__file__).parent


def write_report(run: Run) -> Path:
    """Write `report.html` into the run's directory, atomically; stages that have not ended are told as missing.

    Raises:
        RunError: a file of the run is damaged, or the page cannot be written.
    """
    path = run.path / "report.html"
    write_text(path, render(Findings(run)))
    return path


def render(findings: Findings) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("template.html.j2").render(
        **_context(findings),
        plots=_plots(findings),
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((_HERE / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
    )


@dataclass(frozen=True)
class Plot:
    """A figure for the template.

    Attributes:
        json: of the plotly figure, safe inside a script element.
        label: told by screen readers.
        height: pixels.
    """

    json: Any
    label: str
    height: int = 380

    @classmethod
    def of(cls, figure: go.Figure, label: str, height: int = 380) -> Plot:
        from markupsafe import Markup

        # "<" would end the script element or begin a comment in it; JSON may spell it otherwise
        return cls(Markup(figure.to_json().replace("<", "\\u003c")), label, height)


def _context(f: Findings) -> dict[str, Any]:
    config = f.run.config
    answer, how = sections.lead(f)
    return {
        "name": config.name,
        "path": str(f.path),
        "made": f.made.get("created", ""),
        "lead": answer,
        "quality": f.quality,
        "how": how,
        "warnings": sections.warnings(f),
        "command": f.run.command,
        "asked": sections.asked(f),
        "answer": sections.answer(f),
        "test_note": sections.test_note(f),
        "beside": beside.section(f),
        "asks_baselines": bool(config.baselines),
        "costs": [{"key": c, "name": cost_name(c), "meaning": COST_MEANINGS[c]} for c in _costs(f)],
        "every": sections.every_network(f),
        "cost_names": [cost_name(c) for c in config.costs],
        "not_taken": sections.not_taken(f),
        "drawings": sections.drawings(f),
        "hypervolume_words": sections.hypervolume_words(f),
        "trust": sections.trust(f),
        "latency_errors": sections.latency_errors(f),
        "latency_table": sections.latency_table(f),
        "fingerprint": sections.fingerprint(f),
        "space": sections.space(f),
        "table_words": sections.table_words(f),
        "stages": sections.stages(f),
        "versions": sections.versions(f),
        "commands": sections.commands(f),
        "has": {"chosen": f.chosen is not None, "table": f.cloud is not None, "trials": bool(f.trials)},
    }


def _costs(f: Findings) -> list[str]:
    """Costs to choose from in the Pareto figure; objectives first."""
    return sorted(f.run.config.costs, key=lambda c: (c not in f.run.config.objectives, c != "latency_ms"))


def _plots(f: Findings) -> dict[str, Any]:
    """Every figure that the run's files allow."""
    plots: dict[str, Any] = {"pareto": {}, "believed": {}, **_search_plots(f), **_trust_plots(f)}
    bounds, judged = f.resolved.bounds, f.judged
    for cost in _costs(f):
        name = cost_name(cost).lower()
        if f.networks and f.chosen:
            images = f.chosen["validation_images"]
            figure = figures.pareto(f.networks, cost, judged, images, f.quality, f.rivals)
            plots["pareto"][cost] = Plot.of(figure, f"measured {f.quality.name} against {name}", 420)
        if f.cloud and cost in f.cloud.columns:
            figure = figures.believed(f.cloud, f.networks, cost, bounds, f.quality)
            plots["believed"][cost] = Plot.of(figure, f"predicted {f.quality.name} against {name}", 420)
    return plots


def _search_plots(f: Findings) -> dict[str, Plot]:
    plots = {}
    if f.trials:
        plots["progress"] = Plot.of(
            figures.progress(f.trials, f.quality), f"{f.quality.name} of each trial by its number"
        )
    if f.trials and f.hypervolume.reference and f.hypervolume.series:
        figure = figures.hypervolume(f.hypervolume.series)
        plots["hypervolume"] = Plot.of(figure, "hypervolume after each trial", 300)
    if f.curves:
        chosen = {n["trial"] for n in f.winners}
        plots["curves"] = Plot.of(figures.curves(f.trials, f.curves, chosen, f.quality), "learning curves by epoch")
    if f.timed or f.latency.get("networks"):
        figure = figures.latency(f.timed, f.latency.get("networks") or [])
        plots["latency"] = Plot.of(figure, "measured latency against predicted latency")
    return plots


def _trust_plots(f: Findings) -> dict[str, Plot]:
    plots = {}
    shown, unit = f.quality.shown, f.quality.unit or f.quality.name
    if f.training:
        plots["training"] = Plot.of(figures.training(f.training), "training loss of the supernet by epoch", 300)
    if f.scores:
        x, y = ([shown(row[key]) for row in f.scores] for key in ("first_half", "second_half"))
        texts = [row["code"] for row in f.scores]
        figure = figures.agreement(x, y, f"one half ({unit})", f"the other half ({unit})", texts=texts)
        plots["halves"] = Plot.of(figure, f"supernet scores on two halves of the validation {f.quality.cases}", 300)
    if f.held_out:
        x, y = ([shown(row[key]) for row in f.held_out] for key in ("predicted", "score"))
        texts = [row["code"] for row in f.held_out]
        figure = figures.agreement(x, y, f"predicted ({unit})", f"supernet score ({unit})", texts=texts)
        plots["held_out"] = Plot.of(figure, "held-out supernet scores against predictions", 300)
    trained = [n for n in f.networks if n["state"] == "finished" and n.get("accuracy_predicted") is not None]
    if trained:
        x, y = ([shown(n[key]) for n in trained] for key in ("accuracy_predicted", "accuracy"))
        texts = [f"trial {n['trial']}" for n in trained]
        figure = figures.agreement(x, y, f"predicted ({unit})", f"trained ({unit})", texts=texts, identity=False)
        plots["trained"] = Plot.of(figure, "accuracies of trained candidates against predictions", 300)
    return plots
