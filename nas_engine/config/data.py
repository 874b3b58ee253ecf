"""The section of a run's configuration that says what the data are."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from search_spaces.errors import ConfigError, did_you_mean

from ..quality import DataKind, Quality, data_kind, quality_of
from .base import Section


class Data(Section):
    """Which images, text or graph, and how they are split.

    limit: training images or nodes (validation included), or training tokens. validation: share of the training images,
    or of the training nodes of a graph that has no validation part. image_size, augment, normalise: of images;
    normalise is `data` (their own statistics), or what a trained network expects: `imagenet`, `symmetric`, `unit`, or
    mean and std.
    Of a text: tokens: `word` or `character`. vocabulary: different tokens, at most. steps: tokens of a window.
    Of a graph: target: the array of labels in a file. labels: `one` class a node, or `several` labels; seen from the
    file or the name where it is left out. features: how they are scaled: `rows`, `columns`, `raw`, or `auto`, which is
    rows for bags of words. undirected: let all edges lead both ways. parts: pieces that it is trained in, a random
    partition in each epoch. view_parts, views: pieces that it is judged in, and partitions to take the mean over.
    neighbours: drawn in each hop around the training nodes of a batch, in place of parts.
    """

    source: str = "digits"
    validation: float = Field(0.2, gt=0, lt=1)
    limit: int | None = Field(None, ge=20)
    image_size: int | None = Field(None, ge=4)
    augment: dict[str, Any] | None = None
    normalise: str | dict[str, Any] = "data"
    tokens: Literal["word", "character"] = "word"
    vocabulary: int | None = Field(None, ge=3)
    steps: int = Field(35, ge=2)
    target: str | None = None
    labels: Literal["one", "several"] | None = None
    features: Literal["auto", "rows", "columns", "raw"] = "auto"
    undirected: bool = False
    parts: int = Field(1, ge=1)
    view_parts: int = Field(1, ge=1)
    views: int = Field(1, ge=1)
    neighbours: tuple[PositiveInt, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _seen_labels(cls, data: Any) -> Any:
        """What the labels of a graph are is written down, so that a run is understood where its data are not."""
        source = data.get("source") if isinstance(data, dict) else None
        if isinstance(source, str) and data.get("labels") is None and data_kind(source) == "graph":
            from ..data.graph_sources import labels_of

            return {**data, "labels": labels_of(source, data.get("target") or "y")}
        return data

    @field_validator("augment")
    @classmethod
    def _known_augmentations(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value:
            from ..data.augment import Augment

            allowed = [f.name for f in fields(Augment)]
            for key in value:
                if key not in allowed:
                    raise ValueError(f"unknown augmentation {key!r}: {did_you_mean(key, allowed)}")
            try:
                Augment(**value)
            except ConfigError as e:
                raise ValueError(str(e)) from None
        return value

    @field_validator("normalise")
    @classmethod
    def _known_normalisation(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        from ..data.normalisation import parsed

        try:
            parsed(value)
        except ConfigError as e:
            raise ValueError(str(e)) from None
        return value

    @model_validator(mode="after")
    def _of_the_source(self) -> Data:
        here = data_kind(self.source)
        for key, kinds in _KINDS_OF_SETTINGS.items():
            if here not in kinds and getattr(self, key) != type(self).model_fields[key].default:
                other, kind = _KINDS[kinds[0]], _KINDS[here]
                raise ValueError(f"{key} is a setting of {other}, but {self.source!r} is {kind}; leave it out")
        if self.neighbours and self.parts > 1:
            raise ValueError("neighbours and parts are two ways to make batches of a graph; leave one out")
        if self.views > 1 and self.view_parts == 1:
            raise ValueError(f"{self.views} views of a graph in one piece are all alike; give view_parts 2 or more")
        return self

    @property
    def quality(self) -> Quality:
        """What the quality of networks for this source is called, and how it is shown."""
        return quality_of(self.source, self.labels == "several")


_KINDS: dict[DataKind, str] = {"images": "images", "text": "a text", "graph": "a graph"}
_KINDS_OF_SETTINGS: dict[str, tuple[DataKind, ...]] = {
    "validation": ("images", "graph"),
    **dict.fromkeys(("image_size", "augment", "normalise"), ("images",)),
    **dict.fromkeys(("tokens", "vocabulary", "steps"), ("text",)),
    **dict.fromkeys(
        ("target", "labels", "features", "undirected", "parts", "view_parts", "views", "neighbours"), ("graph",)
    ),
}
