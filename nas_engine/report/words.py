"""What the report says beyond `nas_engine.show`: errors of accuracies, spreads of measurements, names of costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from search_spaces.operators.base import Shape

from ..quality import ACCURACY, Quality
from ..show import milliseconds, percent, significant

TIMES = "×"

COST_NAMES = {
    "latency_ms": "Latency",
    "params": "Parameters",
    "macs": "MACs",
    "adds": "Additions",
    "shifts": "Shifts",
    "activation_bytes": "Peak activations",
    "bytes_moved": "Memory traffic",
    "train_memory_bytes": "Training memory",
}
COST_MEANINGS = {
    "latency_ms": "time of one inference on the device",
    "params": "learned numbers",
    "macs": "multiply-accumulates of one input",
    "adds": "additions of one input outside multiply-accumulates",
    "shifts": "bit shifts of one input",
    "activation_bytes": "peak of live activations of one input, float32",
    "bytes_moved": "bytes read and written for one input, float32",
    "train_memory_bytes": "peak of a training step with Adam, beyond the data, counted from the graph",
}
_AXIS_UNITS = {"latency_ms": "ms", "activation_bytes": "bytes", "bytes_moved": "bytes", "train_memory_bytes": "bytes"}


def cost_name(cost: str) -> str:
    """`latency_ms` as `Latency`; a cost that is not listed keeps its name."""
    return COST_NAMES.get(cost, cost.replace("_", " "))


def axis_title(cost: str) -> str:
    """Name and unit of a cost."""
    unit = _AXIS_UNITS.get(cost)
    return f"{cost_name(cost)} ({unit})" if unit else cost_name(cost)


def standard_error(share: float, count: int) -> float:
    """Binomial standard error of a share of `count` cases, `sqrt(p (1 - p) / n)`.

    Where no case or every case is right that formula gives zero, which claims too much; then one case more of either
    kind is supposed.
    """
    if count < 1:
        return math.nan
    p = share if 0 < share < 1 else (share * count + 1) / (count + 2)
    return math.sqrt(p * (1 - p) / count)


def with_error(share: float | None, count: int, quality: Quality = ACCURACY) -> str:
    """An accuracy with its binomial standard error; other figures alone, as their errors do not follow from the count.

    >>> with_error(0.95, 400)
    '95.0 ± 1.1 %'
    """
    if share is None or not quality.counted:
        return quality.words(share)
    error = standard_error(share, count)
    places = 2 if error < 0.001 else 1
    return percent(share) if math.isnan(error) else f"{100 * share:.{places}f} ± {100 * error:.{places}f} %"


def with_spread(value: float | None, spread: float | None) -> str:
    """A latency with the spread of its measurement.

    >>> with_spread(0.5831, 0.0123), with_spread(1234.0, 5.2), with_spread(0.5, None)
    ('0.583 ± 0.012 ms', '1234 ± 5 ms', '0.500 ms')
    """
    if value is None or spread is None or not value > 0:
        return milliseconds(value)
    places = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:.{places}f} ± {spread:.{places}f} ms"


def size(shape: Shape) -> str:
    """
    >>> size((16, 8, 8))
    '16×8×8'
    """
    return TIMES.join(map(str, shape))


def plural(count: int, word: str) -> str:
    """
    >>> plural(1, "network"), plural(3, "network")
    ('1 network', '3 networks')
    """
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def listed(items: Sequence[str]) -> str:
    """
    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def short(value: object) -> str:
    """A number or text of a summary, as a cell shows it."""
    if isinstance(value, float):
        return significant(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
