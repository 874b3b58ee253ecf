"""A space made of a user's table: every row is a member whose score is known, and no other member is drawn.

A column is a choice. Members are a chain of their choices, which predictors can read and nobody can train, or the
networks of a named space whose choices the columns are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .errors import SpaceError, did_you_mean
from .graph import Graph, Node, Signature
from .operators.base import Operator, Shape, register_operator
from .space import Architecture, Choice, SearchSpace
from .spaces import make_space, register_space, spaces

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from .tabular_rows import Source


@register_operator("choice")
class ChosenOption(Operator):
    """Its input, unchanged: stands for the option that a member has of one choice, where no more is known of it.

    Attributes:
        label: name of the choice.
        option: the option; predictors read numbers as numbers and texts as categories. True and False are texts, as
            they would equal 1 and 0.
        level: place of a number among the choice's options, 0 for the smallest and 1 for the largest; None for texts.
    """

    label: str
    option: float | str
    level: float | None = None
    view = True

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def expression(self, *names: str) -> str:
        return names[0]


@register_space("table")
class TableSpace(SearchSpace):
    """The members that a table has rows of, with their scores.

    Choices come from `choices`, `digits`, or `graph`; of the first two exactly one is given where there is no `graph`.
    Options of a choice are the distinct values of its column, numbers rising and texts sorted. `architecture` and
    `decode` also make members that the table lacks (a predictor may be asked for them); walking the space does not.

    Args:
        path: a `.parquet`, `.csv` or `.csv.gz` file, or a `pandas.DataFrame`.
        target: column of the score, higher is better. Rows without a score are left out; rows of equal choices are one
            member with their mean score.
        choices: columns that are the choices.
        digits: a column of texts of one length each of whose characters is a choice (`arch[0]`, `arch[1]`, ...).
        graph: a space whose networks the members are; columns are called like its choices, unless `key` is given.
        parameters: of that space.
        key: a column of texts that name members the way the space's `from_text` reads them.

    Raises:
        DataError: a missing file or column, a target that holds no numbers, missing values, too many options.
        SpaceError: arguments that do not go together, or an option that the named space has not.
    """

    def __init__(
        self,
        *,
        path: str | pd.DataFrame,
        target: str,
        choices: Sequence[str] | None = None,
        digits: str | None = None,
        graph: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        key: str | None = None,
        input_shape: Sequence[int] = (3, 32, 32),
        classes: int = 10,
    ) -> None:
        from .tabular_rows import Rows, Source

        source, self.target = Source(path), target
        shape = {"input_shape": tuple(input_shape), "classes": classes}
        self._inner = None if graph is None else make_space(graph, {**shape, **(parameters or {})})
        _go_together(self._inner, choices, digits, parameters, key)
        if self._inner is not None:
            self.input_axes = self._inner.input_axes
        scores = source.numbers(target)
        made, indices = self._read(source, choices, digits, key)
        super().__init__(made, input_shape=input_shape, classes=classes)
        if self._inner is not None:  # choices that rest settle
            unique, place = _unique(indices)
            indices = _stacked([self._inner.from_indices(row).indices for row in unique.tolist()])[place]
        self._rows = Rows(indices, scores, source, [name for name in (digits, key) if name is not None])

    def _read(
        self, source: Source, choices: Sequence[str] | None, digits: str | None, key: str | None
    ) -> tuple[Sequence[Choice], np.ndarray]:
        from . import tabular_rows as rows

        if self._inner is None:
            return rows.columns_as_choices(source, choices) if choices else rows.digits_as_choices(source, str(digits))
        if key is not None:
            return self._inner.choices, rows.keys_as_members(source, key, _reader(self._inner))
        for name in choices or ():
            if name not in self._inner._position:
                known = did_you_mean(name, self._inner._position)
                raise SpaceError(f"space {self._inner.name!r} has no choice {name!r}: {known}")
        return self._inner.choices, rows.columns_as_members(source, self._inner.choices)

    # ---- what the table knows ----------------------------------------------------------------------------

    def known(self, architecture: Architecture) -> bool:
        """Whether the table has a row of this member."""
        return self._rows.find(architecture.indices) is not None

    def score(self, architecture: Architecture) -> float:
        """The target of a member; the mean where several rows are of it."""
        return float(self._rows.scores[self._place(architecture)])

    def row(self, architecture: Architecture) -> dict[str, Any]:
        """All columns of the table for a member; where several rows are of it, the means of numbers."""
        return self._rows.record(self._place(architecture))

    @property
    def scores(self) -> np.ndarray:
        """The scores of all members in the order of `enumerate`, float64 `(size,)`."""
        return self._rows.scores.copy()

    @property
    def about(self) -> dict[str, Any]:
        """Where the members come from: table, target, members, repeated and left_out (rows), share (of the product)."""
        rows = self._rows
        combinations = math.prod(self._counts) if self._inner is None else self._inner.size
        return {
            "table": rows.source.name,
            "target": self.target,
            "members": len(rows),
            "repeated": rows.repeated,
            "left_out": rows.left_out,
            "share": len(rows) / combinations,
        }

    def _place(self, architecture: Architecture) -> int:
        place = self._rows.find(architecture.indices)
        if place is None:
            raise SpaceError(f"the table has no row of {architecture.values}; ask known(architecture) first")
        return place

    # ---- networks ----------------------------------------------------------------------------------------

    def graph(self, architecture: Architecture) -> Graph:
        """A network of the named space, or a chain of nodes `choice` in the order of the choices."""
        if self._inner is not None:
            return self._inner.graph(self._inner.from_indices(architecture.indices))
        nodes = (options[i] for options, i in zip(self._nodes, architecture.indices, strict=True))
        return Graph((self._entry, *nodes), (self._nodes[-1][0].name,))

    def sketch(self, architecture: Architecture) -> Graph:
        if self._inner is None:
            return self.graph(architecture)
        return self._inner.sketch(self._inner.from_indices(architecture.indices))

    def canonical(self, architecture: Architecture) -> Architecture:
        """The named space's representative, or the first member of the table that is the same network."""
        if self._inner is None or type(self._inner).canonical is SearchSpace.canonical:
            return architecture
        best = self._inner.canonical(self._inner.from_indices(architecture.indices)).indices
        if self._rows.find(best) is None:
            best = self._representatives.get(best, best)
        return self.from_indices(best)

    def symmetric(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """What the named space draws; the member itself where the table has no row of that."""
        if self._inner is None:
            return architecture
        drawn = self.from_indices(self._inner.symmetric(self._inner.from_indices(architecture.indices), rng).indices)
        return drawn if self.known(drawn) else architecture

    def envelope(self) -> Iterator[Architecture]:
        """Members of the named space, known to the table or not.

        Raises:
            SpaceError: there is no named space, so there are no weights to share.
        """
        if self._inner is None:
            raise SpaceError(
                "members of space 'table' are choices and scores, not networks that can be trained; name the space "
                "whose networks they are, graph: NAME, or read the scores from Python: TableSpace.score"
            )
        yield from (self.from_indices(a.indices) for a in self._inner.envelope())

    @cached_property
    def _entry(self) -> Node:
        return Node("input", Signature.named("input", {"size": self.input_shape}, ()))

    @cached_property
    def _nodes(self) -> list[list[Node]]:
        """The node of each option of each choice; a member's graph picks one a choice."""
        made, before = [], self._entry.name
        for i, choice in enumerate(self.choices):
            name = f"choice{i}"
            signatures = (Signature.named("choice", facts, (self.input_shape,)) for facts in _facts(choice))
            made.append([Node(name, signature, (before,)) for signature in signatures])
            before = name
        return made

    @cached_property
    def _representatives(self) -> dict[tuple[int, ...], tuple[int, ...]]:
        """The first member of the table by the positions of the named space's representative."""
        first: dict[tuple[int, ...], tuple[int, ...]] = {}
        if self._inner is not None:
            for indices in map(tuple, self._rows.indices.tolist()):
                first.setdefault(self._inner.canonical(self._inner.from_indices(indices)).indices, indices)
        return first

    # ---- walking the rows --------------------------------------------------------------------------------

    @cached_property
    def size(self) -> int:
        """Number of distinct members that the table has rows of."""
        return len(self._rows)

    def enumerate(self) -> Iterator[Architecture]:
        """Every member of the table once, in the order of their codes."""
        return (Architecture(self.name, self.choices, tuple(row)) for row in self._rows.indices.tolist())

    def sample(self, rng: np.random.Generator) -> Architecture:
        """A member of the table, all alike in probability."""
        return self._at(int(rng.integers(len(self._rows))))

    def mutate(self, architecture: Architecture, rng: np.random.Generator, changes: int = 1) -> Architecture:
        """Another member of the table that differs in so many choices, or as nearly so many as there are."""
        distances = self._distances(architecture)
        others = distances[distances > 0]
        if not len(others):
            raise SpaceError(f"space {self.name!r} has one member only; there is nothing to mutate")
        nearest = int(others[abs(others - min(changes, int(others.max()))).argmin()])
        return self._at(int(rng.choice((distances == nearest).nonzero()[0])))

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """All members of the table that differ in one choice that counts."""
        return (self._at(int(place)) for place in (self._distances(architecture) == 1).nonzero()[0])

    def _distances(self, architecture: Architecture) -> np.ndarray:
        """In how many choices that count in both each member differs from this one, `(N,)`; 0 for itself alone."""
        differ = self._rows.indices != _stacked([architecture.indices])[0]
        if any(rule is not None for rule in self._rests):
            mine = set(self.counting(architecture))
            for i, rule in enumerate(self._rests):
                if i not in mine:
                    differ[:, i] = False
                elif rule is not None:
                    differ[:, i] &= [option in rule[1] for option in self._rows.indices[:, rule[0]].tolist()]
        return differ.sum(axis=1, dtype="int64")

    def _at(self, place: int) -> Architecture:
        return Architecture(self.name, self.choices, tuple(self._rows.indices[place].tolist()))


def _facts(choice: Choice) -> list[dict[str, Any]]:
    """Attributes of the operator of each option."""
    numeric = all(not isinstance(option, str | bool) for option in choice.options)
    last = max(len(choice.options) - 1, 1)
    return [
        {
            "label": choice.name,
            "option": str(option) if isinstance(option, bool) else option,
            "level": place / last if numeric else None,
        }
        for place, option in enumerate(choice.options)
    ]


def _go_together(
    inner: SearchSpace | None,
    choices: Sequence[str] | None,
    digits: str | None,
    parameters: Mapping[str, Any] | None,
    key: str | None,
) -> None:
    if inner is None:
        for name, value in (("parameters", parameters), ("key", key)):
            if value is not None:
                raise SpaceError(f"space 'table' takes {name} only together with graph: NAME; add that, or drop it")
        if (not choices) == (digits is None) or isinstance(choices, str):
            raise SpaceError(
                "space 'table' needs either choices: [COLUMN, ...] or digits: COLUMN, unless graph: NAME says what the "
                f"columns are; got choices={choices!r} and digits={digits!r}"
            )
    elif digits is not None or (choices and key is not None):
        raise SpaceError("space 'table' with graph: NAME reads members from columns or from key: COLUMN, not from both")


def _reader(space: SearchSpace) -> Any:
    """The function that reads a published name of a member."""
    reader = getattr(space, "from_text", None)
    if reader is None:
        able = sorted(name for name, cls in spaces.items() if hasattr(cls, "from_text"))
        raise SpaceError(f"space {space.name!r} has no from_text, which key needs; spaces with one: {', '.join(able)}")
    return reader


def _unique(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows, and the place of each row among them."""
    import numpy as np

    unique, place = np.unique(indices, axis=0, return_inverse=True)
    return unique, place.reshape(-1)


def _stacked(indices: Sequence[Sequence[int]]) -> np.ndarray:
    import numpy as np

    return np.array(indices, dtype=np.int64)
