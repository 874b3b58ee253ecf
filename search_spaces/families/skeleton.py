"""Families of networks as papers print them: a table of rows, each an operator repeated.

A `Skeleton` is such a table. It becomes a graph, can be scaled in depth, width and resolution, and a family's space
varies its rows; so published members, scaled ones and searched ones come from one description.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from ..errors import SpaceError
from ..graph import Graph, GraphBuilder, Node, Shape
from ..operators.base import operators
from ..scaling.rules import Rounding, Scaling

Attributes = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: of the node; the blocks of a stage are `name.0`, `name.1`, ...
        operator: registered name; it has attributes `out_channels` where there is a `width`, and `stride` where that is
            not 1.
        width: output channels; None where the operator has no such attribute.
        repeats: blocks of a stage; 0 for a single layer, which depth does not multiply.
        stride: of the first block.
        attributes: further ones of every block; a mapping may be given.
        first: those of the first block that differ.
        scaled: whether widths are multiplied: always, only above 1 (`up`, as MobileNetV2's head is), or never.
        divisor: what the width must be a multiple of, whatever the rounding.
    """

    name: str
    operator: str
    width: int | None = None
    repeats: int = 0
    stride: int = 1
    attributes: Mapping[str, Any] | Attributes = ()
    first: Mapping[str, Any] | Attributes = ()
    scaled: Literal["always", "up", "never"] = "always"
    divisor: int | None = None

    def __post_init__(self) -> None:
        for name in ("attributes", "first"):
            object.__setattr__(self, name, tuple(dict(getattr(self, name)).items()))

    @property
    def has_stride(self) -> bool:
        return any(f.name == "stride" for f in fields(operators[self.operator]))

    def with_(self, **attributes: Any) -> Row:
        """The row with other attributes of its operator."""
        return replace(self, attributes={**dict(self.attributes), **attributes})

    def blocks(self) -> list[dict[str, Any]]:
        """Attributes of each block."""
        common = dict(self.attributes)
        if self.width is not None:
            common["out_channels"] = self.width
        found = []
        for i in range(max(1, self.repeats)):
            attributes = {**common, **dict(self.first)} if i == 0 else dict(common)
            if self.has_stride and "stride" not in attributes:
                attributes["stride"] = self.stride if i == 0 else 1
            found.append(attributes)
        return found


@dataclass(frozen=True)
class Skeleton:
    """A network as a table of rows.

    Attributes:
        name: published name, or what it was made from.
        rows: from the input on; the last is the classifier, which is given `classes`.
        resolution: height and width of the images that it is published for.
        classes: that it is published for.
        drop_path: probability that the last residual branch is left out in training (stochastic depth, Huang et al.
            2016), rising from 0 over the blocks.
        rounding: of scaled widths and depths.
        stages: names of rows that timm scales as one stage, one tuple each; by default each row is its own.
    """

    name: str
    rows: tuple[Row, ...]
    resolution: int = 224
    classes: int = 1000
    drop_path: float = 0.0
    rounding: Rounding = field(default_factory=Rounding)
    stages: tuple[tuple[str, ...], ...] = ()

    def graph(self, input_shape: Sequence[int] | None = None, classes: int | None = None) -> Graph:
        """The operator graph, by default for the published images `(3, resolution, resolution)` and classes.

        Raises:
            GraphError: images that are too small for the strides.
        """
        shape: Shape = tuple(input_shape or (3, self.resolution, self.resolution))
        g = GraphBuilder(shape)
        return g.build(self.extend(g, g.input, classes or self.classes))

    def extend(self, g: GraphBuilder, x: Node, classes: int) -> Node:
        """Add all rows behind a node; the node of the logits."""
        total = sum(r.repeats for r in self.rows)
        done = 0
        for i, row in enumerate(self.rows):
            for j, attributes in enumerate(row.blocks()):
                if i == len(self.rows) - 1:
                    attributes["classes"] = classes
                if row.repeats and self.drop_path and "drop_path" in _fields(row.operator):
                    attributes["drop_path"] = round(self.drop_path * (done + j) / total, 6)
                x = g.add(row.operator, x, name=f"{row.name}.{j}" if row.repeats else row.name, **attributes)
            done += row.repeats
        return x

    def scaled(self, scaling: Scaling, rounding: Rounding | None = None) -> Skeleton:
        """The network with multiplied depth, width and resolution.

        Stem and head grow with the width as rows say; expansions, squeeze ratios and kernels stay.
        """
        how = rounding or self.rounding
        repeats = self._repeats(scaling.depth, how)
        rows = tuple(
            replace(row, width=self._width(row, scaling.width, how), repeats=repeats.get(row.name, 0))
            for row in self.rows
        )
        return replace(self, rows=rows, resolution=how.resolution(self.resolution, scaling.resolution))

    def _width(self, row: Row, multiplier: float, rounding: Rounding) -> int | None:
        if row.width is None or row.scaled == "never" or (row.scaled == "up" and multiplier < 1):
            return row.width
        return rounding.width(row.width, multiplier, row.divisor)

    def _repeats(self, multiplier: float, rounding: Rounding) -> dict[str, int]:
        known = {row.name: row.repeats for row in self.rows if row.repeats}
        joined = {name for stage in self.stages for name in stage}
        stages = (*self.stages, *((name,) for name in known if name not in joined))
        found: dict[str, int] = {}
        for stage in stages:
            found |= zip(stage, rounding.depths([known[name] for name in stage], multiplier), strict=True)
        return found

    def at_stride(self, total: int) -> Skeleton:
        """The network with a total stride of at most `total`: from the input on, strides become 1 until it fits.

        Networks for 224 pixels halve their maps five times, which leaves nothing of an image of 28. A pooling that no
        longer makes maps smaller is left out.
        """
        stride = math.prod(row.stride for row in self.rows)
        rows = []
        for row in self.rows:
            spare = row.stride > 1 and stride > total
            stride = stride // row.stride if spare else stride
            if not (spare and row.operator.endswith("pool2d")):
                rows.append(replace(row, stride=1) if spare else row)
        if stride > total:
            raise SpaceError(f"{self.name!r} has a stride of {stride} that cannot be lowered to {total}")
        return replace(self, rows=tuple(rows))

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def replaced(self, rows: Mapping[str, Row]) -> Skeleton:
        """The table with rows of these names replaced."""
        return replace(self, rows=tuple(rows.get(row.name, row) for row in self.rows))


def _fields(operator: str) -> set[str]:
    return {f.name for f in fields(operators[operator])}
