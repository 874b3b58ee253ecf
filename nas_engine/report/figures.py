"""The figures of the report, as plotly figures without titles: the page's captions tell what they show.

Colours are written as `var(--name)`; the page puts in the values of its light or dark theme before plotly sees them.
Accuracies are shown as the run's quality has them, in percent or as perplexities, costs in the units of their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..config import Bound
from ..quality import ACCURACY, Quality
from .findings import Cloud, Values, front
from .words import axis_title, standard_error

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..tuning import TrialSummary

Network = Mapping[str, Any]
Line = Sequence[tuple[int, float]]


class Look(NamedTuple):
    """How a state of a trial is drawn."""

    words: str
    colour: str
    symbol: str


STATES = {
    "finished": Look("finished", "var(--finished)", "circle"),
    "stopped": Look("stopped early", "var(--stopped)", "triangle-down"),
    "running": Look("not ended", "var(--running)", "diamond-wide"),
    "failed": Look("failed", "var(--failed)", "x"),
    "diverged": Look("diverged", "var(--diverged)", "cross"),
}
_UNKNOWN = Look("other", "var(--running)", "circle")
_CHOSEN = "var(--chosen)"
_BASELINE = "var(--baseline)"
_MANY = 40  # more networks than these are drawn without error bars


def pareto(
    networks: Sequence[Network],
    cost: str,
    bounds: Iterable[Bound],
    images: int,
    quality: Quality = ACCURACY,
    baselines: Sequence[Network] = (),
) -> go.Figure:
    """Measured accuracy over a measured cost: every trained network, the front in these two figures, the bounds.

    Baselines are drawn beside them, and belong to no front.
    """
    figure = _figure(axis_title(cost), f"validation {quality.axis}")
    x = [n[cost] for n in (*networks, *baselines)]
    y = [quality.shown(n["accuracy"]) for n in (*networks, *baselines)]
    _add_front(figure, networks, cost, quality)
    bars = len(networks) <= _MANY
    shares = bars and quality.counted  # whose chance errors follow from their number
    told_broken = False
    for (state, met), group in _by_state(networks).items():
        look = STATES.get(state, _UNKNOWN)
        figure.add_scatter(
            x=[n[cost] for n in group],
            y=[quality.shown(n["accuracy"]) for n in group],
            mode="markers",
            name=look.words if met else "over a bound",
            showlegend=met or not told_broken,
            marker={"color": look.colour, "symbol": look.symbol + ("" if met else "-open"), "size": 9},
            error_y=_bars([100 * standard_error(n["accuracy"], images) for n in group if shares], look.colour),
            error_x=_bars([n["latency_spread_ms"] for n in group if bars and cost == "latency_ms"], look.colour),
            text=[_told(n) for n in group],
            hovertemplate=f"%{{text}}<br>%{{x:.4s}}, {_told_y(quality)}<extra></extra>",
        )
        told_broken |= not met
    _add_baselines(figure, baselines, cost, images, quality)
    _add_chosen(figure, [n for n in networks if n["chosen"]], cost, "accuracy", quality)
    _add_bounds(figure, bounds, cost, x, y, quality)
    return figure


def believed(
    cloud: Cloud, networks: Sequence[Network], cost: str, bounds: Iterable[Bound], quality: Quality = ACCURACY
) -> go.Figure:
    """What the lookup table predicts over the same cost, and where the trained networks lie in it."""
    figure = _figure(axis_title(cost), f"predicted supernet {quality.axis}")
    x, y = cloud.columns[cost], _shown(cloud.columns["accuracy"], quality)
    figure.add_scatter(
        x=_rounded(x),
        y=_rounded(y),
        mode="markers",
        name="table",
        marker={"color": "var(--cloud)", "size": 4},
        hovertemplate=f"predicted {_told_y(quality)} at %{{x:.4s}}<extra></extra>",
    )
    edge_x, edge_y = cloud.fronts[cost][0], _shown(cloud.fronts[cost][1], quality)
    figure.add_scatter(
        x=_rounded(edge_x), y=_rounded(edge_y), mode="lines", name="predicted front", hoverinfo="skip",
        line={"color": "var(--front)", "width": 1.5, "shape": "hv", "dash": "dot"},
    )  # fmt: skip
    shown = [n for n in networks if n.get("accuracy_predicted") is not None]
    believed_cost = "latency_ms_predicted" if cost == "latency_ms" else cost
    figure.add_scatter(
        x=[n[believed_cost] for n in shown],
        y=[quality.shown(n["accuracy_predicted"]) for n in shown],
        mode="markers",
        name="trained",
        marker={"color": "var(--finished)", "size": 7},
        text=[_told(n) for n in shown],
        hovertemplate=f"%{{text}}<br>predicted {_told_y(quality)} at %{{x:.4s}}<extra></extra>",
    )
    _add_chosen(figure, [n for n in shown if n["chosen"]], believed_cost, "accuracy_predicted", quality)
    costs_only = [b for b in bounds if b.metric != "accuracy"]
    _add_bounds(figure, costs_only, cost, [*x, *edge_x], [*y, *edge_y], quality)
    return figure


def progress(trials: Sequence[TrialSummary], quality: Quality = ACCURACY) -> go.Figure:
    """Accuracy of each trial by its number, and the best so far among trained ones."""
    figure = _figure("trial", f"validation {quality.axis}")
    trained = [t for t in trials if t.state in ("finished", "stopped") and t.accuracy is not None]
    best = np.maximum.accumulate([t.accuracy or 0.0 for t in trained]) if trained else np.zeros(0)
    figure.add_scatter(
        x=[t.number for t in trained], y=_rounded(_shown(best, quality)),
        mode="lines", name="best so far", hoverinfo="skip",
        line={"color": "var(--front)", "width": 2, "shape": "hv"},
    )  # fmt: skip
    reached = [quality.shown(t.accuracy) for t in trials if t.accuracy is not None] or [0.0]
    edge = min(reached) - 0.06 * (max(reached) - min(reached))
    for state, look in STATES.items():
        group = [t for t in trials if t.state == state]
        if not group:
            continue
        figure.add_scatter(
            x=[t.number for t in group],
            y=[edge if t.accuracy is None else quality.shown(t.accuracy) for t in group],
            mode="markers",
            name=look.words,
            marker={"color": look.colour, "symbol": look.symbol, "size": 9},
            text=[
                f"trial {t.number}, {_epochs(t.epochs)}{'' if t.accuracy is not None else f': no {quality.name}'}"
                for t in group
            ],
            hovertemplate=f"%{{text}}<br>{_told_y(quality)}<extra></extra>",
        )
    figure.update_xaxes(dtick=_tick(len(trials)), zeroline=False)
    return figure


def hypervolume(series: Sequence[tuple[int, float]]) -> go.Figure:
    """Share of the box between the ideal and the reference that trained networks dominate, after each trial."""
    figure = _figure("trial", "hypervolume")
    figure.add_scatter(
        x=[number for number, _ in series], y=[share for _, share in series], mode="lines+markers",
        line={"color": "var(--front)", "width": 2, "shape": "hv"}, marker={"size": 6}, showlegend=False,
        hovertemplate="trial %{x}<br>%{y:.4f}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(dtick=_tick(max((number for number, _ in series), default=0) + 1), zeroline=False)
    return figure


def curves(
    trials: Sequence[TrialSummary], points: Mapping[int, Line], chosen: set[int], quality: Quality = ACCURACY
) -> go.Figure:
    """What validation gave by epoch, a line a trial; the chosen ones stand out."""
    figure = _figure("epoch", f"validation {quality.axis}")
    looks = {**STATES, "chosen": Look("chosen", _CHOSEN, "circle")}
    kinds: dict[str, list[TrialSummary]] = {name: [] for name in looks}
    for trial in trials:
        kinds["chosen" if trial.number in chosen else trial.state if trial.state in STATES else "running"].append(trial)
    for name, group in kinds.items():
        x, y, text = _joined({t.number: points.get(t.number, ()) for t in group}, quality)
        if not x:
            continue
        figure.add_scatter(
            x=x,
            y=y,
            text=text,
            mode="lines+markers",
            name=looks[name].words,
            line={"color": looks[name].colour, "width": 2.4 if name == "chosen" else 1.3},
            marker={"size": 4},
            opacity=1 if name == "chosen" else 0.75,
            hovertemplate=f"trial %{{text}}, epoch %{{x}}<br>{_told_y(quality)}<extra></extra>",
        )
    longest = max((epoch for line in points.values() for epoch, _ in line), default=1)
    figure.update_xaxes(dtick=_tick(longest))
    return figure


def _joined(lines: Mapping[int, Line], quality: Quality) -> tuple[list[Any], list[Any], list[Any]]:
    """Several lines as one trace: gaps between them, the trial beside each point."""
    x: list[Any] = []
    y: list[Any] = []
    text: list[Any] = []
    for number, line in lines.items():
        if line:
            x += [*(epoch for epoch, _ in line), None]
            y += [*(round(quality.shown(accuracy), 3) for _, accuracy in line), None]
            text += [*(str(number) for _ in line), ""]
    return x, y, text


def agreement(
    x: Sequence[float], y: Sequence[float], across: str, up: str, *, texts: Sequence[str], identity: bool = True
) -> go.Figure:
    """Two figures of the same things against each other, with the line on which they are equal.

    Args:
        x: what was believed.
        y: what was found.
        across: title of the x axis.
        up: title of the y axis.
        texts: what each point is.
        identity: draw the line of equality; without it only the ranks are to be compared.
    """
    figure = _figure(across, up)
    if identity:
        _add_identity(figure, [*x, *y])
    figure.add_scatter(
        x=_rounded(x),
        y=_rounded(y),
        mode="markers",
        showlegend=False,
        marker={"color": "var(--finished)", "size": 7 if len(x) <= _MANY else 5, "opacity": 0.8},
        text=list(map(escape, texts)),
        hovertemplate=f"%{{text}}<br>{across}: %{{x:.4g}}<br>{up}: %{{y:.4g}}<extra></extra>",
    )
    return figure


def latency(trained: Sequence[Network], fitted: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Measured against predicted latency: of trained networks, and of those that the latency model was fitted to."""
    figure = _figure("predicted (ms)", "measured (ms)")
    kinds: dict[str, tuple[list[float], list[float], list[str], list[float], Look]] = {
        "corrected by these": (
            [n["predicted_ms"] for n in fitted],
            [n["measured_ms"] for n in fitted],
            [escape(str(n["id"])[:8]) for n in fitted],
            [],
            Look("", "var(--failed)", "circle-open"),
        ),
        "trained": (
            [n["latency_ms_predicted"] for n in trained],
            [n["latency_ms"] for n in trained],
            [_told(n) for n in trained],
            [n.get("latency_spread_ms") or 0.0 for n in trained],
            STATES["finished"],
        ),
    }
    _add_identity(figure, [v for predicted, measured, *_ in kinds.values() for v in (*predicted, *measured)])
    for name, (predicted, measured, texts, spread, look) in kinds.items():
        if not predicted:
            continue
        figure.add_scatter(
            x=_rounded(predicted),
            y=_rounded(measured),
            mode="markers",
            name=name,
            showlegend=bool(trained and fitted),
            marker={"color": look.colour, "symbol": look.symbol, "size": 7},
            error_y=_bars(spread, look.colour),
            text=texts,
            hovertemplate="%{text}<br>predicted %{x:.4g} ms, measured %{y:.4g} ms<extra></extra>",
        )
    return figure


def training(history: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Training loss of the supernet by epoch."""
    figure = _figure("epoch", "training loss")
    figure.add_scatter(
        x=[row["epoch"] for row in history],
        y=_rounded([row["loss"] for row in history]),
        mode="lines",
        showlegend=False,
        line={"color": "var(--finished)", "width": 2},
        hovertemplate="epoch %{x}: %{y:.3f}<extra></extra>",
    )
    return figure


# ---- parts -------------------------------------------------------------------------------------------------------


def _figure(across: str, up: str) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(template="none", xaxis_title=across, yaxis_title=up, hovermode="closest")
    return figure


def _add_identity(figure: go.Figure, values: Sequence[float]) -> None:
    """The line on which both axes are equal, over the extent of some values."""
    ends = [min(values), max(values)] if len(values) else []
    figure.add_scatter(
        x=ends, y=ends, mode="lines", hoverinfo="skip", showlegend=False,
        line={"color": "var(--front)", "width": 1.2, "dash": "dash"},
    )  # fmt: skip


def _by_state(networks: Sequence[Network]) -> dict[tuple[str, bool], list[Network]]:
    groups: dict[tuple[str, bool], list[Network]] = {}
    for network in sorted(networks, key=lambda n: (n["state"], not n["bounds_met"])):
        groups.setdefault((network["state"], bool(network["bounds_met"])), []).append(network)
    return groups


def _add_front(figure: go.Figure, networks: Sequence[Network], cost: str, quality: Quality) -> None:
    eligible = [n for n in networks if n["bounds_met"]]
    if not eligible:
        return
    x, y = front(np.array([n[cost] for n in eligible], dtype=float), np.array([n["accuracy"] for n in eligible]))
    figure.add_scatter(
        x=_rounded(x), y=_rounded(_shown(y, quality)), mode="lines", name="front", hoverinfo="skip",
        line={"color": "var(--front)", "width": 2, "shape": "hv"},
    )  # fmt: skip


def _add_chosen(figure: go.Figure, chosen: Sequence[Network], across: str, up: str, quality: Quality) -> None:
    if not chosen:
        return
    figure.add_scatter(
        x=[n[across] for n in chosen],
        y=[quality.shown(n[up]) for n in chosen],
        mode="markers+text",
        name="chosen",
        marker={"symbol": "star", "size": 15, "color": _CHOSEN, "line": {"color": "var(--card)", "width": 1}},
        text=[str(n["trial"]) for n in chosen],
        textposition="top left",
        textfont={"color": _CHOSEN, "size": 13},
        hovertext=[_told(n) for n in chosen],
        hovertemplate=f"%{{hovertext}}<br>%{{x:.4s}}, {_told_y(quality)}<extra>chosen</extra>",
    )


def _add_baselines(figure: go.Figure, baselines: Sequence[Network], cost: str, images: int, quality: Quality) -> None:
    if not baselines:
        return
    figure.add_scatter(
        x=[n[cost] for n in baselines],
        y=[quality.shown(n["accuracy"]) for n in baselines],
        mode="markers",
        name="baseline",
        marker={"color": _BASELINE, "symbol": "square", "size": 9},
        error_y=_bars([100 * standard_error(n["accuracy"], images) for n in baselines], _BASELINE),
        error_x=_bars([n["latency_spread_ms"] for n in baselines if cost == "latency_ms"], _BASELINE),
        text=[escape(f"{n['name']}, {_epochs(n['epochs'])}") for n in baselines],
        hovertemplate=f"%{{text}}<br>%{{x:.4s}}, {_told_y(quality)}<extra></extra>",
    )


def _add_bounds(
    figure: go.Figure, bounds: Iterable[Bound], cost: str, x: Sequence[float], y: Sequence[float], quality: Quality
) -> None:
    """Lines at bounds on the two axes, shading what they forbid; the axes are stretched to bounds that lie near."""
    spans = {"x": list(map(float, x)), "y": list(map(float, y))}
    shown = []
    for bound in bounds:
        axis = {cost: "x", "accuracy": "y"}.get(bound.metric)
        if axis is None or not spans[axis]:
            continue
        value = quality.shown(bound.value) if axis == "y" else bound.value
        low, high = min(spans[axis]), max(spans[axis])
        near = low - (high - low) <= value <= high + (high - low)
        if near:
            spans[axis].append(value)
        shown.append((axis, value, bound, near))
    ranges = {axis: _range(values) for axis, values in spans.items() if values}
    figure.update_xaxes(range=ranges.get("x"))
    figure.update_yaxes(range=ranges.get("y"))
    for axis, value, bound, near in shown:
        _label_bound(figure, axis, value, f"{bound}" if near else f"{bound} (outside the view)", near)
        if near:
            falls = axis == "y" and quality.shown(1.0) < quality.shown(0.5)  # then higher accuracies stand lower
            _draw_bound(figure, axis, value, ranges[axis][int(bound.operator.startswith("<") != falls)])


def _range(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return [low - margin, high + 1.4 * margin]  # above the highest stands its label


def _draw_bound(figure: go.Figure, axis: str, value: float, end: float) -> None:
    other = "y" if axis == "x" else "x"
    across = {f"{other}ref": f"{other} domain", f"{other}0": 0, f"{other}1": 1, "layer": "below"}
    area = {f"{axis}0": value, f"{axis}1": end, "fillcolor": "var(--forbidden)", "line": {"width": 0}}
    figure.add_shape(type="rect", **across, **area)
    line = {"color": "var(--bound)", "width": 1.4, "dash": "dash"}
    figure.add_shape(type="line", **across, **{f"{axis}0": value, f"{axis}1": value}, line=line)


def _label_bound(figure: go.Figure, axis: str, value: float, text: str, near: bool) -> None:
    place: dict[str, Any] = {"xanchor": "right", "yanchor": "bottom"}
    if not near:
        place |= {"xref": "x domain", "yref": "y domain", "x": 1, "y": 0.01}
    elif axis == "x":
        place |= {"x": value, "yref": "y domain", "y": 0.01, "xshift": -3}
    else:
        place |= {"y": value, "xref": "x domain", "x": 1}
    figure.add_annotation(text=escape(text), showarrow=False, font={"color": "var(--bound)", "size": 11}, **place)


def _shown(accuracies: Values, quality: Quality) -> Values:
    return np.array([quality.shown(a) for a in accuracies])


def _told_y(quality: Quality) -> str:
    """The number on the y axis with its unit, in plotly's templates."""
    return f"%{{y:.1f}} {quality.unit}".rstrip()


def _bars(lengths: Sequence[float], colour: str) -> dict[str, Any] | None:
    """Error bars of these half-lengths; none for no lengths."""
    if not len(lengths):
        return None
    return {"type": "data", "array": list(lengths), "color": colour, "thickness": 0.8, "width": 0}


def _told(network: Network) -> str:
    return escape(f"trial {network['trial']}, {network['id'][:8]}, {_epochs(network['epochs'])}")


def _epochs(count: int) -> str:
    return f"{count} epoch{'' if count == 1 else 's'}"


def _tick(count: int) -> int:
    """Distance of whole ticks, about ten of them."""
    step = 1
    while count > 12 * step:
        step *= 10
    return next((s for s in (step // 5, step // 2) if s and count <= 12 * s), step)


def _rounded(values: Sequence[float] | Values) -> list[float]:
    """Five significant digits: what can be seen, in a page that stays small."""
    return [float(f"{value:.5g}") for value in values]
