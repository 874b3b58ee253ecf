"""Normalisations."""

from __future__ import annotations

import math

from ..errors import GraphError
from .base import Cost, Operator, Shape, register_operator


def _kind(name: str, x: Shape) -> str:
    """torch's suffix for an input `(C,)`, `(C, L)`, `(C, H, W)` or `(C, D, H, W)`."""
    if not 1 <= len(x) <= 4:
        raise GraphError(f"{name} needs an input of 1 to 4 axes (without the batch), got shape {x}")
    return f"{max(1, len(x) - 1)}d"


@register_operator("batch_norm")
class BatchNorm(Operator):
    """Batch normalisation over channels of `(C, ...)` or features of `(F,)`.

    Without `track_running_stats` the statistics are those of the batch, in evaluation too.
    """

    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = True
    track_running_stats: bool = True

    def shape(self, *inputs: Shape) -> Shape:
        _kind(self.name, inputs[0])
        return inputs[0]

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return self.moving(inputs, output, params=2 * inputs[0][0] if self.affine else 0)

    def constructor(self, *inputs: Shape) -> str:
        tracking = "" if self.track_running_stats else ", track_running_stats=False"
        return (
            f"nn.BatchNorm{_kind(self.name, inputs[0])}({inputs[0][0]}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}{tracking})"
        )


@register_operator("instance_norm")
class InstanceNorm(Operator):
    """Normalisation of each channel of `(C, ...)` by its own statistics (Ulyanov et al. 2016)."""

    eps: float = 1e-5
    affine: bool = False

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs[0]) < 2:
            raise GraphError(f"instance_norm of shape {inputs[0]}: a channel needs more than one number")
        _kind(self.name, inputs[0])
        return inputs[0]

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return self.moving(inputs, output, params=2 * inputs[0][0] if self.affine else 0)

    def constructor(self, *inputs: Shape) -> str:
        kind = _kind(self.name, inputs[0])
        return f"nn.InstanceNorm{kind}({inputs[0][0]}, eps={self.eps}, affine={self.affine})"


@register_operator("layer_norm")
class LayerNorm(Operator):
    """Layer normalisation over the last `axes` axes."""

    axes: int = 1
    eps: float = 1e-5
    affine: bool = True
    bias: bool = True

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        size = math.prod(inputs[0][-self.axes :])
        return self.moving(inputs, output, params=size * (self.affine + (self.affine and self.bias)))

    def constructor(self, *inputs: Shape) -> str:
        size = inputs[0][-self.axes :]
        return f"nn.LayerNorm({size}, eps={self.eps}, elementwise_affine={self.affine}, bias={self.bias})"


@register_operator("rms_norm")
class RMSNorm(Operator):
    """Division by the root mean square over the last `axes` axes (Zhang and Sennrich 2019).

    `eps` of None is the machine epsilon of the input's type.
    """

    axes: int = 1
    eps: float | None = None
    affine: bool = True

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return self.moving(inputs, output, params=math.prod(inputs[0][-self.axes :]) if self.affine else 0)

    def constructor(self, *inputs: Shape) -> str:
        return f"nn.RMSNorm({inputs[0][-self.axes :]}, eps={self.eps}, elementwise_affine={self.affine})"


@register_operator("group_norm")
class GroupNorm(Operator):
    """Group normalisation over channels of `(C, ...)`."""

    groups: int
    eps: float = 1e-5
    affine: bool = True

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return self.moving(inputs, output, params=2 * inputs[0][0] if self.affine else 0)

    def constructor(self, *inputs: Shape) -> str:
        return f"nn.GroupNorm({self.groups}, {inputs[0][0]}, eps={self.eps}, affine={self.affine})"
