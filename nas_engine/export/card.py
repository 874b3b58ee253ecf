"""`card.md`: what a network is, what was measured of it, how to load it, and what is not known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from search_spaces.graph import Graph

from ..quality import ACCURACY, Quality

if TYPE_CHECKING:
    from .base import Exporter
    from .inputs import Port

_COUNTED = (
    ("params", "parameters", ""),
    ("macs", "multiply-accumulates", ""),
    ("activation_bytes", "peak activations", "bytes"),
    ("bytes_moved", "memory traffic", "bytes"),
)
_MOST_CLASSES = 1000  # that a card lists in full
_LICENCE = "The weights may be bound by the terms of the training data; `model.py` may be used freely."


@dataclass(frozen=True)
class Card:
    """What goes onto the card beside what the bundle itself knows.

    Attributes:
        name: of the network.
        data, source: a sentence about the data, and its specification.
        classes, mean, std: labels in order, and the normalisation of inputs.
        epochs, seed, inherited: how it was trained; whether it started from the supernet's weights.
        fresh: it was not trained; `seed` drew its weights, and forms were compared on random numbers.
        metrics: measured and predicted figures, named as in `choose/chosen.json`; accuracies are fractions.
        device: fields of the device that latency was measured on.
        task: what the network does, in a few words.
        quality: what `metrics` calls accuracy.
        validation_images, test_images: how many images the accuracies were measured on, 0 where that is not known.
        licence, limits: a sentence, and what else the reader must know.
    """

    name: str
    data: str = ""
    source: str = ""
    classes: Sequence[str] = ()
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    epochs: int = 0
    seed: int = 0
    inherited: bool = False
    fresh: bool = False
    metrics: Mapping[str, Any] = field(default_factory=dict)
    device: Mapping[str, Any] = field(default_factory=dict)
    task: str = "image classification"
    quality: Quality = ACCURACY
    validation_images: int = 0
    test_images: int = 0
    licence: str = _LICENCE
    limits: Sequence[str] = ()


def card_text(
    card: Card,
    graph: Graph,
    taken: Sequence[Port],
    forms: Mapping[str, type[Exporter]],
    verification: Mapping[str, Any],
) -> str:
    """The Markdown of the card; `verification` is what `verification.json` holds."""
    from .inputs import is_of_graphs
    from .source import template

    m, names = card.metrics, [port.name for port in taken]
    text = template("card.md.j2").render(
        card=card,
        classes=_listed(card.classes),
        inputs=[(port.name, port.dtype, ", ".join(port.words)) for port in taken],
        of_graphs=is_of_graphs(graph),
        compared=_compared(card, taken, verification),
        validation=_judged(card, m.get("accuracy"), card.validation_images),
        test=_judged(card, m.get("test_accuracy"), card.test_images),
        predicted=_predicted(card, m),
        costs=[*_counted(m, graph), *_latency(m)],
        uncounted=sorted({n.operator for n in graph.uncounted}),
        device=", ".join(f"{_words(k)} {_cell(v)}" for k, v in card.device.items() if v not in ("", None, False)),
        names=names,
        cases="graphs" if len(taken) > 1 else names[0],
        forms=[(name, form.file, form.reader(names)) for name, form in forms.items()],
        verification=verification,
        numbers=lambda values: ", ".join(f"{v:.4g}" for v in values),
    )
    return text.rstrip() + "\n"


def _compared(card: Card, taken: Sequence[Port], verification: Mapping[str, Any]) -> str:
    """What the forms were run on."""
    real = "random" if card.fresh else "real"
    if len(taken) == 1:
        return f"{verification['images']} {real} {taken[0].name}, as one batch and the first alone"
    whole, part = (
        " and ".join(f"{shapes[port.name][axis]:,} {size}" for port in taken[:2] for axis, size in port.free.items())
        for shapes in verification["shapes"]
    )
    return f"the {real} graph of {whole}, and on one of {part} made from it"


def _listed(classes: Sequence[str]) -> list[str]:
    """The classes, or the first of many."""
    if len(classes) <= _MOST_CLASSES:
        return [_cell(c) for c in classes]
    return [*(_cell(c) for c in classes[:20]), f"and {len(classes) - 20:,} more, all in `architecture.json`"]


def _judged(card: Card, accuracy: float | None, cases: int) -> str:
    if card.quality.counted or accuracy is None:
        return accuracy_words(accuracy, cases, card.quality.cases)
    return card.quality.told(accuracy) + (f" over {cases:,} {card.quality.cases}" if cases else "")


def accuracy_words(accuracy: float | None, count: int, cases: str = "images") -> str:
    """An accuracy with its 95 % interval (Wilson 1927), which says how far chance alone may have moved it.

    >>> accuracy_words(0.9, 100)
    '90.00 % of 100 images (95 % interval 82.6 % to 94.5 %)'
    """
    if accuracy is None:
        return "not measured"
    if not count:
        return f"{100 * accuracy:.2f} % (the number of {cases} is not known)"
    z = 1.96
    centre = (accuracy + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(accuracy * (1 - accuracy) / count + z * z / (4 * count * count))
    low, high = 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)
    return f"{100 * accuracy:.2f} % of {count:,} {cases} (95 % interval {low:.1f} % to {high:.1f} %)"


def _predicted(card: Card, m: Mapping[str, Any]) -> str:
    if m.get("accuracy_predicted") is None:
        return ""
    if not card.quality.counted:
        return card.quality.told(m["accuracy_predicted"])
    spread = m.get("accuracy_predicted_std")
    return f"{100 * m['accuracy_predicted']:.2f} %" + (f" (standard deviation {100 * spread:.2f} %)" if spread else "")


def _counted(m: Mapping[str, Any], graph: Graph) -> list[tuple[str, str, str, str]]:
    """Rows of the cost table: what, predicted, measured, unit. Counts follow from the graph, so they are exact."""
    own = {"params": graph.cost.params, "macs": graph.cost.macs, "bytes_moved": graph.cost.bytes_moved}
    figures = {**own, **{k: m[k] for k, _, _ in _COUNTED if m.get(k) is not None}}
    return [(label, f"{figures[k]:,.0f} (counted)", "", unit) for k, label, unit in _COUNTED if k in figures]


def _latency(m: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    measured, predicted = m.get("latency_ms"), m.get("latency_ms_predicted")
    if measured is None and predicted is None:
        return []
    spread = f" (interquartile range {m['latency_spread_ms']:.2g})" if m.get("latency_spread_ms") is not None else ""
    return [
        (
            "latency",
            "" if predicted is None else f"{predicted:.3g}",
            "not measured" if measured is None else f"{measured:.3g}{spread}",
            "ms",
        )
    ]


def _cell(value: object) -> str:
    """Any text inside a line or a table cell of Markdown."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _words(key: str) -> str:
    return key.replace("_", " ")
