"""What a run calls the quality of its networks: accuracy of images and nodes, perplexity of texts, ROC-AUC of labels.

Files, samplers, predictors and bounds know one figure, `accuracy`, in 0 to 1 and better when higher. Of a text it is
`1 / perplexity`, the geometric mean of the probabilities given to the right next tokens; people see the perplexity. Of
nodes that may have several labels it is the area under the ROC curve, the mean over labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

MISSING = "-"


@dataclass(frozen=True)
class Quality:
    """How the figure `accuracy` is come by, and how it is shown.

    Attributes:
        name: what people call it.
        score: from the share of right predictions, or the area under the curve, and the mean cross-entropy in nats to
            the figure in files.
        shown: from the figure in files to the number that people read, in `unit`.
        unit: "%" or nothing.
        headline: what a network reaches on the test part, with a place for the number.
        task: of a network, in a few words.
        cases: what is judged, in the plural.
        classes: what the outputs stand for, in the plural.
        counted: whether it is the share of cases that are right, so that its chance error follows from their number.
        falling: whether what people read is better when lower.
    """

    name: str
    score: Callable[[float, float], float]
    shown: Callable[[float], float]
    unit: str
    headline: str
    task: str
    cases: str
    classes: str
    counted: bool = False
    falling: bool = False

    def words(self, accuracy: float | None, digits: int = 1) -> str:
        """The shown number with its unit.

        >>> ACCURACY.words(0.9312), PERPLEXITY.words(0.01), ACCURACY.words(None)
        ('93.1 %', '100.0', '-')
        """
        if accuracy is None or math.isnan(accuracy):
            return MISSING
        return f"{self.shown(accuracy):,.{digits}f} {self.unit}".rstrip()

    @property
    def axis(self) -> str:
        """Title of an axis, or of a column that has no units of its own."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def told(self, accuracy: float) -> str:
        """Name and number, as a sentence has them.

        >>> PERPLEXITY.told(0.01)
        'perplexity 100.0'
        """
        return f"{self.name} {self.words(accuracy)}"


def _inverse(accuracy: float) -> float:
    return 1 / accuracy if accuracy > 0 else math.inf


ACCURACY = Quality(
    name="accuracy",
    score=lambda right, loss: right,
    shown=lambda accuracy: 100 * accuracy,
    unit="%",
    headline="{} of the test images right",
    task="image classification",
    cases="images",
    classes="classes",
    counted=True,
)
NODES = replace(ACCURACY, headline="{} of the test nodes right", task="node classification", cases="nodes")
PERPLEXITY = Quality(
    name="perplexity",
    score=lambda right, loss: math.exp(-loss),
    shown=_inverse,
    unit="",
    headline="A perplexity of {} on the test text",
    task="language modelling",
    cases="tokens",
    classes="tokens",
    falling=True,
)
ROC_AUC = Quality(
    name="ROC-AUC",
    score=lambda area, loss: area,
    shown=lambda accuracy: 100 * accuracy,
    unit="%",
    headline="A ROC-AUC of {} on the test nodes",
    task="labelling of nodes",
    cases="nodes",
    classes="labels",
)

QUALITIES = {quality.name: quality for quality in (ACCURACY, PERPLEXITY, ROC_AUC)}
"""By name; the accuracy of nodes is shown as that of images is."""

TEXTS = ("text", "pydoc")
"""Kinds of data sources that are texts."""
GRAPHS = ("graph", "planetoid", "pyg", "ogb", "digits-knn")
"""Kinds of data sources that are graphs."""

DataKind = Literal["images", "text", "graph"]


def data_kind(source: str) -> DataKind:
    """What a data source holds.

    >>> data_kind("CIFAR10"), data_kind("text:novel.txt"), data_kind("graph:cora.npz")
    ('images', 'text', 'graph')
    """
    kind = source.strip().partition(":")[0]
    return "text" if kind in TEXTS else "graph" if kind in GRAPHS else "images"


def quality_of(source: str, several: bool = False) -> Quality:
    """The quality of networks for a data source.

    Args:
        several: whether a node of a graph may have several labels.

    >>> quality_of("digits").name, quality_of("text:novel.txt").name, quality_of("ogb:proteins", several=True).name
    ('accuracy', 'perplexity', 'ROC-AUC')
    """
    kind = data_kind(source)
    if kind == "graph":
        return ROC_AUC if several else NODES
    return PERPLEXITY if kind == "text" else ACCURACY
