"""What a comparison with baselines comes to: for each chosen network the best baseline that is at most as slow.

Baselines are ranked on the validation part, as candidates are; how much better one is, is told by the test part, which
neither was chosen by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..report.words import standard_error
from ..show import milliseconds, percent

Row = Mapping[str, Any]
ALIKE = 1.05  # times the latency of another network count as at most as slow: measurements do not tell them apart


@dataclass(frozen=True)
class Comparison:
    """A chosen network against the best baseline that is at most as slow.

    Attributes:
        trial: of the network.
        rival: the baseline's id, None where no baseline is fast enough.
        points: by how many percentage points the network's accuracy on the test part is higher.
        error: standard error of that difference, in points.
        words: the same as a sentence.
    """

    trial: int
    rival: str | None
    points: float | None
    error: float | None
    words: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compared(networks: Sequence[Row], baselines: Sequence[Row], images: int) -> list[Comparison]:
    """A comparison for each network, the most accurate one first.

    Args:
        networks: chosen ones, with `trial`, `accuracy`, `test_accuracy` and `latency_ms`.
        baselines: with `id`, `name`, `state` and the same figures; those without a test accuracy do not count.
        images: of the test part.
    """
    rivals = [b for b in baselines if b.get("test_accuracy") is not None]
    return [_compared(n, rivals, images) for n in sorted(networks, key=lambda n: -n["accuracy"])]


def _compared(network: Row, rivals: Sequence[Row], images: int) -> Comparison:
    own = f"trial {network['trial']} ({milliseconds(network['latency_ms'])})"
    if not rivals:
        return Comparison(network["trial"], None, None, None, f"No baseline was trained to stand beside {own}.")
    fast = [b for b in rivals if b["latency_ms"] <= ALIKE * network["latency_ms"]]
    rival = max(fast, key=lambda b: b["accuracy"]) if fast else min(rivals, key=lambda b: b["latency_ms"])
    theirs = f"{rival['name']} ({milliseconds(rival['latency_ms'])})"
    points, error = _gap(network["test_accuracy"], rival["test_accuracy"], images)
    shares = f"{percent(network['test_accuracy'])} against {percent(rival['test_accuracy'])} of the test images"
    if abs(points) < 2 * error:
        shares += ", which chance explains"
    if not fast:
        words = f"No baseline is as fast as {own}; it is {_difference(points)} the fastest, {theirs}: {shares}."
        return Comparison(network["trial"], None, None, None, words)
    words = f"{own} is {_difference(points)} the best baseline at most as slow, {theirs}: {shares}."
    return Comparison(network["trial"], rival["id"], points, error, words[0].upper() + words[1:])


def _gap(ours: float, theirs: float, images: int) -> tuple[float, float]:
    """Difference of two accuracies and its standard error, in points, as if judged by different images."""
    return 100 * (ours - theirs), 100 * math.hypot(standard_error(ours, images), standard_error(theirs, images))


def _difference(points: float) -> str:
    if abs(points) < 0.05:
        return "as accurate as"
    return f"{abs(points):.1f} points {'better' if points > 0 else 'worse'} than"
