"""Residual blocks of ResNet, ResNeXt and RegNet: two convolutions, or a bottleneck with a grouped one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import GraphError
from .base import Operator, Shape, register_operator

if TYPE_CHECKING:
    from ..graph import Graph, GraphBuilder, Node


@register_operator("basic_block")
class BasicBlock(Operator):
    """Two 3x3 convolutions and a sum, with a 1x1 convolution on the shortcut where the shape changes.

    He et al. 2016, figure 5 left. `ratio` is the width between the convolutions relative to that of the output.
    """

    out_channels: int
    kernel_size: int = 3
    stride: int = 1
    ratio: float = 1.0
    activation: str = "relu"
    drop_path: float = 0.0
    fused = True

    def evaluated(self) -> Operator:
        return replace(self, drop_path=0.0)

    def body(self, *inputs: Shape) -> Graph:
        from ..graph import GraphBuilder

        g = GraphBuilder(*inputs)
        x = g.add(
            "conv_bn_act",
            g.input,
            name="first",
            out_channels=inner_width(self.out_channels, self.ratio),
            kernel_size=self.kernel_size,
            stride=self.stride,
            activation=self.activation,
        )
        x = g.add(
            "conv_bn_act",
            x,
            name="second",
            out_channels=self.out_channels,
            kernel_size=self.kernel_size,
            activation=None,
        )
        return _sum(g, x, self.stride, self.activation, self.drop_path)


@register_operator("bottleneck")
class Bottleneck(Operator):
    """1x1, 3x3 and 1x1 convolutions and a sum, with a 1x1 convolution on the shortcut where the shape changes.

    With a quarter for `ratio` that of ResNet (He et al. 2016, figure 5 right; the 3x3 convolution has the stride), with
    groups that of ResNeXt (Xie et al. 2017, figure 3c), with a `ratio` of 1 the X block of RegNet and with `se_ratio`
    its Y block (Radosavovic et al. 2020).

    Attributes:
        ratio: width of the 3x3 convolution relative to that of the output.
        group_width: channels of one group of the 3x3 convolution, whose width becomes the nearest multiple of it; 0 for
            no groups.
        se_ratio: width of squeeze-and-excite relative to the channels of the block's input; 0 for none.
    """

    out_channels: int
    kernel_size: int = 3
    stride: int = 1
    ratio: float = 0.25
    group_width: int = 0
    se_ratio: float = 0.0
    activation: str = "relu"
    drop_path: float = 0.0
    fused = True

    def evaluated(self) -> Operator:
        return replace(self, drop_path=0.0)

    def body(self, *inputs: Shape) -> Graph:
        from ..graph import GraphBuilder

        g = GraphBuilder(*inputs)
        hidden = inner_width(self.out_channels, self.ratio, self.group_width)
        groups = max(1, hidden // self.group_width) if self.group_width else 1
        x = g.add("conv_bn_act", g.input, name="reduce", out_channels=hidden, kernel_size=1, activation=self.activation)
        x = g.add(
            "conv_bn_act",
            x,
            # a weight slot for each width of groups: in other groups, a weight reads other channels
            name="spatial" if groups == 1 else f"spatial_by_{self.group_width}",
            out_channels=hidden,
            kernel_size=self.kernel_size,
            stride=self.stride,
            groups=groups,
            activation=self.activation,
        )
        if self.se_ratio:
            reduced = max(1, round(inputs[0][0] * self.se_ratio))
            x = g.add("squeeze_excite", x, name="se", reduced=reduced, activation=self.activation, gate="sigmoid")
        x = g.add("conv_bn_act", x, name="expand", out_channels=self.out_channels, kernel_size=1, activation=None)
        return _sum(g, x, self.stride, self.activation, self.drop_path)


def inner_width(out_channels: int, ratio: float, group_width: int = 0) -> int:
    """Channels inside a block: a share of those that come out, in whole groups unless there are fewer than one has."""
    if ratio <= 0 or group_width < 0:
        raise GraphError(f"a block's ratio is above 0 and its group_width at least 0; got {ratio:g} and {group_width}")
    hidden = max(1, round(out_channels * ratio))
    if not group_width or hidden <= group_width:
        return hidden
    return round(hidden / group_width) * group_width


def _sum(g: GraphBuilder, x: Node, stride: int, activation: str, drop_path: float) -> Graph:
    """The end of a residual block: the sum with the shortcut, activated."""
    shortcut = g.input
    if stride != 1 or shortcut.shape != x.shape:
        shortcut = g.add(
            "conv_bn_act",
            shortcut,
            name="shortcut",
            out_channels=x.shape[0],
            kernel_size=1,
            stride=stride,
            activation=None,
        )
    if drop_path:
        x = g.add("drop_path", x, name="drop", p=drop_path)
    x = g.add("add", shortcut, x, name="residual")
    return g.build(g.add("activation", x, name="act", kind=activation))
