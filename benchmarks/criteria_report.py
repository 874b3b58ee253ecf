"""Table and figure of the criterion bench: Markdown, and an SVG that any browser or repository page draws."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from nas_engine.compress.criteria import Curve

COLUMNS = (
    ("spearman", "Spearman"),
    ("spearman_sd", "&plusmn;"),
    ("kendall", "Kendall"),
    ("pearson", "Pearson"),
    ("spearman_within", "Spearman in groups"),
    ("spearman_set", "Spearman, set"),
    ("spearman_example", "Spearman, examples"),
    ("ablation_area", "area, a group"),
    ("ablation_area_all", "area, all"),
    ("ablation_loss", "loss to half"),
    ("seconds", "seconds"),
)
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
    "#999999",
    "#7a5195",
    "#8c564b",
)
_DASHES = ("", "6 3", "2 3")
_ROW, _LEFT, _WIDE, _TOP = 22, 220, 330, 34
_PLOT = 300

Rows = Mapping[str, Mapping[str, Any]]


def ordered(rows: Rows) -> list[str]:
    """Criteria with figures, the best correlated first."""
    held = [name for name in rows if "refused" not in rows[name]]
    return sorted(held, key=lambda n: -2.0 if rows[n]["spearman"] is None else -rows[n]["spearman"])


def table(rows: Rows, words: str, over: str, picture: str) -> str:
    """The figures as Markdown, best correlation first."""
    lines = [
        "# Pruning criteria against true ablation",
        "",
        f"{words}. The oracle squares the change of the loss of each {over}.",
        "",
        "| criterion | " + " | ".join(title for _, title in COLUMNS) + " |",
        "|" + "---|" * (len(COLUMNS) + 1),
    ]
    for name in ordered(rows):
        cells = [_shown(rows[name].get(key)) for key, _ in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name, row in rows.items():
        if "refused" in row:
            lines.append(f"| {name} | {row['refused']} |" + " |" * (len(COLUMNS) - 1))
    lines += [
        "",
        "&plusmn;: standard deviation over bootstrapped units. Areas: mean accuracy while units go in increasing order",
        "of scores, of one group (mean over groups) or of all; the loss is the mean on the way to half of each group.",
        "",
        f"![Correlation with the oracle, and accuracy while all units go]({picture})",
    ]
    return "\n".join(lines) + "\n"


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 1 else f"{value:.3f}"


def figure(rows: Rows, curves: Mapping[str, Curve], over: str) -> str:
    """SVG: a bar of Spearman's correlation for each criterion, and beside it accuracy over the share removed."""
    names = ordered(rows)
    height = max(_TOP + _ROW * len(names) + 40, _TOP + _PLOT + 50)
    width = _LEFT + _WIDE + 90 + _PLOT + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(_LEFT, 18, f"Spearman with the oracle (squares of each {over})"),
        *_bars(rows, names),
        *_lines(curves, names, _LEFT + _WIDE + 90),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _line(x0: float, y0: float, x1: float, y1: float, colour: str = "#bbbbbb", more: str = "") -> str:
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{colour}"{more}/>'


def _style(i: int) -> tuple[str, str]:
    """Colour and stroke of the i-th criterion; no two of 27 are alike."""
    dashes = _DASHES[i // len(_COLOURS) % len(_DASHES)]
    return _COLOURS[i % len(_COLOURS)], ' stroke-width="1.6"' + (f' stroke-dasharray="{dashes}"' if dashes else "")


def _bars(rows: Rows, names: list[str]) -> list[str]:
    values = [rows[n]["spearman"] or 0.0 for n in names]
    low = min([0.0, *values])
    scale = _WIDE / (1 - low)
    zero, parts = _LEFT - low * scale, []
    bottom = _TOP + _ROW * len(names)
    for tick in (0.0, 0.5, 0.9, 1.0):
        parts += [
            _line(zero + tick * scale, _TOP, zero + tick * scale, bottom),
            _text(zero + tick * scale, bottom + 16, f"{tick:g}", "middle"),
        ]
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        y, x = _TOP + _ROW * i, zero + min(0.0, value) * scale
        parts += [
            f'<rect x="{x:.1f}" y="{y + 3}" width="{abs(value) * scale:.1f}" height="{_ROW - 6}"'
            f' fill="{_style(i)[0]}"/>',
            _text(_LEFT - 36, y + 15, name, "end"),
            _line(_LEFT - 30, y + 11, _LEFT - 6, y + 11, *_style(i)),
            _text(zero + max(0.0, value) * scale + 5, y + 15, f"{value:.2f}"),
        ]
    return parts


def _lines(curves: Mapping[str, Curve], names: list[str], left: float) -> list[str]:
    bottom = _TOP + _PLOT
    parts = [_text(left, 18, "Accuracy while units of all groups go"), _line(left, bottom, left + _PLOT, bottom)]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts += [
            _text(left + tick * _PLOT, bottom + 16, f"{100 * tick:.0f} %", "middle"),
            _text(left - 6, bottom - tick * _PLOT + 4, f"{100 * tick:.0f} %", "end"),
            _line(left, bottom - tick * _PLOT, left + _PLOT, bottom - tick * _PLOT, "#eeeeee"),
        ]
    for i, name in enumerate(names):
        curve, (colour, stroke) = curves[name], _style(i)
        pairs = zip(curve.removed, curve.accuracy, strict=True)
        points = " ".join(f"{left + x * _PLOT:.1f},{bottom - y * _PLOT:.1f}" for x, y in pairs)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}"{stroke}>'
            f"<title>{escape(name)}</title></polyline>"
        )
    parts.append(_text(left + _PLOT / 2, bottom + 34, "share of units removed", "middle"))
    return parts
