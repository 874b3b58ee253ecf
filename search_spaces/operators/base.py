"""The operator contract, its cost record and its registry."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

from ..errors import GraphError, did_you_mean
from ..registry import Registry

if TYPE_CHECKING:
    from ..graph import Graph

Shape = tuple[int, ...]
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """What one example costs in an operator.

    Attributes:
        params: learned numbers.
        macs: multiply-accumulates of convolutions, linear layers and matrix products (biases are `adds`).
        adds: additions outside multiply-accumulates (biases, element-wise sums).
        shifts: bit shifts of multiplication-free operators.
        bytes_read: inputs and weights, float32 (memory-access cost of ShuffleNet V2, section 2).
        bytes_written: output, float32.
        counted: False where the operator's cost is not known; then the other figures are not to be trusted.
    """

    params: int = 0
    macs: int = 0
    adds: int = 0
    shifts: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    counted: bool = True

    @property
    def bytes_moved(self) -> int:
        return self.bytes_read + self.bytes_written

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.params + other.params,
            self.macs + other.macs,
            self.adds + other.adds,
            self.shifts + other.shifts,
            self.bytes_read + other.bytes_read,
            self.bytes_written + other.bytes_written,
            self.counted and other.counted,
        )


@dataclass(frozen=True)
class Operator:
    """An operator with its attributes (the dataclass fields), hashable and comparable.

    A subclass is a frozen dataclass decorated with `@register_operator(name)`. It implements `shape` and
    exactly one of

    - `expression(*names)`: the result as a Python expression of its inputs' names; for operators without weights,
    - `constructor(*inputs)`: an expression that makes the torch module that is called with the inputs,
    - `parameter()`: an expression that makes a learned tensor, for operators that are nothing else,
    - `body(*inputs)`: the inner graph, for composites; cost and module follow from it.

    Expressions may use `torch`, `nn` (torch.nn) and `F` (torch.nn.functional) and nothing else.

    Class attributes:
        view: the output shares its input's memory (reshapes); such operators move no bytes.
        fused: latency of a composite is measured as a whole rather than as the sum of its body.
    """

    name: ClassVar[str] = ""
    view: ClassVar[bool] = False
    fused: ClassVar[bool] = False

    def shape(self, *inputs: Shape) -> Shape:
        """Output shape from input shapes, both without the batch. Raises `GraphError` where they do not fit."""
        body = self.body(*inputs)
        if body is None:
            raise GraphError(f"operator {self.name!r} defines neither shape nor body")
        return body[body.outputs[0]].shape

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        """Cost for one example; by default nothing is computed and inputs and output are moved."""
        return self.moving(inputs, output)

    def expression(self, *names: str) -> str | None:
        return None

    def constructor(self, *inputs: Shape) -> str | None:
        return None

    def parameter(self) -> str | None:
        return None

    def body(self, *inputs: Shape) -> Graph | None:
        return None

    def evaluated(self) -> Operator:
        """What it is in evaluation: the same, without what acts in training alone, so that both have one latency."""
        return self

    def moving(
        self, inputs: Sequence[Shape], output: Shape, params: int = 0, macs: int = 0, adds: int = 0, shifts: int = 0
    ) -> Cost:
        """A cost whose bytes are those of reading inputs and weights once and writing the output once."""
        if self.view:
            return Cost(params, macs, adds, shifts)
        read = sum(math.prod(i) for i in inputs) + params
        return Cost(params, macs, adds, shifts, FLOAT_BYTES * read, FLOAT_BYTES * math.prod(output))

    @property
    def trainable(self) -> bool:
        """Whether a `parameter` is learned rather than a constant."""
        return True

    @property
    def persistent(self) -> bool:
        """Whether a `parameter` is part of state dicts; a constant whose value the operator tells need not be."""
        return True

    @property
    def attributes(self) -> dict[str, Any]:
        """The fields by name, as JSON stores them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


operators: Registry[type[Operator]] = Registry("operator", GraphError)


@dataclass_transform(frozen_default=True)
def register_operator(name: str) -> Callable[[type[Operator]], type[Operator]]:
    """Class decorator: makes the class a frozen dataclass and files it under `name`."""

    def file(cls: type[Operator]) -> type[Operator]:
        cls = dataclass(frozen=True)(cls)
        cls.name = name
        return operators.register(name)(cls)

    return file


def _freeze(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_freeze(v) for v in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise GraphError(f"attribute {value!r} of type {type(value).__name__}; numbers, text, None and tuples are allowed")


def make_operator(name: str, attributes: Mapping[str, Any]) -> Operator:
    """The registered operator with these attributes; errors name the attribute and the allowed ones."""
    cls = operators[name]
    known = {f.name for f in fields(cls)}
    for given in attributes:
        if given not in known:
            raise GraphError(f"operator {name!r} has no attribute {given!r}: {did_you_mean(given, known)}")
    try:
        return cls(**{k: _freeze(v) for k, v in attributes.items()})
    except TypeError as e:
        raise GraphError(f"operator {name!r}: {e}") from None


def pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    """An int for both axes or a pair, as torch's two-dimensional operators take it."""
    if isinstance(value, int):
        return value, value
    if len(value) == 2:
        return value[0], value[1]
    raise GraphError(f"expected a number or a pair, got {value!r}")


def spread(value: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    """An int for every axis or a number an axis, as torch's convolutions take it."""
    if isinstance(value, int):
        return (value,) * axes
    if len(value) == axes:
        return tuple(value)
    raise GraphError(f"expected a number or {'a pair' if axes == 2 else f'{axes} numbers'}, got {value!r}")


def inner_axis(name: str, shape: Shape, axis: int) -> int:
    """An axis of a shape (without the batch) as a number from 0; raises `GraphError` where there is none."""
    if not -len(shape) <= axis < len(shape):
        raise GraphError(f"{name} over axis {axis} of shape {shape} (without the batch)")
    return axis % len(shape)


def torch_axis(axis: int) -> int:
    """The axis of the tensor, which has the batch in front."""
    return axis if axis < 0 else axis + 1


def number(value: float | None) -> str:
    """Source of a number or None, infinities included."""
    return f'float("{value}")' if isinstance(value, float) and not math.isfinite(value) else repr(value)


def need_rank(name: str, shape: Shape, rank: int) -> None:
    """Raise `GraphError` unless a shape (without the batch) has this many axes."""
    if len(shape) != rank:
        raise GraphError(f"{name} needs an input of {rank} axes (without the batch), got shape {shape}")
