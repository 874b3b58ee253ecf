"""Element-wise activations, all behind one operator; the learned and the normalising ones apart."""

from __future__ import annotations

from ..errors import GraphError, did_you_mean
from .base import Cost, Operator, Shape, inner_axis, register_operator, torch_axis

ACTIVATIONS = {
    "relu": "F.relu({0})",
    "relu6": "F.relu6({0})",
    "leaky_relu": "F.leaky_relu({0}, {slope})",
    "elu": "F.elu({0}, {slope})",
    "selu": "F.selu({0})",
    "silu": "F.silu({0})",
    "gelu": "F.gelu({0})",
    "gelu_tanh": 'F.gelu({0}, approximate="tanh")',
    "hardswish": "F.hardswish({0})",
    "hardsigmoid": "F.hardsigmoid({0})",
    "sigmoid": "torch.sigmoid({0})",
    "tanh": "torch.tanh({0})",
    "softplus": "F.softplus({0})",
    "mish": "F.mish({0})",
    "softsign": "F.softsign({0})",
    "logsigmoid": "F.logsigmoid({0})",
}
SLOPES = {"leaky_relu": 0.01, "elu": 1.0}


@register_operator("activation")
class Activation(Operator):
    """An element-wise function without weights; `kind` is a key of `ACTIVATIONS`.

    `slope` is the negative slope of leaky_relu and the alpha of elu; None is torch's default.
    """

    kind: str = "relu"
    slope: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ACTIVATIONS:
            raise GraphError(f"unknown activation {self.kind!r}: {did_you_mean(self.kind, ACTIVATIONS)}")
        if self.slope is not None and self.kind not in SLOPES:
            raise GraphError(f"activation {self.kind!r} takes no slope; only {' and '.join(SLOPES)} do")

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def expression(self, *names: str) -> str:
        slope = SLOPES.get(self.kind) if self.slope is None else self.slope
        return ACTIVATIONS[self.kind].format(*names, slope=slope)


@register_operator("softmax")
class Softmax(Operator):
    """Softmax over `axis` (without the batch), or its logarithm."""

    axis: int = -1
    log: bool = False

    def shape(self, *inputs: Shape) -> Shape:
        inner_axis(self.name, inputs[0], self.axis)
        return inputs[0]

    def expression(self, *names: str) -> str:
        return f"{'F.log_softmax' if self.log else 'F.softmax'}({names[0]}, dim={torch_axis(self.axis)})"


@register_operator("prelu")
class PReLU(Operator):
    """ReLU with learned negative slopes, one for all or one for each channel of `(C, ...)` (He et al. 2015)."""

    slopes: int = 1

    def shape(self, *inputs: Shape) -> Shape:
        if self.slopes not in (1, inputs[0][0]):
            raise GraphError(f"prelu with {self.slopes} slopes on {inputs[0][0]} channels; 1 or as many are allowed")
        return inputs[0]

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return self.moving(inputs, output, params=self.slopes)

    def constructor(self, *inputs: Shape) -> str:
        return f"nn.PReLU({self.slopes})"
