"""ShuffleNet V1 (Zhang et al. 2018, table 1) and V2 (Ma et al. 2018, table 5): members, and a space of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import ClassVar

from ..errors import SpaceError
from ..space import Option
from ..spaces import register_space
from .family import Family, Member, file_family
from .skeleton import Row, Skeleton
from .space import FamilySpace

REPEATS = (4, 8, 4)
V2_WIDTHS = {
    "x0_5": (24, 48, 96, 192, 1024),
    "x1_0": (24, 116, 232, 464, 1024),
    "x1_5": (24, 176, 352, 704, 1024),
    "x2_0": (24, 244, 488, 976, 2048),
}
"""Channels of the stem, the stages and the head."""
V1_WIDTHS: dict[str, dict[int, tuple[int, ...]]] = {
    "x0_5": {3: (12, 120, 240, 480), 8: (16, 192, 384, 768)},
    "x1_0": {
        1: (24, 144, 288, 576),
        2: (24, 200, 400, 800),
        3: (24, 240, 480, 960),
        4: (24, 272, 544, 1088),
        8: (24, 384, 768, 1536),
    },
    "x1_5": {3: (24, 360, 720, 1440), 8: (24, 576, 1152, 2304)},
    "x2_0": {3: (48, 480, 960, 1920), 8: (48, 768, 1536, 3072)},
}
"""Channels of the stem and the stages, by the number of groups."""
V1_PUBLISHED_MMACS: dict[str, int] = {
    "shufflenet_v1_x1_0_g1": 143,
    "shufflenet_v1_x1_0_g2": 140,
    "shufflenet_v1_x1_0_g3": 137,
    "shufflenet_v1_x1_0_g4": 133,
    "shufflenet_v1_x1_0_g8": 137,
}
"""Complexity in millions of MACs as the paper's table 1 prints it."""


# ---- ShuffleNet V2 ---------------------------------------------------------------------------------------


def shufflenet_v2(name: str, widths: Sequence[int], repeats: Sequence[int] = REPEATS) -> Skeleton:
    """The table of a ShuffleNet V2: channels of the stem, of the stages and of the head, units of the stages."""
    stem, *stages, head = widths
    rows = [*_stem(stem)]
    for i, (width, count) in enumerate(zip(stages, repeats, strict=True)):
        unit = {"kernel_size": 3, "activation": "relu"}
        rows.append(Row(f"stage{i + 2}", "shuffle_v2", width, count, 2, unit, {"split": False}, divisor=2))
    rows.append(Row("head", "conv_bn_act", head, attributes={"kernel_size": 1, "activation": "relu"}))
    return Skeleton(name, (*rows, Row("classifier", "classifier")))


_V2_ENDS = {"stem": "conv1", "head": "conv5"}
_V2_PARTS = {"conv": 0, "bn": 1}
_V2_UNIT = {
    "shortcut.depthwise.conv": "branch1.0",
    "shortcut.depthwise.bn": "branch1.1",
    "shortcut.project.conv": "branch1.2",
    "shortcut.project.bn": "branch1.3",
    "expand.conv": "branch2.0",
    "expand.bn": "branch2.1",
    "depthwise.conv": "branch2.3",
    "depthwise.bn": "branch2.4",
    "project.conv": "branch2.5",
    "project.bn": "branch2.6",
}


def _v2_original(member: str, name: str) -> str:
    """torchvision's name of a tensor."""
    module, _, tensor = name.rpartition(".")
    row, _, rest = module.partition(".")
    if row == "classifier":
        return f"fc.{tensor}"
    if row in _V2_ENDS:
        return f"{_V2_ENDS[row]}.{_V2_PARTS[rest]}.{tensor}"
    block, _, part = rest.partition(".")
    return f"{row}.{block}.{_V2_UNIT[part]}.{tensor}"


def _v2_members() -> dict[str, Member]:
    names = {f"shufflenet_v2_{size}": widths for size, widths in V2_WIDTHS.items()}
    return {name: Member(partial(shufflenet_v2, name, widths), ("torchvision", name)) for name, widths in names.items()}


file_family(Family("shufflenetv2", _v2_members(), _v2_original))


@register_space("shufflenetv2")
class ShuffleNetV2(FamilySpace):
    """ShuffleNet V2 with searched kernel, width and depth of each stage.

    Its guidelines (equal widths, no groups, few fragments, few element-wise operators) are no rules of this space: see
    `predictors.cost.check_guidelines` for how far a member keeps them.
    """

    family = "shufflenetv2"
    default = "shufflenet_v2_x1_0"
    varied: ClassVar[Mapping[str, Sequence[Option]]] = {"kernel_size": (3, 5, 7)}


# ---- ShuffleNet V1 ---------------------------------------------------------------------------------------


def shufflenet_v1(name: str, groups: int, widths: Sequence[int], repeats: Sequence[int] = REPEATS) -> Skeleton:
    """The table of a ShuffleNet V1: groups of its 1x1 convolutions, channels of the stem and of the stages.

    The first of all units reads few channels and has no groups in its first convolution (section 3.2).
    """
    stem, *stages = widths
    rows = [*_stem(stem, divisor=groups)]
    for i, (width, count) in enumerate(zip(stages, repeats, strict=True)):
        unit = {"groups": groups, "kernel_size": 3, "activation": "relu"}
        first = {"join": True, "dense": i == 0}
        rows.append(Row(f"stage{i + 2}", "shuffle_v1", width, count, 2, unit, first, divisor=4 * groups))
    return Skeleton(name, (*rows, Row("classifier", "classifier")))


def _v1_members() -> dict[str, Member]:
    found = {}
    for size, by_groups in V1_WIDTHS.items():
        for groups, widths in by_groups.items():
            name = f"shufflenet_v1_{size}_g{groups}"
            found[name] = Member(partial(shufflenet_v1, name, groups, widths), ("paper", "arXiv:1707.01083"))
    return found


def _v1_original(member: str, name: str) -> str:
    """No library has the family, so its state dicts are ours."""
    return name


file_family(Family("shufflenetv1", _v1_members(), _v1_original))


@register_space("shufflenetv1")
class ShuffleNetV1(FamilySpace):
    """ShuffleNet V1 with searched kernel, width and depth of each stage; its groups are those of the member.

    The first unit of a stage puts its input beside what it adds, so a stage has more channels than the one before: the
    largest of the multipliers must be less than twice the smallest.
    """

    family = "shufflenetv1"
    default = "shufflenet_v1_x1_0_g3"
    varied: ClassVar[Mapping[str, Sequence[Option]]] = {"kernel_size": (3, 5, 7)}

    widths = (0.6, 0.8, 1.0)

    def _check(self, known: set[str]) -> None:
        super()._check(known)
        if "groups" in self.vary:
            raise SpaceError(
                "the widths of ShuffleNet V1 go with its groups, so they are no choice; take another member, such as "
                "shufflenet_v1_x1_0_g8"
            )
        self._check_widths()

    def _check_widths(self) -> None:
        """Every stage is wider than the one before, whatever is chosen."""
        widths = [
            [self.base.rounding.width(row.width, m, row.divisor) for m in self.multipliers]
            for row in self.base.rows
            if row.repeats and row.width is not None
        ]
        widths.insert(0, [self.base.row("stem").width or 0])
        for before, after in pairwise(widths):
            if max(before) >= min(after):
                raise SpaceError(
                    f"space {self.name!r} has a stage of {min(after)} channels behind one of {max(before)}, but stages "
                    f"of ShuffleNet V1 grow; give multipliers nearer to each other than {list(self.multipliers)}"
                )


# ---- both ------------------------------------------------------------------------------------------------


def _stem(width: int, divisor: int | None = None) -> tuple[Row, Row]:
    convolution = {"kernel_size": 3, "activation": "relu"}
    return (
        Row("stem", "conv_bn_act", width, stride=2, attributes=convolution, divisor=divisor),
        Row("pool", "max_pool2d", stride=2, attributes={"kernel_size": 3, "padding": 1}),
    )
