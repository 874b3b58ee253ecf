"""The figures of the page, as plotly figures in colours that the page resolves by its theme."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from ..report.words import axis_title, cost_name
from ..show import count, figure, milliseconds
from .handing import at_end, time_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

Row = Mapping[str, Any]
LOOKS = {
    "compound": ("var(--chosen)", "star"),
    "dwr": ("var(--finished)", "diamond"),
    "depth": ("var(--running)", "triangle-up"),
    "width": ("var(--stopped)", "square"),
    "resolution": ("var(--diverged)", "triangle-right"),
}
_FINE = 41  # points along each axis that surfaces are interpolated to
_SAME = 1.02  # multipliers that differ by less lie in a plane
_LEVELS = 4  # curves of equal cost at most
_TICKS = (
    (1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 4, 5, 6, 7, 8.5),
    (1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2, 2.2, 2.4, 2.7, 3, 3.3, 3.7, 4, 4.5, 5, 5.5, 6, 6.5, 7, 8, 9),
)  # fmt: skip
_ENOUGH = 4  # ticks of an axis at least
_MARGIN = 1.12  # beyond what is shown, as a factor


def along(rows: Sequence[Row], paths: Mapping[str, Sequence[Row]], x: str, y: str) -> go.Figure:
    """One cost against another: a line a rule through what it would give, its members as points.

    Args:
        rows: the network itself, then members.
        paths: costs of each rule at many factors, predicted.
    """
    made = _figure(axis_title(x), axis_title(y))
    for rule, line in paths.items():
        colour, symbol = LOOKS[rule]
        line = sorted(line, key=lambda costs: costs["factor"])
        made.add_scatter(
            x=_short(costs[x] for costs in line), y=_short(costs[y] for costs in line), mode="lines", name=rule,
            legendgroup=rule, showlegend=False, hoverinfo="skip", line={"color": colour, "width": 1.6},
        )  # fmt: skip
        members = [row for row in rows if row["rule"] == rule]
        made.add_scatter(
            x=_short(row[x] for row in members), y=_short(row[y] for row in members), mode="markers", name=rule,
            legendgroup=rule, marker={"color": colour, "symbol": symbol, "size": 10},
            text=[_told(row) for row in members], hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
    _add_base(made, [rows[0][x]], [rows[0][y]], rows[0])
    if y == "latency_ms":
        _add_measured(made, rows, x)
    shown = [*rows, *(costs for line in paths.values() for costs in line)]
    times = [row["measured"]["median_ms"] for row in rows if y == "latency_ms" and row["measured"]]
    _scale_axis(made, "x", [row[x] for row in shown], lambda v: _plain(x, v))
    _scale_axis(made, "y", [*(row[y] for row in shown), *times], lambda v: _plain(y, v))
    return made


def plane(
    rows: Sequence[Row], rule: str, surface: Mapping[str, Any], levels: Mapping[str, Sequence[float]]
) -> go.Figure:
    """Two dimensions, with curves of equal MACs and equal predicted latency, and where the members lie.

    Args:
        rows: the network itself, then members.
        rule: whose last member the plane goes through.
        surface: costs on the plane, see `planes`.
        levels: of the curves, by cost.
    """
    x, y = surface["x"], surface["y"]
    made = _figure(f"{x} (multiplier)", f"{y} (multiplier)")
    for name, (colour, dash) in {"macs": ("var(--front)", "solid"), "latency_ms": ("var(--bound)", "dash")}.items():
        _add_curves(made, surface, name, levels.get(name, ()), colour, dash)
    third = ({"depth", "width", "resolution"} - {x, y}).pop()
    at = at_end(rows, rule)[0][third]
    for name in dict.fromkeys(row["rule"] for row in rows if row["rule"]):
        _add_members(made, [row for row in rows if row["rule"] == name], x, y, third, at)
    _add_base(made, [rows[0][x]], [rows[0][y]], rows[0], hollow=_differs(rows[0][third], at))
    for axis, values in (("x", surface[x]), ("y", surface[y])):
        _scale_axis(made, axis, values, lambda v: f"{v:g}", margin=1.0)
    return made


def levels(rows: Sequence[Row], rule: str) -> dict[str, list[float]]:
    """Costs that curves are drawn at: those of the network itself and of the last members of the rule."""
    shown = [rows[0], *[row for row in rows if row["rule"] == rule]][-_LEVELS:]
    return {name: [row[name] for row in shown] for name in ("macs", "latency_ms")}


# ---- parts -------------------------------------------------------------------------------------------------


def _figure(across: str, up: str) -> go.Figure:
    import plotly.graph_objects as go

    made = go.Figure()
    made.update_layout(template="none", xaxis_title=across, yaxis_title=up, hovermode="closest")
    return made


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, about evenly apart in their logarithms.

    >>> ticks(0.9, 30.0)
    [1.0, 3.0, 10.0, 30.0]
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in _TICKS:
        every = sorted({float(f"{step * 10.0**decade:.6g}") for decade in decades for step in steps})
        found = [tick for tick in every if low <= tick <= high]
        if len(found) >= _ENOUGH:
            break
    return found


def _scale_axis(
    made: go.Figure, axis: str, values: Sequence[float], text: Callable[[float], str], margin: float = _MARGIN
) -> None:
    """A logarithmic axis over some values, with round numbers in words."""
    low, high = min(values) / margin, max(values) * margin
    at = ticks(low, high)
    span = [math.log10(low), math.log10(high)]
    words = [text(tick) for tick in at]
    made.update_layout({f"{axis}axis": {"type": "log", "range": span, "tickvals": at, "ticktext": words}})


def _plain(cost: str, value: float) -> str:
    """A round cost without its unit, which the axis names."""
    if cost == "latency_ms" or value < 1e4:
        return f"{value:g}"
    number, scale = count(value).split()
    return f"{float(number):g}{scale}"


def _add_base(made: go.Figure, x: Sequence[float], y: Sequence[float], row: Row, hollow: bool = False) -> None:
    made.add_scatter(
        x=_short(x), y=_short(y), mode="markers", name="unscaled", text=[_told(row)],
        marker={"color": "var(--ink)", "symbol": "circle-open" if hollow else "circle", "size": 9},
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _add_measured(made: go.Figure, rows: Sequence[Row], x: str) -> None:
    timed = [row for row in rows if row["measured"]]
    if not timed:
        return
    spread = [row["measured"]["iqr_ms"] / 2 for row in timed]
    made.add_scatter(
        x=_short(row[x] for row in timed), y=_short(row["measured"]["median_ms"] for row in timed), mode="markers",
        name="measured", marker={"color": "var(--ink)", "symbol": "x-thin-open", "size": 8},
        error_y={"type": "data", "array": spread, "color": "var(--ink)", "thickness": 0.8, "width": 0},
        text=[_told(row) for row in timed], hovertemplate="measured %{y:.3g} ms<br>%{text}<extra></extra>",
    )  # fmt: skip


def _add_curves(
    made: go.Figure, surface: Mapping[str, Any], name: str, values: Sequence[float], colour: str, dash: str
) -> None:
    """A curve of equal cost for each level; a surface that does not reach a level has none."""
    x, y, z = finer(surface[surface["x"]], surface[surface["y"]], surface[name])
    known = z[np.isfinite(z)]
    unit = " ms" if name == "latency_ms" else ""
    shown = [v for v in dict.fromkeys(values) if known.size and known.min() < v < known.max()]
    for number, value in enumerate(shown):
        made.add_contour(
            x=_short(x), y=_short(y), z=[[None if math.isnan(v) else float(f"{v:.4g}") for v in row] for row in z],
            name=f"equal {cost_name(name)}", legendgroup=name, showlegend=number == 0, showscale=False,
            hoverinfo="skip", line={"width": 1.7, "dash": dash}, colorscale=[[0, colour], [1, colour]],
            contours={
                "coloring": "lines", "start": value, "end": value, "size": 1, "showlabels": True,
                "labelformat": ".3s" if not unit else ".3g", "labelfont": {"color": colour, "size": 11},
            },
        )  # fmt: skip


def finer(
    x: Sequence[float], y: Sequence[float], z: Sequence[Sequence[float | None]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A surface on a finer grid, linear in the logarithms of all three; not-a-number where nothing is known."""
    from scipy.interpolate import RegularGridInterpolator

    values = np.array([[np.nan if v is None else v for v in row] for row in z], dtype=float)
    across, up = np.geomspace(x[0], x[-1], _FINE), np.geomspace(y[0], y[-1], _FINE)
    across[[0, -1]], up[[0, -1]] = (x[0], x[-1]), (y[0], y[-1])  # else rounding may put them beyond
    between = RegularGridInterpolator((np.log(y), np.log(x)), np.log(values))
    places = np.stack(np.meshgrid(np.log(up), np.log(across), indexing="ij"), axis=-1)
    return across, up, np.exp(between(places))


def _add_members(made: go.Figure, members: Sequence[Row], x: str, y: str, third: str, at: float) -> None:
    """Members of a rule, joined in their order; hollow where they do not lie in the plane."""
    colour, symbol = LOOKS[members[0]["rule"]]
    symbols = [f"{symbol}-open" if _differs(row[third], at) else symbol for row in members]
    made.add_scatter(
        x=_short([1.0, *(row[x] for row in members)]), y=_short([1.0, *(row[y] for row in members)]), mode="lines",
        hoverinfo="skip", showlegend=False, line={"color": colour, "width": 0.8, "dash": "dot"},
    )  # fmt: skip
    made.add_scatter(
        x=_short(row[x] for row in members), y=_short(row[y] for row in members), mode="markers",
        marker={"color": colour, "symbol": symbols, "size": 11, "line": {"width": 1.4, "color": colour}},
        name=members[0]["rule"],
        text=[_told(row) for row in members], hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _differs(a: float, b: float) -> bool:
    return max(a / b, b / a) > _SAME


def _told(row: Row) -> str:
    """What is shown under the pointer."""
    sizes = f"depth {row['depth']:.3g}, width {row['width']:.3g}, resolution {row['resolution']:.3g}"
    costs = f"{count(row['params'])} parameters, {figure('macs', row['macs'])} MACs, predicted "
    costs += milliseconds(row["latency_ms"])
    timed = f", {milliseconds(time_of(row))} measured" if row["measured"] else ""
    return escape(f"{row['label']}: {sizes}") + "<br>" + escape(f"{costs}{timed}")


def _short(values: Iterable[float]) -> list[float]:
    """Five significant digits, in a page that stays small."""
    return [float(f"{value:.5g}") for value in values]
