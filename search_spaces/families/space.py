"""The space around a published network: depth, width and further attributes of each stage, and the resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from ..errors import SpaceError, did_you_mean
from ..graph import Graph, GraphBuilder
from ..memo import Memo
from ..scaling.rules import Scaling
from ..space import Architecture, Choice, Option, SearchSpace
from .family import families, skeleton
from .skeleton import Row, Skeleton

_SMALLEST_MAP = 4  # pixels of a side that strides leave at least, where they are lowered by themselves


class FamilySpace(SearchSpace):
    """Networks like a published one. Subclasses name the family and what of its rows is searched.

    Choices are `resolution` and, for each stage, `STAGE.depth` (blocks more or fewer than published), `STAGE.width` (a
    multiplier) and `STAGE.ATTRIBUTE` for the attributes of its operator that are varied.

    Args:
        member: published name.
        depths: blocks added to each stage; a stage keeps at least one.
        multipliers: of each stage's width; by default the family's `widths`.
        vary: attributes of blocks with their options, such as `{kernel_size: [3, 5]}`; a stage whose operator lacks one
            does not have it. By default what the family names.
        resolutions: sizes that images may be brought to; by default that of the data.
        stride: total stride at most; by default as published, but so low that 4 pixels a side are left.
        drop_path: stochastic depth of the last block; by default as published.
    """

    family: ClassVar[str]
    default: ClassVar[str]
    varied: ClassVar[Mapping[str, Sequence[Option]]] = {}
    widths: ClassVar[Sequence[float]] = (0.5, 0.75, 1.0)

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (3, 32, 32),
        classes: int = 10,
        member: str | None = None,
        depths: Sequence[int] = (-1, 0),
        multipliers: Sequence[float] | None = None,
        vary: Mapping[str, Sequence[Option]] | None = None,
        resolutions: Sequence[int] | None = None,
        stride: int | None = None,
        drop_path: float | None = None,
    ) -> None:
        self.member = member or self.default
        self._check_member()
        shape = tuple(int(s) for s in input_shape)
        sizes = tuple(sorted(resolutions)) if resolutions else (shape[1],)
        base = skeleton(self.member)
        if drop_path is not None:
            base = replace(base, drop_path=drop_path)
        self.base = base.at_stride(stride if stride is not None else largest_stride(min(sizes)))
        self.depths, self.multipliers = tuple(sorted(set(depths))), tuple(sorted(multipliers or self.widths))
        known = {name for row in self.base.rows if row.repeats for name in dict(row.attributes)}
        if vary is None:  # what members of the family have, but not all of them
            vary = {name: options for name, options in self.varied.items() if name in known}
        self.vary = {name: tuple(options) for name, options in vary.items()}
        self._check(known)
        choices = [Choice("resolution", sizes)]
        for row in self.base.rows:
            choices += self._row_choices(row)
        super().__init__(choices, input_shape=shape, classes=classes)
        self._made = Memo(self._skeleton)

    def _check_member(self) -> None:
        known = families[self.family].members
        if self.member not in known:
            raise SpaceError(f"space {self.name!r} has no member {self.member!r}: {did_you_mean(self.member, known)}")

    def _check(self, known: set[str]) -> None:
        """Refuse settings that the family does not take; `known` are the attributes of the member's blocks."""
        for name in self.vary:
            if name not in known:
                raise SpaceError(f"blocks of {self.member!r} have no attribute {name!r}: {did_you_mean(name, known)}")

    def _row_choices(self, row: Row) -> list[Choice]:
        if not row.repeats:
            return []
        depths = tuple(sorted({max(1, row.repeats + more) for more in self.depths}))
        found = [Choice(f"{row.name}.depth", depths)]
        if self._leader(row) == row.name:
            found.append(Choice(f"{row.name}.width", self.multipliers))
        own = dict(row.attributes)
        varied = {n: self.options_of(row, n) for n in self.vary if n in own}
        return found + [Choice(f"{row.name}.{n}", options) for n, options in varied.items() if options]

    def options_of(self, row: Row, attribute: str) -> tuple[Option, ...]:
        """The options of an attribute in a stage; a family may leave some out, or all where it is not searched."""
        return self.vary[attribute]

    def _leader(self, row: Row) -> str:
        """The first row of the stage: rows of one stage have one width, or none of them had a residual."""
        return next((stage[0] for stage in self.base.stages if row.name in stage), row.name)

    @property
    def reference(self) -> Architecture:
        """The published network, or what is nearest to it among the options."""
        values: dict[str, Any] = {"resolution": _nearest(self.choices[0].options, self.input_shape[1])}
        for row in self.base.rows:
            for choice in self._row_choices(row):
                what = choice.name.removeprefix(f"{row.name}.")
                own: dict[str, Any] = {**dict(row.attributes), "depth": row.repeats, "width": 1.0}
                values[choice.name] = _nearest(choice.options, own[what])
        return self.architecture(values)

    def skeleton(self, architecture: Architecture) -> Skeleton:
        """The table of a member."""
        return self._made(architecture.indices)

    def _skeleton(self, indices: tuple[int, ...]) -> Skeleton:
        a = self.from_indices(indices).values
        rows = {row.name: self._row(row, a) for row in self.base.rows if row.repeats}
        return replace(self.base.replaced(rows), resolution=int(a["resolution"]))

    def _row(self, row: Row, a: Mapping[str, Option]) -> Row:
        width = None
        if row.width is not None:
            width = self.base.rounding.width(row.width, float(a[f"{self._leader(row)}.width"]), row.divisor)
        chosen = {n: a[f"{row.name}.{n}"] for n in self.vary if f"{row.name}.{n}" in a}
        return replace(row.with_(**chosen), width=width, repeats=int(a[f"{row.name}.depth"]))

    def graph(self, architecture: Architecture) -> Graph:
        return self._graph(self.skeleton(architecture))

    def scaled(self, architecture: Architecture, scaling: Scaling) -> Graph:
        return self._graph(self.skeleton(architecture).scaled(scaling))

    def _graph(self, table: Skeleton) -> Graph:
        g = GraphBuilder(self.input_shape)
        x = g.input
        if (table.resolution, table.resolution) != x.shape[1:]:
            x = g.add("resize", x, name="resize", size=table.resolution)
        return g.build(table.extend(g, x, self.classes))


def largest_stride(size: int) -> int:
    """The largest power of two that leaves `_SMALLEST_MAP` pixels a side."""
    stride = 1
    while size // (2 * stride) >= _SMALLEST_MAP:
        stride *= 2
    return stride


def _nearest(options: Sequence[Option], wanted: Any) -> Option:
    """The option that is `wanted`, or the nearest number to it."""
    if wanted in options or not all(isinstance(o, int | float) for o in options):
        return wanted if wanted in options else options[-1]
    return min(options, key=lambda o: abs(float(o) - float(wanted)))
