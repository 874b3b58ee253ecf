"""Moves of data: new shapes, other orders of axes, parts, borders. Axes and sizes are counted without the batch."""

from __future__ import annotations

import math

from ..errors import GraphError, did_you_mean
from .base import Operator, Shape, inner_axis, need_rank, number, register_operator, torch_axis

PAD_MODES = ("constant", "reflect", "replicate", "circular")


@register_operator("reshape")
class Reshape(Operator):
    """The numbers of each example, in their order, in another shape."""

    size: tuple[int, ...]
    view = True

    def shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        if math.prod(x) != math.prod(self.size):
            raise GraphError(f"shape {x} has {math.prod(x)} numbers, {self.size} has {math.prod(self.size)}")
        return self.size

    def expression(self, *names: str) -> str:
        return f"{names[0]}.reshape({', '.join([f'{names[0]}.shape[0]', *map(str, self.size)])})"


@register_operator("permute")
class Permute(Operator):
    """Axes in another order: axis `i` of the output is axis `axes[i]` of the input."""

    axes: tuple[int, ...]
    view = True

    def shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        if sorted(self.axes) != list(range(len(x))):
            raise GraphError(f"permute by {self.axes}; an order of the axes 0 to {len(x) - 1} is allowed")
        return tuple(x[a] for a in self.axes)

    def expression(self, *names: str) -> str:
        return f"{names[0]}.permute({', '.join(map(str, [0, *(a + 1 for a in self.axes)]))})"


@register_operator("slice")
class Slice(Operator):
    """Entries `start` to `stop` (exclusive) of an axis, every `step`-th."""

    axis: int
    start: int
    stop: int
    step: int = 1
    view = True

    def shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        axis = inner_axis(self.name, x, self.axis)
        if not 0 <= self.start < self.stop <= x[axis] or self.step < 1:
            raise GraphError(f"slice {self.start}:{self.stop}:{self.step} of an axis of {x[axis]} entries")
        return (*x[:axis], len(range(self.start, self.stop, self.step)), *x[axis + 1 :])

    def expression(self, *names: str) -> str:
        part = f"{self.start}:{self.stop}" + (f":{self.step}" if self.step > 1 else "")
        if self.axis < 0:
            return f"{names[0]}[..., {', '.join([part, *[':'] * (-self.axis - 1)])}]"
        return f"{names[0]}[{', '.join([*[':'] * (self.axis + 1), part])}]"


@register_operator("select")
class Select(Operator):
    """One entry of an axis; the axis goes."""

    axis: int
    index: int
    view = True

    def shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        axis = inner_axis(self.name, x, self.axis)
        if not -x[axis] <= self.index < x[axis]:
            raise GraphError(f"entry {self.index} of an axis of {x[axis]} entries")
        return (*x[:axis], *x[axis + 1 :])

    def expression(self, *names: str) -> str:
        return f"{names[0]}.select({torch_axis(self.axis)}, {self.index})"


@register_operator("pick")
class Pick(Operator):
    """Entries of an axis by their numbers, in any order; -1 gives zeros.

    Shortcuts that put channels among zeros become this when channels are cut on either side of them.
    """

    axis: int
    entries: tuple[int, ...]

    def shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        axis = inner_axis(self.name, x, self.axis)
        if not self.entries or not -1 <= min(self.entries) <= max(self.entries) < x[axis]:
            raise GraphError(f"pick of entries {self.entries} of an axis of {x[axis]}; -1 to {x[axis] - 1} are allowed")
        return (*x[:axis], len(self.entries), *x[axis + 1 :])

    def expression(self, *names: str) -> str:
        source = names[0]
        if min(self.entries) < 0:  # entry -1 is the last one, so zeros are put there
            axis = torch_axis(self.axis)
            source = f"torch.cat([{source}, torch.zeros_like({source}.narrow({axis}, 0, 1))], {axis})"
        before = [":"] * (self.axis + 1) if self.axis >= 0 else ["..."]
        after = [] if self.axis >= 0 else [":"] * (-self.axis - 1)
        return f"{source}[{', '.join([*before, str(list(self.entries)), *after])}]"


@register_operator("expand")
class Expand(Operator):
    """Axes of size one repeated to `size` without copying; to the batch of the second input, where there is one."""

    size: tuple[int, ...]
    view = True

    def shape(self, *inputs: Shape) -> Shape:
        x = inputs[0]
        if len(x) != len(self.size) or any(a not in (1, b) for a, b in zip(x, self.size, strict=True)):
            raise GraphError(f"shape {x} cannot be expanded to {self.size}")
        return self.size

    def expression(self, *names: str) -> str:
        batch = f"{names[1]}.shape[0]" if len(names) > 1 else "-1"
        return f"{names[0]}.expand({', '.join([batch, *map(str, self.size)])})"


@register_operator("tile")
class Tile(Operator):
    """The tensor repeated along each axis."""

    repeats: tuple[int, ...]

    def shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        if len(x) != len(self.repeats) or min(self.repeats, default=1) < 1:
            raise GraphError(f"repeats {self.repeats} of shape {x}; a positive number an axis is allowed")
        return tuple(n * r for n, r in zip(x, self.repeats, strict=True))

    def expression(self, *names: str) -> str:
        return f"{names[0]}.repeat({', '.join(map(str, (1, *self.repeats)))})"


@register_operator("pad")
class Pad(Operator):
    """A border around the last axes; `padding` is (before, after) of the last axis, then of the one before, ...

    Modes other than "constant" (which pads with `value`) are torch's.
    """

    padding: tuple[int, ...]
    mode: str = "constant"
    value: float = 0.0

    def shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        if self.mode not in PAD_MODES:
            raise GraphError(f"unknown mode {self.mode!r} of pad: {did_you_mean(self.mode, PAD_MODES)}")
        padded, rest = len(self.padding) // 2, len(self.padding) % 2
        if rest or padded > len(x):
            raise GraphError(
                f"padding {self.padding} of shape {x}; a pair of numbers for each of the last axes is allowed"
            )
        out = list(x)
        for i in range(padded):
            out[-1 - i] += self.padding[2 * i] + self.padding[2 * i + 1]
        if min(out) < 1:
            raise GraphError(f"padding {self.padding} leaves nothing of shape {x}")
        return tuple(out)

    def expression(self, *names: str) -> str:
        more = f"value={number(self.value)}" if self.mode == "constant" else f'mode="{self.mode}"'
        return f"F.pad({names[0]}, {self.padding}, {more})"


@register_operator("roll")
class Roll(Operator):
    """Entries shifted along axes; what leaves at one end comes in at the other."""

    shifts: tuple[int, ...]
    axes: tuple[int, ...]

    def shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        if len(self.shifts) != len(self.axes):
            raise GraphError(f"roll by {self.shifts} over axes {self.axes}; a shift for each axis is allowed")
        for axis in self.axes:
            inner_axis(self.name, x, axis)
        return x

    def expression(self, *names: str) -> str:
        return f"torch.roll({names[0]}, {self.shifts}, {tuple(map(torch_axis, self.axes))})"


@register_operator("flip")
class Flip(Operator):
    """Entries of the axes in reverse order."""

    axes: tuple[int, ...]

    def shape(self, *inputs: Shape) -> Shape:
        for axis in self.axes:
            inner_axis(self.name, inputs[0], axis)
        return inputs[0]

    def expression(self, *names: str) -> str:
        return f"torch.flip({names[0]}, {tuple(map(torch_axis, self.axes))})"


@register_operator("pixel_shuffle")
class PixelShuffle(Operator):
    """Channels to pixels, `(C * factor**2, H, W) -> (C, H * factor, W * factor)` (Shi et al. 2016)."""

    factor: int

    def shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        need_rank(self.name, x, 3)
        if x[0] % self.factor**2:
            raise GraphError(
                f"pixel_shuffle by {self.factor} of {x[0]} channels; a multiple of {self.factor**2} is allowed"
            )
        return (x[0] // self.factor**2, x[1] * self.factor, x[2] * self.factor)

    def expression(self, *names: str) -> str:
        return f"F.pixel_shuffle({names[0]}, {self.factor})"


@register_operator("pixel_unshuffle")
class PixelUnshuffle(Operator):
    """Pixels to channels, `(C, H, W) -> (C * factor**2, H / factor, W / factor)`."""

    factor: int

    def shape(self, *inputs: Shape) -> Shape:
        (x,) = inputs
        need_rank(self.name, x, 3)
        if x[1] % self.factor or x[2] % self.factor:
            raise GraphError(f"pixel_unshuffle by {self.factor} of {x[1]}x{x[2]} pixels, which it does not divide")
        return (x[0] * self.factor**2, x[1] // self.factor, x[2] // self.factor)

    def expression(self, *names: str) -> str:
        return f"F.pixel_unshuffle({names[0]}, {self.factor})"


@register_operator("item")
class Item(Operator):
    """One tensor, of shape `size`, of a node that gives several; `index` is the path of numbers and keys to it."""

    index: tuple[int | str, ...]
    size: tuple[int, ...]
    view = True

    def shape(self, *inputs: Shape) -> Shape:
        return self.size

    def expression(self, *names: str) -> str:
        return names[0] + "".join(f"[{i!r}]" for i in self.index)
