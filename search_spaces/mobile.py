"""Inverted residuals with searched kernel, expansion, depth, width, resolution, squeeze-and-excite and activation.

The family of MobileNetV2/V3 and of once-for-all networks. Weights are shared by name: the first channels of a
width, the centre of a kernel, the first blocks of a stage.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import SpaceError
from .graph import Graph, GraphBuilder, Node
from .operators.blocks import make_divisible
from .scaling.rules import Rounding, Scaling
from .space import Architecture, Choice, Option, SearchSpace
from .spaces import register_space


@register_space("mobile")
class Mobile(SearchSpace):
    """Stages of inverted residuals.

    Args:
        widths: channels of each stage at multiplier 1.
        strides: stride of each stage's first block.
        depths: numbers of blocks a stage may have.
        kernels: kernel sizes of a block.
        expansions: expansion factors of a block.
        multipliers: width multipliers of a stage.
        resolutions: image sizes the network may work at; by default three quarters, seven eighths and all of the
            input's height, in multiples of 4. Images are resized by the network itself.
        squeeze_excite: whether a stage's blocks have squeeze-and-excite.
        activations: activations of the whole network.
        stem: channels of the first convolution.
        stem_stride: its stride.
        head: features before the linear layer.
        dropout: dropout before the linear layer.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (3, 32, 32),
        classes: int = 10,
        widths: Sequence[int] = (16, 24, 40, 80),
        strides: Sequence[int] = (1, 2, 2, 1),
        depths: Sequence[int] = (1, 2, 3),
        kernels: Sequence[int] = (3, 5, 7),
        expansions: Sequence[float] = (3, 4, 6),
        multipliers: Sequence[float] = (0.5, 0.75, 1.0),
        resolutions: Sequence[int] | None = None,
        squeeze_excite: Sequence[bool] = (False, True),
        activations: Sequence[str] = ("relu", "hardswish"),
        stem: int = 16,
        stem_stride: int = 1,
        head: int = 256,
        dropout: float = 0.0,
    ) -> None:
        if len(widths) != len(strides):
            raise SpaceError(
                f"space 'mobile' needs a stride for each width; got {len(widths)} widths, {len(strides)} strides"
            )
        if any(k % 2 == 0 for k in kernels):
            raise SpaceError(f"space 'mobile' takes odd kernels, so that each has a centre; got {list(kernels)}")
        self.widths, self.strides = tuple(widths), tuple(strides)
        self.stem, self.stem_stride, self.head, self.dropout = stem, stem_stride, head, dropout
        if resolutions is None:
            resolutions = sorted(
                {max(4, round(input_shape[1] * part / 4) * 4) for part in (0.75, 0.875)} | {input_shape[1]}
            )
        choices = [Choice("resolution", tuple(resolutions)), Choice("activation", tuple(activations))]
        for i, _ in enumerate(self.widths):
            stage = f"stage{i}"
            choices += [
                Choice(f"{stage}.depth", tuple(sorted(depths))),
                Choice(f"{stage}.width", tuple(sorted(multipliers))),
                Choice(f"{stage}.se", tuple(squeeze_excite)),
            ]
            for block in range(max(depths)):
                deep: tuple[Option, ...] = tuple(d for d in depths if d > block)
                when = None if len(deep) == len(depths) else (f"{stage}.depth", deep)
                choices += [
                    Choice(f"{stage}.block{block}.kernel", tuple(sorted(kernels)), when),
                    Choice(f"{stage}.block{block}.expansion", tuple(sorted(expansions)), when),
                ]
        super().__init__(choices, input_shape=input_shape, classes=classes)

    def graph(self, architecture: Architecture) -> Graph:
        return self.scaled(architecture, Scaling())

    def scaled(self, architecture: Architecture, scaling: Scaling) -> Graph:
        """A member with multiplied depth, width and resolution; blocks that come to a stage are as its last one."""
        a, rounding = architecture.values, Rounding()
        g = GraphBuilder(self.input_shape)
        x = g.input
        size = rounding.resolution(int(a["resolution"]), scaling.resolution)
        if size != x.shape[1] or x.shape[1] != x.shape[2]:
            x = g.add("resize", x, name="resize", size=size)
        act, (stem, head) = a["activation"], (rounding.width(n, scaling.width) for n in (self.stem, self.head))
        x = g.add("conv_bn_act", x, name="stem", out_channels=stem, stride=self.stem_stride, activation=act)
        for i in range(len(self.widths)):
            x = self._stage(g, x, i, a, scaling)
        x = g.add("conv_bn_act", x, name="head", out_channels=head, kernel_size=1, activation=act)
        return g.build(g.add("classifier", x, name="classifier", classes=self.classes, dropout=self.dropout))

    def _stage(self, g: GraphBuilder, x: Node, i: int, a: dict[str, Option], scaling: Scaling) -> Node:
        stage = f"stage{i}"
        width = make_divisible(self.widths[i] * float(a[f"{stage}.width"]) * scaling.width)
        depth = int(a[f"{stage}.depth"])
        for block in range(Rounding().depth(depth, scaling.depth)):
            like = f"{stage}.block{min(block, depth - 1)}"
            x = g.add(
                "inverted_residual",
                x,
                name=f"{stage}.block{block}",
                out_channels=width,
                kernel_size=a[f"{like}.kernel"],
                stride=self.strides[i] if block == 0 else 1,
                expansion=a[f"{like}.expansion"],
                se_ratio=0.25 if a[f"{stage}.se"] else 0.0,
                activation=a["activation"],
            )
        return x
