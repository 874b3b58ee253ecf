"""What timm and torchvision call the tensors of networks made of inverted residuals."""

from __future__ import annotations

from collections.abc import Mapping

from .skeleton import Skeleton

_TIMM = {
    "stem.conv": "conv_stem",
    "stem.bn": "bn1",
    "head.conv": "conv_head",
    "head.bn": "bn2",
    "classifier.hidden": "conv_head",
    "classifier.linear": "classifier",
}
_GATE = {"se.reduce": "se.conv_reduce", "se.expand": "se.conv_expand"}
_EXPANDED = {
    "expand.conv": "conv_pw",
    "expand.bn": "bn1",
    "depthwise.conv": "conv_dw",
    "depthwise.bn": "bn2",
    "project.conv": "conv_pwl",
    "project.bn": "bn3",
    **_GATE,
}
_SEPARABLE = {
    "depthwise.conv": "conv_dw",
    "depthwise.bn": "bn1",
    "project.conv": "conv_pw",
    "project.bn": "bn2",
    **_GATE,
}
_PLAIN = {"conv": "conv", "bn": "bn1"}
_TORCHVISION_SEPARABLE = {
    "depthwise.conv": "0.0",
    "depthwise.bn": "0.1",
    "project.conv": "1",
    "project.bn": "2",
}
_TORCHVISION_EXPANDED = {
    "expand.conv": "0.0",
    "expand.bn": "0.1",
    "depthwise.conv": "1.0",
    "depthwise.bn": "1.1",
    "project.conv": "2",
    "project.bn": "3",
}


def timm_name(table: Skeleton, name: str) -> str:
    """timm's name of a tensor of ours in its EfficientNet and MobileNetV3 classes.

    timm numbers stages, then blocks inside one; rows that it scales as one stage are one stage here too.
    """
    module, _, tensor = name.rpartition(".")
    if module in _TIMM:
        return f"{_TIMM[module]}.{tensor}"
    row, block, inner = module.split(".", 2)
    stage, before = _stages(table)[row]
    return f"blocks.{stage}.{before + int(block)}.{_inner(table, row)[inner]}.{tensor}"


def torchvision_name(table: Skeleton, name: str) -> str:
    """torchvision's name of a tensor of ours in its MobileNetV2, which numbers all blocks in one row."""
    module, _, tensor = name.rpartition(".")
    repeats = [(row.name, row.repeats) for row in table.rows if row.repeats]
    last = 1 + sum(n for _, n in repeats)
    ends = {"stem.conv": "features.0.0", "stem.bn": "features.0.1", "classifier.linear": "classifier.1"}
    ends |= {"head.conv": f"features.{last}.0", "head.bn": f"features.{last}.1"}
    if module in ends:
        return f"{ends[module]}.{tensor}"
    row, block, inner = module.split(".", 2)
    before = sum(n for _, n in repeats[: [r for r, _ in repeats].index(row)])
    names = _TORCHVISION_SEPARABLE if _separable(table, row) else _TORCHVISION_EXPANDED
    return f"features.{1 + before + int(block)}.conv.{names[inner]}.{tensor}"


def _stages(table: Skeleton) -> dict[str, tuple[int, int]]:
    """Row to (number of its stage, blocks of the stage before it)."""
    together = {name: stage for stage in table.stages for name in stage}
    places: dict[str, tuple[int, int]] = {}
    counts: list[int] = []
    previous: tuple[str, ...] | None = None
    for row in table.rows:
        if not row.repeats:
            continue
        stage = together.get(row.name)
        if stage is None or stage != previous:
            counts.append(0)
        previous = stage
        places[row.name] = (len(counts) - 1, counts[-1])
        counts[-1] += row.repeats
    return places


def _inner(table: Skeleton, row: str) -> Mapping[str, str]:
    if table.row(row).operator == "conv_bn_act":
        return _PLAIN
    return _SEPARABLE if _separable(table, row) else _EXPANDED


def _separable(table: Skeleton, row: str) -> bool:
    return dict(table.row(row).attributes)["expansion"] == 1
