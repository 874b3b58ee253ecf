"""Members of a space as predictors see them: encoded sketches, graph features, further inputs.

Reading a graph costs more than predicting from it. So all parts of an ensemble share what was read, and a small space
is read once, whole: from then on any of its members is a row number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from search_spaces.graph import Graph

from .encoding import Encoder, GraphBatch
from .features import GraphFeatures

if TYPE_CHECKING:
    from search_spaces.space import Architecture, SearchSpace

_SMALL = 32_768  # distinct members of a space that is read whole


@dataclass(frozen=True)
class Members:
    """B members as predictors see them.

    Attributes:
        architectures: the members.
        graphs: their encoded sketches.
        extra: further inputs `(B, k)`, standardised over those learned from.
        reader: what read them.
        rows: their places among the known members, int64 `(B,)`; None where they are not known.
    """

    architectures: Sequence[Architecture]
    graphs: GraphBatch
    extra: np.ndarray
    reader: Reader
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.architectures)

    @cached_property
    def features(self) -> np.ndarray:
        """Graph features beside the further inputs, float64 `(B, F + k)`."""
        own = self.reader.features(self.graphs) if self.rows is None else self.reader.known_features[self.rows]
        return np.concatenate([own, self.extra], axis=1)


@dataclass(frozen=True)
class _Census:
    """All distinct members of a small space; `row_of` has the row of every member, by its indices."""

    row_of: dict[tuple[int, ...], int]
    architectures: list[Architecture]
    graphs: GraphBatch


class Reader:
    """How the members of a space are read.

    Args:
        space: whose members are read.
        facts: what `Reader.facts` gave earlier; made anew by default.

    Attributes:
        encoder: of sketches.
    """

    _of: WeakKeyDictionary[SearchSpace, Reader] = WeakKeyDictionary()

    def __init__(self, space: SearchSpace, facts: Mapping[str, Any] | None = None) -> None:
        facts = facts or {}
        self.space = space
        self.encoder = Encoder(space, facts.get("vocabulary"))
        self._feature_facts = facts.get("features")

    @classmethod
    def of(cls, space: SearchSpace, facts: Mapping[str, Any] | None = None) -> Reader:
        """The reader that all predictors of a space object share; one of its own where the facts differ."""
        shared = cls._of.get(space)
        if shared is None:
            shared = cls._of[space] = cls(space, facts)
        if facts is None or shared.agrees(facts):
            return shared
        return cls(space, facts)

    def agrees(self, facts: Mapping[str, Any]) -> bool:
        """Whether a reader made with these facts would read the same."""
        mine = self.facts
        return mine["vocabulary"] == facts["vocabulary"] and (
            facts["features"] is None or self.features.facts == facts["features"]
        )

    @cached_property
    def features(self) -> GraphFeatures:
        """Of graphs that `encoder` encoded; made when first asked for."""
        return GraphFeatures(self.space, self.encoder, self._feature_facts)

    @property
    def facts(self) -> dict[str, Any]:
        """What makes an equal reader, as JSON stores it."""
        features = self.features.facts if "features" in self.__dict__ else self._feature_facts
        return {"vocabulary": self.encoder.vocabulary, "features": features}

    def read(
        self,
        architectures: Sequence[Architecture],
        sketches: Iterable[Graph] | None = None,
        extra: np.ndarray | None = None,
    ) -> Members:
        """Members, with their sketches where the caller has them, and their further inputs `(B, k)`."""
        inputs = np.zeros((len(architectures), 0)) if extra is None else extra
        rows = self._rows(architectures)
        if rows is not None:
            return Members(architectures, self._census.graphs.select(rows), inputs, self, rows)
        graphs = map(self.space.sketch, architectures) if sketches is None else sketches
        return Members(architectures, self.encoder.encode(graphs), inputs, self)

    # ---- small spaces ------------------------------------------------------------------------------------

    def known(self, rows: np.ndarray) -> Members:
        """The known members in these rows."""
        members = [self._census.architectures[i] for i in rows]
        return Members(members, self._census.graphs.select(rows), np.zeros((len(rows), 0)), self, rows)

    @property
    def whole(self) -> bool:
        """Whether the space is small enough to be read whole."""
        return self.space.distinct <= _SMALL

    def everything(self) -> Members:
        """All distinct members of a space that is read whole."""
        return self.known(np.arange(len(self._census.architectures)))

    def distinct(self, architectures: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray] | None:
        """Rows of the distinct networks among members, and which of them each is; None where some is not known."""
        rows = self._rows(architectures)
        return None if rows is None else np.unique(rows, return_inverse=True)

    @cached_property
    def known_features(self) -> np.ndarray:
        """Graph features of all known members."""
        return self.features(self._census.graphs)

    def _rows(self, architectures: Sequence[Architecture]) -> np.ndarray | None:
        if not self.whole:
            return None
        row_of = self._census.row_of
        try:
            return np.fromiter((row_of[a.indices] for a in architectures), dtype=np.int64, count=len(architectures))
        except KeyError:
            return None

    @cached_property
    def _census(self) -> _Census:
        row_of: dict[tuple[int, ...], int] = {}
        row_of_canonical: dict[tuple[int, ...], int] = {}
        distinct: list[Architecture] = []
        for member in self.space.enumerate():
            canonical = self.space.canonical(member)
            row = row_of_canonical.setdefault(canonical.indices, len(distinct))
            if row == len(distinct):
                distinct.append(canonical)
            row_of[member.indices] = row
        return _Census(row_of, distinct, self.encoder.encode(map(self.space.sketch, distinct)))

    def __getstate__(self) -> dict[str, Any]:
        """Without what is made again where it is asked for."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_census", "known_features")}
