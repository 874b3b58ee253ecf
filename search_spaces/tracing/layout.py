"""Where the batch is in a recorded tensor, found by comparing recordings of two batch sizes.

Graphs keep the batch in front of every value and leave it out of shapes; recorded tensors may have it anywhere, or
joined with another axis (windows of images, say), or not at all. A layout maps the axes of one to those of the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..graph import Node
from ..operators.base import Shape


class Unsupported(Exception):
    """A recorded call that no operator stands for; it becomes an `other` node."""


@dataclass(frozen=True)
class Batch:
    """A whole number that follows the batch: `factor` times its size."""

    factor: int


@dataclass(frozen=True)
class Layout:
    """Sizes of a recorded tensor.

    Attributes:
        sizes: of its axes; that of the batch axis is what it has for each example (1, unless axes are joined).
        batch: position of the batch axis, None for a tensor that is the same for all batches.
        dtype: torch's name of its type.
    """

    sizes: tuple[int, ...]
    batch: int | None
    dtype: str

    @property
    def joined(self) -> bool:
        """Whether the batch axis holds more than the batch."""
        return self.batch is not None and self.sizes[self.batch] != 1

    @property
    def plain(self) -> bool:
        """Whether it lies as values of graphs do: the batch in front, alone."""
        return self.batch == 0 and not self.joined

    @property
    def shape(self) -> Shape:
        """The shape in the graph: without the batch axis, with what is joined to it."""
        if self.batch is None or self.joined:
            return self.sizes
        return self.sizes[: self.batch] + self.sizes[self.batch + 1 :]

    def dim(self, dim: Any) -> int:
        """A dimension as a number from 0."""
        if not isinstance(dim, int) or not -len(self.sizes) <= dim < len(self.sizes):
            raise Unsupported(f"dimension {dim} of {self.sizes}")
        return dim % len(self.sizes)

    def axis(self, dim: Any) -> int:
        """The axis in the graph of a recorded dimension; the batch has none."""
        dim = self.dim(dim)
        if dim == self.batch:
            raise Unsupported("an operation over the batch")
        return self.position(dim)

    def position(self, dim: int) -> int:
        """The axis in the graph of a recorded dimension, that of a joined batch included."""
        return dim - 1 if self.batch is not None and dim > self.batch and not self.joined else dim

    def padded(self, rank: int) -> tuple[tuple[int, ...], int | None]:
        """Sizes and batch position after broadcasting to more dimensions."""
        more = rank - len(self.sizes)
        return (1,) * more + self.sizes, None if self.batch is None else self.batch + more

    def aligned(self, out: Layout) -> Shape:
        """The shape in the graph with which it broadcasts to `out` as it did when recorded."""
        sizes, batch = self.padded(len(out.sizes))
        if self.batch is not None and batch != out.batch:
            raise Unsupported("the batch meets another axis")
        if out.batch is None or out.joined:
            return sizes
        return sizes[: out.batch] + sizes[out.batch + 1 :]

    def keeps_batch(self, out: Layout) -> bool:
        """Whether a reshape of it to `out` keeps the numbers of each example together and in order."""
        if self.batch is None or out.batch is None:
            return self.batch is out.batch
        return math.prod(self.sizes[: self.batch]) == math.prod(out.sizes[: out.batch])


@dataclass(frozen=True, eq=False)
class Value:
    """A recorded tensor and the graph's node for it; parameters, buffers and constants have a `key` and no node yet."""

    layout: Layout
    node: Node | None = None
    key: str | None = None


class Batches:
    """The two batch sizes that recordings were made with."""

    def __init__(self, first: int, second: int) -> None:
        self.first, self.second = first, second

    def number(self, a: int, b: int) -> int | Batch:
        """What an int is that was `a` in one recording and `b` in the other."""
        if a == b:
            return a
        if a * self.second == b * self.first and a % self.first == 0:
            return Batch(a // self.first)
        raise Unsupported(f"a size of {a} at batch {self.first} and {b} at batch {self.second}")

    def layout(self, a: Sequence[int], b: Sequence[int], dtype: str) -> Layout:
        """The layout of a tensor from its two shapes."""
        if len(a) != len(b):
            raise Unsupported(f"shapes {tuple(a)} and {tuple(b)} at two batch sizes")
        sizes = [self.number(int(m), int(n)) for m, n in zip(a, b, strict=True)]
        batches = [i for i, n in enumerate(sizes) if isinstance(n, Batch)]
        if len(batches) > 1:
            raise Unsupported("a tensor with two batch axes")
        return Layout(
            tuple(n.factor if isinstance(n, Batch) else n for n in sizes), batches[0] if batches else None, dtype
        )
