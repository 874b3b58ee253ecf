"""The HTML page of a scaling: what was asked, every member of every rule, and figures of what growing costs.

It is as self-contained as the report of a run, whose style and script it shares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..report import page as report_page
from ..report.words import TIMES, listed, size, with_spread
from ..show import count, duration, figure, milliseconds
from . import figures
from .handing import RULES_IN_WORDS, at_end, time_of

_HERE = Path(__file__).parent
Row = Mapping[str, Any]


def render(told: Row, paths: Mapping[str, Sequence[Row]], planes: Row) -> str:
    """The page as text.

    Args:
        told: the report.
        paths: costs of each rule at many factors.
        planes: costs over two dimensions, see `planes`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    shared = Path(report_page.__file__).parent
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        told=told,
        lead=_lead(told),
        asked=list(_asked(told)),
        rows=[_row(row, told) for row in told["members"]],
        plots=_plots(told, paths, planes),
        fixed=_fixed(told),
        words=RULES_IN_WORDS,
        took=duration(told["seconds"]),
        style=Markup((shared / "page.css").read_text(encoding="utf-8")),
        script=Markup((shared / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
    )


def _lead(told: Row) -> str:
    """The answer in one sentence."""
    own, base = at_end(told["members"], told["rule"])[0], told["members"][0]
    asked = f"to {listed(told['to'])}" if told["to"] else f"by phi {told['phi']}"
    time = f"{milliseconds(time_of(own))} {'measured' if own['measured'] else 'predicted'}"
    return (
        f"{told['name']} scaled {asked}: {count(own['params'])} parameters, {figure('macs', own['macs'])} MACs, {time}"
        f" ({time_of(own) / time_of(base):.3g}{TIMES})."
    )


def _asked(told: Row) -> Iterator[tuple[str, str]]:
    from predictors.cost import DeviceProfile

    base = told["members"][0]
    by = told["exponents"]
    yield "Network", f"{told['name']}, {told['source']}; images {size(base['input'])}, {told['classes']:,} classes"
    if told["notes"]:
        yield "Growth", "; ".join(told["notes"])
    yield "Target", listed(told["to"]) if told["to"] else f"steps up to phi {told['phi']}"
    yield "Rule", f"{told['rule']}: {RULES_IN_WORDS[told['rule']]}"
    yield (
        "Exponents",
        f"alpha {by['alpha']:g}, beta {by['beta']:g}, gamma {by['gamma']:g}, product "
        f"{by['alpha'] * by['beta'] ** 2 * by['gamma'] ** 2:.3f}; dwr with a = {by['a']:g}",
    )
    yield "Device", str(DeviceProfile.from_dict(dict(told["device"])))
    yield "Latency model", _model(told["latency"])


def _model(latency: Row) -> str:
    known = f"{latency['measured']} of {latency['units']} operators measured, the others interpolated"
    error = latency["error"]["networks"]
    if error is None:
        return known
    off = f"{100 * error['median_ape']:.0f} %"
    return f"{known}; {error['networks']} whole networks, left out of the fit in turn, are off by {off} (median)"


def _row(row: Row, told: Row) -> dict[str, Any]:
    """A line of the table of members."""
    share = row["shares"]
    return {
        "rule": row["rule"] or "unscaled",
        "phi": "" if row["phi"] is None or not row["rule"] else f"{row['phi']:g}",
        "chosen": row["rule"] == told["rule"],
        "sizes": [f"{row[name]:.3f}" for name in ("depth", "width", "resolution")],
        "input": TIMES.join(map(str, row["input"][1:])),
        "costs": [
            (figure(name, row[name]), f"{share[name]:.3g}{TIMES}") for name in ("params", "macs", "activation_bytes")
        ],
        "predicted": (milliseconds(row["latency_ms"]), f"{share['latency_ms']:.3g}{TIMES}"),
        "measured": with_spread(row["measured"]["median_ms"], row["measured"]["iqr_ms"]) if row["measured"] else "",
        "bundle": told["bundles"].get(row["label"], ""),
    }


def _fixed(told: Row) -> dict[str, str]:
    """What is the same all over a plane, by plane."""
    own = at_end(told["members"], told["rule"])[0]
    return {
        "width-resolution": f"depth {own['depth']:.3g}, as {own['label']} has",
        "width-depth": f"resolution {own['resolution']:.3g} ({own['input'][1]} pixels), as {own['label']} has",
    }


def _plots(told: Row, paths: Mapping[str, Sequence[Row]], planes: Row) -> dict[str, Any]:
    rows, rule = told["members"], told["rule"]
    levels = figures.levels(rows, rule)
    made = report_page.Plot.of
    return {
        "latency": made(figures.along(rows, paths, "macs", "latency_ms"), "latency against MACs of each rule", 420),
        "activations": made(
            figures.along(rows, paths, "macs", "activation_bytes"), "activations against MACs of each rule", 420
        ),
        **{
            name: made(figures.plane(rows, rule, planes[name], levels), f"curves of equal cost over {name}", 460)
            for name in ("width-resolution", "width-depth")
        },
    }
