"""Numbers, tables and JSON as the command line and the report show them.

Files hold fractions, plain counts and milliseconds; people get percent, `1.23 M` and three significant digits.
Every such conversion is here, so that a figure reads the same in a table, in the report and in a message.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from .quality import ACCURACY, MISSING, Quality

WIDE = 240
_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))

TITLES = {
    "accuracy": "accuracy",
    "accuracy_std": "accuracy +/-",
    "accuracy_predicted": "predicted",
    "accuracy_predicted_std": "predicted +/-",
    "test_accuracy": "test",
    "params": "params",
    "macs": "MACs",
    "adds": "additions",
    "activation_bytes": "activations",
    "bytes_moved": "bytes moved",
    "train_memory_bytes": "training memory",
    "latency_ms": "latency",
    "latency_spread_ms": "latency +/-",
    "latency_ms_predicted": "latency predicted",
}
"""Headings of the figures a run records."""


# ---- numbers -----------------------------------------------------------------------------------------------


def absent(value: Any) -> bool:
    """Whether there is nothing to show: None or not-a-number."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits and no exponent between a millionth and a million.

    >>> significant(0.012345), significant(1.2), significant(1234.5)
    ('0.0123', '1.20', '1,230')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-6 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    rounded = float(f"{value:.{digits - 1}e}")
    places = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(places, 0)}f}"


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as percent.

    >>> percent(0.9312), percent(None)
    ('93.1 %', '-')
    """
    return MISSING if fraction is None or absent(fraction) else f"{100 * fraction:.{digits}f} %"


def count(number: float | None, unit: str = "") -> str:
    """A count: in full up to 9,999 (a unit apart), else with three digits and a scale.

    >>> count(9876), count(1_234_567), count(2.5e9, "B"), count(15625)
    ('9,876', '1.23 M', '2.50 GB', '15.6 k')
    """
    if number is None or absent(number):
        return MISSING
    size = float(f"{abs(number):.2e}")
    if size >= 1e15:
        return f"{number:.2e} {unit}".rstrip()
    for scale, letter in _SCALES:
        if size >= max(scale, 1e4):
            return f"{significant(number / scale)} {letter}{unit}"
    return f"{number:,.0f} {unit}".rstrip()


def whole(number: int) -> str:
    """A count in full with thousands separators, as far as that can be read.

    >>> whole(15625), whole(10**20)
    ('15,625', '1.00e+20')
    """
    return f"{number:,}" if abs(number) < 10**12 else f"{number:.2e}"


def milliseconds(value: float | None) -> str:
    """A latency with three significant digits.

    >>> milliseconds(0.12345), milliseconds(1234.0)
    ('0.123 ms', '1,230 ms')
    """
    return MISSING if value is None or absent(value) else f"{significant(value)} ms"


def duration(seconds: float | None) -> str:
    """A time that a person waits for.

    >>> duration(0.4), duration(12), duration(200), duration(7500)
    ('0.4 s', '12 s', '3 min 20 s', '2 h 5 min')
    """
    if seconds is None or absent(seconds):
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60} min"


def figure(name: str, value: Any, quality: Quality = ACCURACY) -> str:
    """A recorded figure by the name it has in the files; accuracies as `quality` shows them.

    >>> figure("accuracy", 0.5), figure("latency_ms", 2.0), figure("params", 42_000), figure("code", "013")
    ('50.0 %', '2.00 ms', '42.0 k', '013')
    """
    if absent(value):
        return MISSING
    if isinstance(value, str | bool):
        return str(value)
    if "accuracy" in name:
        deviation = name.endswith("_std") and quality.falling  # has no counterpart in what is shown
        return significant(float(value)) if deviation else quality.words(float(value))
    if "_ms" in name:
        return milliseconds(float(value))
    if "bytes" in name:
        return count(float(value), "B")
    if name == "seconds":
        return duration(float(value))
    if name in ("params", "macs", "adds", "shifts"):
        return count(float(value))
    if isinstance(value, int):
        return whole(value)
    return significant(float(value), 4) if is_number(value) else str(value)


def is_number(value: Any) -> bool:
    """Whether a value is a number, numpy's included, and no truth value."""
    return not isinstance(value, bool) and hasattr(value, "__float__") and not isinstance(value, str)


# ---- JSON --------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """The same value in the types of JSON: numpy scalars and paths converted, not-a-number as None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def to_json(value: Any) -> str:
    """Strict JSON: no NaN, no Infinity."""
    return json.dumps(plain(value), indent=1, allow_nan=False)


# ---- tables ------------------------------------------------------------------------------------------------


def show(parts: Iterable[Any], stream: TextIO) -> None:
    """Print texts and tables; nothing is cut where the output goes to a file or a pipe."""
    from rich.console import Console

    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))


def table(
    rows: Iterable[Mapping[str, Any]],
    columns: Iterable[str],
    right: Iterable[str] = (),
    quality: Quality = ACCURACY,
    **heads: str,
) -> Any:
    """A rich table of rows; numbers are formatted by `figure` and stand right.

    Args:
        rows: one mapping a row.
        columns: keys to show, in order.
        right: keys of texts that stand right as well.
        quality: how accuracies are shown; a row with a `quality` of its own is shown by that.
        heads: headings of keys, where not those of `TITLES` or the key itself.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    rows, columns = list(rows), list(columns)
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for key in columns:
        numeric = key in right or any(is_number(row.get(key)) for row in rows)
        head = heads.get(key) or TITLES.get(key) or key.replace("_", " ")
        made.add_column(Text(head), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(figure(key, row.get(key), row.get("quality", quality))) for key in columns))
    return made
