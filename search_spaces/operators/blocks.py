"""Composite operators: blocks that spaces repeat, each an inner graph of primitive operators."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .base import Operator, Shape, register_operator

if TYPE_CHECKING:
    from ..graph import Graph


def make_divisible(value: float, divisor: int = 8, limit: float = 0.9) -> int:
    """Nearest multiple of `divisor`, at least `divisor`, never below `limit` of the value (MobileNetV2's rounding)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < limit * value else rounded


@register_operator("conv_bn_act")
class ConvBnAct(Operator):
    """Convolution without bias ("same" padding), batch normalisation, activation (None for none)."""

    out_channels: int
    kernel_size: int = 3
    stride: int = 1
    groups: int = 1
    activation: str | None = "relu"
    fused = True

    def body(self, *inputs: Shape) -> Graph:
        from ..graph import GraphBuilder

        g = GraphBuilder(*inputs)
        x = g.add(
            "conv2d",
            g.input,
            name="conv",
            out_channels=self.out_channels,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding="same",
            groups=self.groups,
        )
        x = g.add("batch_norm", x, name="bn")
        if self.activation is not None:
            x = g.add("activation", x, name="act", kind=self.activation)
        return g.build(x)


@register_operator("squeeze_excite")
class SqueezeExcite(Operator):
    """Channel gate from the global mean: two 1x1 convolutions (Hu et al. 2018)."""

    reduced: int
    activation: str = "relu"
    gate: str = "hardsigmoid"
    fused = True

    def body(self, *inputs: Shape) -> Graph:
        from ..graph import GraphBuilder

        g = GraphBuilder(*inputs)
        x = g.add("mean", g.input, name="squeeze", axes=(-2, -1), keepdim=True)
        x = g.add("conv2d", x, name="reduce", out_channels=self.reduced, bias=True)
        x = g.add("activation", x, name="act", kind=self.activation)
        x = g.add("conv2d", x, name="expand", out_channels=inputs[0][0], bias=True)
        x = g.add("activation", x, name="gate", kind=self.gate)
        return g.build(g.add("multiply", g.input, x, name="scale"))


@register_operator("inverted_residual")
class InvertedResidual(Operator):
    """Expand, depthwise convolution, (squeeze and excite), project; a residual where the shape stays.

    MobileNetV2 (Sandler et al. 2018), with the options of MobileNetV3: `se_ratio` of the expanded channels
    (0 for none) and the activation.
    """

    out_channels: int
    kernel_size: int = 3
    stride: int = 1
    expansion: float = 4
    se_ratio: float = 0.0
    activation: str = "relu"
    drop_path: float = 0.0
    fused = True

    def evaluated(self) -> Operator:
        return replace(self, drop_path=0.0)

    def body(self, *inputs: Shape) -> Graph:
        from ..graph import GraphBuilder

        g = GraphBuilder(*inputs)
        x, hidden = g.input, inputs[0][0]
        if self.expansion != 1:
            hidden = make_divisible(inputs[0][0] * self.expansion)
            x = g.add("conv_bn_act", x, name="expand", out_channels=hidden, kernel_size=1, activation=self.activation)
        x = g.add(
            "conv_bn_act",
            x,
            name="depthwise",
            out_channels=hidden,
            kernel_size=self.kernel_size,
            stride=self.stride,
            groups=hidden,
            activation=self.activation,
        )
        if self.se_ratio:
            x = g.add("squeeze_excite", x, name="se", **self._gate(inputs[0][0], hidden))
        x = g.add("conv_bn_act", x, name="project", out_channels=self.out_channels, kernel_size=1, activation=None)
        if x.shape == inputs[0]:
            if self.drop_path:
                x = g.add("drop_path", x, name="drop", p=self.drop_path)
            x = g.add("add", g.input, x, name="residual")
        return g.build(x)

    def _gate(self, channels: int, hidden: int) -> dict[str, Any]:
        """Attributes of squeeze-and-excite, from the block's input channels and the expanded ones."""
        return {"reduced": make_divisible(hidden * self.se_ratio)}


@register_operator("mbconv")
class MBConv(InvertedResidual):
    """EfficientNet's inverted residual (Tan and Le 2019): SiLU, and a sigmoid gate.

    As in the released code `se_ratio` is of the channels that enter the block, so expansion does not enlarge the gate.
    """

    expansion: float = 6
    se_ratio: float = 0.25
    activation: str = "silu"

    def _gate(self, channels: int, hidden: int) -> dict[str, Any]:
        reduced = max(1, round(channels * self.se_ratio))
        return {"reduced": reduced, "activation": self.activation, "gate": "sigmoid"}


@register_operator("classifier")
class Classifier(Operator):
    """Global mean, dropout, linear layer: `(C, H, W) -> (classes,)`."""

    classes: int
    dropout: float = 0.0
    fused = True

    def body(self, *inputs: Shape) -> Graph:
        from ..graph import GraphBuilder

        g = GraphBuilder(*inputs)
        x = g.add("mean", g.input, name="pool")
        if self.dropout:
            x = g.add("dropout", x, name="dropout", p=self.dropout)
        return g.build(g.add("linear", x, name="linear", out_features=self.classes))


@register_operator("pooled_classifier")
class PooledClassifier(Operator):
    """Global mean, a hidden layer with an activation, dropout, linear layer: `(C, H, W) -> (classes,)`.

    The efficient last stage of MobileNetV3 (Howard et al. 2019, section 5.1): the last 1x1 convolution comes after the
    pooling, on one pixel.
    """

    classes: int
    hidden: int
    activation: str = "hardswish"
    dropout: float = 0.0
    fused = True

    def body(self, *inputs: Shape) -> Graph:
        from ..graph import GraphBuilder

        g = GraphBuilder(*inputs)
        x = g.add("mean", g.input, name="pool", axes=(-2, -1), keepdim=True)
        x = g.add("conv2d", x, name="hidden", out_channels=self.hidden, bias=True)
        x = g.add("activation", x, name="act", kind=self.activation)
        x = g.add("flatten", x, name="flatten")
        if self.dropout:
            x = g.add("dropout", x, name="dropout", p=self.dropout)
        return g.build(g.add("linear", x, name="linear", out_features=self.classes))
