"""ResNet (He et al. 2016, table 1), ResNeXt (Xie et al. 2017, table 1) and wide ResNets, and a space around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from ..space import Option
from ..spaces import register_space
from .family import Family, Member, file_family
from .skeleton import Row, Skeleton
from .space import FamilySpace

_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4


def basic(name: str, repeats: Sequence[int]) -> Skeleton:
    """A ResNet of blocks of two convolutions."""
    block = {"kernel_size": 3, "ratio": 1.0, "activation": "relu"}
    stages = zip(_WIDTHS, repeats, strict=True)
    rows = [_stage(i, "basic_block", width, count, block) for i, (width, count) in enumerate(stages)]
    return Skeleton(name, (*_stem(), *rows, Row("classifier", "classifier")))


def bottlenecks(name: str, repeats: Sequence[int], groups: int = 1, base_width: int = 64) -> Skeleton:
    """A ResNet of bottlenecks.

    Args:
        name: of the network.
        repeats: blocks of each stage.
        groups: of the 3x3 convolutions; 32 in ResNeXt-50 (32x4d).
        base_width: channels of a group in the first stage; 4 in ResNeXt-50 (32x4d).
    """
    ratio = groups * base_width / (_WIDTHS[0] * _EXPANSION)
    rows = []
    for i, (width, count) in enumerate(zip(_WIDTHS, repeats, strict=True)):
        group_width = base_width * 2**i if groups > 1 else 0
        block = {"kernel_size": 3, "ratio": ratio, "group_width": group_width, "activation": "relu"}
        divisor = round(group_width / ratio) or None
        rows.append(_stage(i, "bottleneck", _EXPANSION * width, count, block, divisor))
    return Skeleton(name, (*_stem(), *rows, Row("classifier", "classifier")))


def _stem() -> tuple[Row, Row]:
    return (
        Row("stem", "conv_bn_act", 64, stride=2, attributes={"kernel_size": 7, "activation": "relu"}),
        Row("pool", "max_pool2d", stride=2, attributes={"kernel_size": 3, "padding": 1}),
    )


def _stage(
    i: int, operator: str, width: int, repeats: int, block: Mapping[str, object], divisor: int | None = None
) -> Row:
    return Row(f"layer{i + 1}", operator, width, repeats, 1 if i == 0 else 2, block, divisor=divisor)


_50, _101 = (3, 4, 6, 3), (3, 4, 23, 3)
_MAKE = {
    "resnet18": partial(basic, repeats=(2, 2, 2, 2)),
    "resnet34": partial(basic, repeats=_50),
    "resnet26": partial(bottlenecks, repeats=(2, 2, 2, 2)),
    "resnet50": partial(bottlenecks, repeats=_50),
    "resnet101": partial(bottlenecks, repeats=_101),
    "resnet152": partial(bottlenecks, repeats=(3, 8, 36, 3)),
    "resnext50_32x4d": partial(bottlenecks, repeats=_50, groups=32, base_width=4),
    "resnext101_32x4d": partial(bottlenecks, repeats=_101, groups=32, base_width=4),
    "resnext101_32x8d": partial(bottlenecks, repeats=_101, groups=32, base_width=8),
    "resnext101_64x4d": partial(bottlenecks, repeats=_101, groups=64, base_width=4),
    "wide_resnet50_2": partial(bottlenecks, repeats=_50, base_width=128),
    "wide_resnet101_2": partial(bottlenecks, repeats=_101, base_width=128),
}
_BLOCKS = {
    "basic_block": {"first": "1", "second": "2"},
    "bottleneck": {"reduce": "1", "spatial": "2", "expand": "3"},
}


def _original(member: str, name: str) -> str:
    """timm's name of a tensor."""
    module, _, tensor = name.rpartition(".")
    row, _, rest = module.partition(".")
    if row == "classifier":
        return f"fc.{tensor}"
    if row == "stem":
        return f"{rest}1.{tensor}"
    block, part, kind = rest.split(".")
    if part == "shortcut":
        return f"{row}.{block}.downsample.{0 if kind == 'conv' else 1}.{tensor}"
    operator = "basic_block" if part in _BLOCKS["basic_block"] else "bottleneck"
    return f"{row}.{block}.{kind}{_BLOCKS[operator][part.partition('_by_')[0]]}.{tensor}"


file_family(Family("resnet", {n: Member(partial(make, n), ("timm", n)) for n, make in _MAKE.items()}, _original))


@register_space("resnet")
class ResNet(FamilySpace):
    """ResNets and ResNeXts with searched depth, width, bottleneck and groups of each stage.

    `ratio` is the width of the 3x3 convolutions relative to the block's output, `group_width` the channels of one of
    their groups, 0 for none. Blocks of two convolutions, as ResNet-18 has them, have no groups.
    """

    family = "resnet"
    default = "resnet50"
    varied: ClassVar[Mapping[str, Sequence[Option]]] = {"ratio": (0.125, 0.25, 0.5), "group_width": (0, 16)}
