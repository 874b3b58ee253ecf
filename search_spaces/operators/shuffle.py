"""Channel shuffle, and the units of ShuffleNet V1 and V2 that are built on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import GraphError
from .base import Operator, Shape, need_rank, register_operator

if TYPE_CHECKING:
    from ..graph import Graph, GraphBuilder, Node


@register_operator("channel_shuffle")
class ChannelShuffle(Operator):
    """Channels of `(C, H, W)` dealt out anew: the groups' first ones, then their second ones, ...

    With it, what follows in groups reads every group of what came before (Zhang et al. 2018, section 3.1).
    """

    groups: int = 2

    def body(self, *inputs: Shape) -> Graph:
        from ..graph import GraphBuilder

        need_rank(self.name, inputs[0], 3)
        channels, *size = inputs[0]
        if self.groups < 1 or channels % self.groups:
            raise GraphError(f"{channels} channels cannot be shuffled between {self.groups} groups")
        g = GraphBuilder(*inputs)
        x = g.add("reshape", g.input, name="split", size=(self.groups, channels // self.groups, *size))
        x = g.add("permute", x, name="turn", axes=(1, 0, 2, 3))
        return g.build(g.add("reshape", x, name="join", size=(channels, *size)))


@register_operator("shuffle_v2")
class ShuffleV2(Operator):
    """The unit of ShuffleNet V2 (Ma et al. 2018, figure 3): two branches that are joined and shuffled.

    With `split`, one half of the channels passes and the other is worked on, which needs a stride of 1 and as many
    channels out as in. Without, both branches read all channels, which is how maps are halved and widths change.
    """

    out_channels: int
    kernel_size: int = 3
    stride: int = 1
    split: bool = True
    activation: str = "relu"
    fused = True

    def body(self, *inputs: Shape) -> Graph:
        from ..graph import GraphBuilder

        channels = inputs[0][0]
        if self.out_channels % 2:
            raise GraphError(f"shuffle_v2 gives two halves; {self.out_channels} channels have none")
        if self.split and (self.stride != 1 or channels != self.out_channels):
            raise GraphError(
                f"shuffle_v2 with split keeps size and channels; got stride {self.stride} and {channels} to "
                f"{self.out_channels} channels. Take split=False for the first unit of a stage"
            )
        g, half = GraphBuilder(*inputs), self.out_channels // 2
        if self.split:
            passed = g.add("slice", g.input, name="passed", axis=0, start=0, stop=half)
            worked = g.add("slice", g.input, name="worked", axis=0, start=half, stop=channels)
        else:
            passed = self._depthwise(g, g.input, "shortcut.depthwise")
            passed = self._pointwise(g, passed, "shortcut.project")
            worked = g.input
        x = self._pointwise(g, worked, "expand")
        x = self._depthwise(g, x, "depthwise")
        x = self._pointwise(g, x, "project")
        x = g.add("concat", passed, x, name="join")
        return g.build(g.add("channel_shuffle", x, name="shuffle", groups=2))

    def _pointwise(self, g: GraphBuilder, x: Node, name: str) -> Node:
        channels = self.out_channels // 2
        return g.add("conv_bn_act", x, name=name, out_channels=channels, kernel_size=1, activation=self.activation)

    def _depthwise(self, g: GraphBuilder, x: Node, name: str) -> Node:
        channels = x.shape[0]
        return g.add(
            "conv_bn_act",
            x,
            name=name,
            out_channels=channels,
            kernel_size=self.kernel_size,
            stride=self.stride,
            groups=channels,
            activation=None,
        )


@register_operator("shuffle_v1")
class ShuffleV1(Operator):
    """The unit of ShuffleNet V1 (Zhang et al. 2018, figure 2): a bottleneck of grouped 1x1 convolutions.

    The channels of the bottleneck, a quarter of those that come out, are shuffled, so that groups hear of one another.
    With `join`, the pooled input is put beside the branch, which gives the channels that are missing; without, it is
    added.

    Attributes:
        groups: of the 1x1 convolutions.
        dense: whether the first 1x1 convolution has no groups, as the network's first unit has few channels to read.
    """

    out_channels: int
    groups: int = 3
    kernel_size: int = 3
    stride: int = 1
    join: bool = False
    dense: bool = False
    activation: str = "relu"
    fused = True

    def body(self, *inputs: Shape) -> Graph:
        from ..graph import GraphBuilder

        g, branch = GraphBuilder(*inputs), self._branch(inputs[0][0])
        hidden = self.out_channels // 4
        x = g.add(
            "conv_bn_act",
            g.input,
            name=_grouped("reduce", 1 if self.dense else self.groups),
            out_channels=hidden,
            kernel_size=1,
            groups=1 if self.dense else self.groups,
            activation=self.activation,
        )
        x = g.add("channel_shuffle", x, name="shuffle", groups=self.groups)
        x = g.add(
            "conv_bn_act",
            x,
            name="depthwise",
            out_channels=hidden,
            kernel_size=self.kernel_size,
            stride=self.stride,
            groups=hidden,
            activation=None,
        )
        x = g.add(
            "conv_bn_act",
            x,
            name=_grouped("expand", self.groups),
            out_channels=branch,
            kernel_size=1,
            groups=self.groups,
            activation=None,
        )
        if self.join:
            pooled = g.add("avg_pool2d", g.input, name="pool", kernel_size=3, stride=self.stride, padding=1)
            x = g.add("concat", pooled, x, name="join")
        else:
            x = g.add("add", g.input, x, name="residual")
        return g.build(g.add("activation", x, name="act", kind=self.activation))

    def _branch(self, channels: int) -> int:
        """Channels that the branch gives."""
        if self.join and self.out_channels <= channels:
            raise GraphError(
                f"shuffle_v1 with join puts its {channels} input channels beside others; it cannot give "
                f"{self.out_channels}. Give more channels than come in"
            )
        if not self.join and (self.stride != 1 or self.out_channels != channels):
            raise GraphError(
                f"shuffle_v1 without join keeps size and channels; got stride {self.stride} and {channels} to "
                f"{self.out_channels} channels. Take join=True for the first unit of a stage"
            )
        return self.out_channels - channels if self.join else self.out_channels


def _grouped(name: str, groups: int) -> str:
    """A weight slot for each number of groups: in other groups, a weight reads other channels."""
    return name if groups == 1 else f"{name}_in_{groups}"
