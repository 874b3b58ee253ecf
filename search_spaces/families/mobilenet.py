"""MobileNetV2 and MobileNetV3 as their papers print them, with the widths and depths that timm publishes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

from ..scaling.rules import Scaling
from ..space import Option
from ..spaces import register_space
from .family import Family, Member, file_family
from .naming import timm_name, torchvision_name
from .skeleton import Row, Skeleton
from .space import FamilySpace

# ---- MobileNetV2 -----------------------------------------------------------------------------------------

_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, width, repeats and stride of each stage (Sandler et al. 2018, table 2)."""
_V2_WIDTHS = {"035": 0.35, "050": 0.5, "075": 0.75, "100": 1.0, "140": 1.4}
_V2_DEEPER = {"110d": (1.1, 1.2), "120d": (1.2, 1.4)}  # width, depth


def v2(name: str = "mobilenetv2_100", width: float = 1.0) -> Skeleton:
    """MobileNetV2 of a width; its head is never narrower than published."""
    rows = [Row("stem", "conv_bn_act", 32, stride=2, attributes={"kernel_size": 3, "activation": "relu6"})]
    for i, (expansion, channels, repeats, stride) in enumerate(_V2):
        attributes = {"kernel_size": 3, "expansion": expansion, "se_ratio": 0.0, "activation": "relu6"}
        rows.append(Row(f"stage{i}", "inverted_residual", channels, repeats, stride, attributes))
    rows.append(Row("head", "conv_bn_act", 1280, attributes={"kernel_size": 1, "activation": "relu6"}, scaled="up"))
    rows.append(Row("classifier", "classifier", attributes={"dropout": 0.2}))
    return Skeleton(name, tuple(rows)).scaled(Scaling(width=width))


def v2_deeper(name: str, width: float, depth: float) -> Skeleton:
    """timm's wider and deeper MobileNetV2: stem and head keep their widths, the first and the last stage one block."""
    table = v2(name)
    table = table.replaced({end: replace(table.row(end), scaled="never") for end in ("stem", "head")})
    table = table.scaled(Scaling(depth, width))
    ends = (f"stage{i}" for i in (0, len(_V2) - 1))
    return table.replaced({end: replace(table.row(end), repeats=1) for end in ends})


def _v2_members() -> dict[str, Member]:
    names = {f"mobilenetv2_{tag}": width for tag, width in _V2_WIDTHS.items()}
    found = {name: Member(partial(v2, name, width), ("timm", name)) for name, width in names.items()}
    for tag, (width, depth) in _V2_DEEPER.items():
        name = f"mobilenetv2_{tag}"
        found[name] = Member(partial(v2_deeper, name, width, depth), ("timm", name))
    return found | {"mobilenet_v2": Member(partial(v2, "mobilenet_v2"), ("torchvision", "mobilenet_v2"))}


def _v2_original(member: str, name: str) -> str:
    found = mobilenetv2.members[member]
    translate = timm_name if found.source[0] == "timm" else torchvision_name
    return translate(found.make(), name)


mobilenetv2 = file_family(Family("mobilenetv2", _v2_members(), _v2_original))


# ---- MobileNetV3 -----------------------------------------------------------------------------------------

_Block = tuple[str, int, int, int, float, int, float, str]
_LARGE: tuple[_Block, ...] = (  # row, repeats, kernel, stride, expansion, width, squeeze-and-excite, activation
    ("stage0", 1, 3, 1, 1, 16, 0.0, "relu"),
    ("stage1a", 1, 3, 2, 4, 24, 0.0, "relu"),
    ("stage1b", 1, 3, 1, 3, 24, 0.0, "relu"),
    ("stage2", 3, 5, 2, 3, 40, 0.25, "relu"),
    ("stage3a", 1, 3, 2, 6, 80, 0.0, "hardswish"),
    ("stage3b", 1, 3, 1, 2.5, 80, 0.0, "hardswish"),
    ("stage3c", 2, 3, 1, 2.3, 80, 0.0, "hardswish"),
    ("stage4", 2, 3, 1, 6, 112, 0.25, "hardswish"),
    ("stage5", 3, 5, 2, 6, 160, 0.25, "hardswish"),
)
_SMALL: tuple[_Block, ...] = (
    ("stage0", 1, 3, 2, 1, 16, 0.25, "relu"),
    ("stage1a", 1, 3, 2, 4.5, 24, 0.0, "relu"),
    ("stage1b", 1, 3, 1, 3.67, 24, 0.0, "relu"),
    ("stage2a", 1, 5, 2, 4, 40, 0.25, "hardswish"),
    ("stage2b", 2, 5, 1, 6, 40, 0.25, "hardswish"),
    ("stage3", 2, 5, 1, 3, 48, 0.25, "hardswish"),
    ("stage4", 3, 5, 2, 6, 96, 0.25, "hardswish"),
)
_V3 = {  # blocks, width of the last convolution, of the hidden layer behind the pooling, rows that are one stage
    "large": (_LARGE, 960, 1280, (("stage1a", "stage1b"), ("stage3a", "stage3b", "stage3c"))),
    "small": (_SMALL, 576, 1024, (("stage1a", "stage1b"), ("stage2a", "stage2b"))),
}
_V3_MEMBERS = {  # size, multipliers
    "mobilenetv3_large_075": ("large", Scaling(width=0.75)),
    "mobilenetv3_large_100": ("large", Scaling()),
    "mobilenetv3_large_150d": ("large", Scaling(depth=1.2, width=1.5, resolution=256 / 224)),
    "mobilenetv3_small_050": ("small", Scaling(width=0.5)),
    "mobilenetv3_small_075": ("small", Scaling(width=0.75)),
    "mobilenetv3_small_100": ("small", Scaling()),
}
_NARROW = 0.75  # widths below it leave timm's stem as it is


def v3(name: str = "mobilenetv3_large_100", size: str = "large", scaling: Scaling | None = None) -> Skeleton:
    """MobileNetV3 (Howard et al. 2019, tables 1 and 2), large or small; the hidden layer keeps its width."""
    blocks, last, hidden, stages = _V3[size]
    scaling = scaling or Scaling()
    grows: Literal["always", "never"] = "never" if scaling.width < _NARROW else "always"
    stem = {"kernel_size": 3, "activation": "hardswish"}
    rows = [Row("stem", "conv_bn_act", 16, stride=2, attributes=stem, scaled=grows)]
    for row, repeats, kernel, stride, expansion, channels, squeeze, activation in blocks:
        attributes = {"kernel_size": kernel, "expansion": expansion, "se_ratio": squeeze, "activation": activation}
        rows.append(Row(row, "inverted_residual", channels, repeats, stride, attributes))
    rows.append(Row("last", "conv_bn_act", last, 1, attributes={"kernel_size": 1, "activation": "hardswish"}))
    rows.append(Row("classifier", "pooled_classifier", attributes={"hidden": hidden, "dropout": 0.2}))
    return Skeleton(name, tuple(rows), stages=stages).scaled(scaling)


def _v3_original(member: str, name: str) -> str:
    return timm_name(mobilenetv3.members[member].make(), name)


mobilenetv3 = file_family(
    Family(
        "mobilenetv3",
        {name: Member(partial(v3, name, *how), ("timm", name)) for name, how in _V3_MEMBERS.items()},
        _v3_original,
    )
)


# ---- spaces ----------------------------------------------------------------------------------------------


class InvertedResidualSpace(FamilySpace):
    """What families of inverted residuals share: a stage that does not expand stays so, single convolutions stay."""

    def options_of(self, row: Row, attribute: str) -> tuple[Option, ...]:
        own = dict(row.attributes)
        if row.operator == "conv_bn_act" or (attribute == "expansion" and own["expansion"] == 1):
            return ()
        return super().options_of(row, attribute)


@register_space("mobilenetv2")
class MobileNetV2(InvertedResidualSpace):
    """Networks like MobileNetV2: kernel and expansion of each stage, beside depth and width."""

    family = "mobilenetv2"
    default = "mobilenetv2_100"
    varied: ClassVar[Mapping[str, Sequence[Option]]] = {"kernel_size": (3, 5, 7), "expansion": (3, 4, 6)}


@register_space("mobilenetv3")
class MobileNetV3(InvertedResidualSpace):
    """Networks like MobileNetV3: kernel, expansion and squeeze-and-excite of each row, beside depth and width."""

    family = "mobilenetv3"
    default = "mobilenetv3_large_100"
    varied: ClassVar[Mapping[str, Sequence[Option]]] = {
        "kernel_size": (3, 5, 7),
        "expansion": (3, 4, 6),
        "se_ratio": (0.0, 0.25),
    }
