"""What a run calls the quality of its networks: accuracy of images, perplexity of texts.

Files, samplers, predictors and bounds know one figure, `accuracy`, in 0 to 1 and better when higher. Of a text it is
`1 / perplexity`, the geometric mean of the probabilities given to the right next tokens; people see the perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

MISSING = "-"


@dataclass(frozen=True)
class Quality:
    """How the figure `accuracy` is come by, and how it is shown.

    Attributes:
        name: what people call it.
        score: from the share of right predictions and the mean cross-entropy in nats to the figure in files.
        shown: from the figure in files to the number that people read, in `unit`.
        unit: "%" or nothing.
        headline: what a network reaches on the test part, with a place for the number.
        task: of a network, in a few words.
        cases: what is judged, in the plural.
        classes: what the outputs stand for, in the plural.
    """

    name: str
    score: Callable[[float, float], float]
    shown: Callable[[float], float]
    unit: str
    headline: str
    task: str
    cases: str
    classes: str

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
)
PERPLEXITY = Quality(
    name="perplexity",
    score=lambda right, loss: math.exp(-loss),
    shown=_inverse,
    unit="",
    headline="A perplexity of {} on the test text",
    task="language modelling",
    cases="tokens",
    classes="tokens",
)

QUALITIES = {quality.name: quality for quality in (ACCURACY, PERPLEXITY)}

TEXTS = ("text", "pydoc")
"""Kinds of data sources that are texts."""


def quality_of(source: str) -> Quality:
    """The quality of networks for a data source.

    >>> quality_of("digits").name, quality_of("text:novel.txt").name
    ('accuracy', 'perplexity')
    """
    return PERPLEXITY if source.strip().partition(":")[0] in TEXTS else ACCURACY
