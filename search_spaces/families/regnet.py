"""RegNet (Radosavovic et al. 2020): widths that grow by a quantised linear rule, and a space of that rule's numbers.

Block `j` should have `u_j = w0 + wa j` channels (equation 2); it gets the nearest power of `wm` times `w0` (equations 3
and 4), so that blocks of equal width are a stage.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import product
from typing import Any

from ..errors import SpaceError, did_you_mean
from ..graph import Graph, GraphBuilder, Signature
from ..memo import Memo
from ..operators.base import Shape
from ..operators.blocks import make_divisible
from ..scaling.rules import Rounding, Scaling
from ..space import Architecture, Choice, Option, SearchSpace
from ..spaces import register_space
from .family import Family, Member, file_family
from .skeleton import Row, Skeleton
from .space import largest_stride

QUANTUM = 8


@dataclass(frozen=True)
class Parameters:
    """What tells a RegNet.

    Attributes:
        depth: blocks.
        w0: width that the rule starts with.
        wa: slope, channels a block.
        wm: by what the width of a stage is multiplied for the next.
        group_width: channels of a group of the 3x3 convolutions.
        ratio: width of the 3x3 convolutions relative to the block's output, one over the paper's bottleneck ratio `b`.
        se_ratio: of squeeze-and-excite; 0 for RegNetX, a quarter for RegNetY.
        limit: widths are made multiples of the group's as in torchvision, where more than this share of them is left;
            None for the nearest multiple, as in the paper's code and in timm.
    """

    depth: int
    w0: int
    wa: float
    wm: float
    group_width: int
    ratio: float = 1.0
    se_ratio: float = 0.0
    limit: float | None = None

    def __post_init__(self) -> None:
        whole = {"depth": self.depth, "w0": self.w0, "group_width": self.group_width}
        for name, value in whole.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SpaceError(f"{name} of a RegNet is a whole number above 0; got {value!r}")
        if self.w0 % QUANTUM or self.wa < 0 or self.wm <= 1 or self.ratio <= 0:
            raise SpaceError(
                f"a RegNet has w0 a multiple of {QUANTUM}, wa of at least 0, wm above 1 and a ratio above 0; got "
                f"{self.w0}, {self.wa:g}, {self.wm:g} and {self.ratio:g}"
            )


@lru_cache(maxsize=65536)
def block_widths(depth: int, w0: int, wa: float, wm: float) -> tuple[int, ...]:
    """Channels of each block by the quantised linear rule (equations 2 to 4), multiples of 8.

    >>> block_widths(13, 24, 36.44, 2.49)
    (24, 56, 152, 152, 152, 152, 368, 368, 368, 368, 368, 368, 368)
    """
    steps = (round(math.log((w0 + wa * j) / w0) / math.log(wm)) for j in range(depth))
    return tuple(round(w0 * wm**step / QUANTUM) * QUANTUM for step in steps)


def stages(p: Parameters) -> list[tuple[int, int, int]]:
    """Width, blocks and group width of each stage, made to fit each other."""
    widths = block_widths(p.depth, p.w0, p.wa, p.wm)
    found = []
    for width in sorted(set(widths)):
        inner = max(1, int(width * p.ratio))
        group_width = min(p.group_width, inner)
        if p.limit is None:
            inner = round(inner / group_width) * group_width
        else:
            inner = make_divisible(inner, group_width, p.limit)
        found.append((int(inner / p.ratio), widths.count(width), group_width))
    return found


def regnet(name: str, p: Parameters, stem: int = 32) -> Skeleton:
    """The table of a RegNet."""
    rows = [Row("stem", "conv_bn_act", stem, stride=2, attributes={"kernel_size": 3, "activation": "relu"})]
    for i, (width, depth, group_width) in enumerate(stages(p)):
        block = {"ratio": p.ratio, "group_width": group_width, "se_ratio": p.se_ratio, "activation": "relu"}
        divisor = max(1, round(group_width / p.ratio))
        rows.append(Row(f"s{i + 1}", "bottleneck", width, depth, 2, block, divisor=divisor))
    return Skeleton(name, (*rows, Row("head", "classifier")), rounding=Rounding(divisor=1))


# ---- published members -----------------------------------------------------------------------------------

X: dict[str, Parameters] = {
    "002": Parameters(13, 24, 36.44, 2.49, 8),
    "004": Parameters(22, 24, 24.48, 2.54, 16),
    "006": Parameters(16, 48, 36.97, 2.24, 24),
    "008": Parameters(16, 56, 35.73, 2.28, 16),
    "016": Parameters(18, 80, 34.01, 2.25, 24),
    "032": Parameters(25, 88, 26.31, 2.25, 48),
    "040": Parameters(23, 96, 38.65, 2.43, 40),
    "064": Parameters(17, 184, 60.83, 2.07, 56),
    "080": Parameters(23, 80, 49.56, 2.88, 120),
    "120": Parameters(19, 168, 73.36, 2.37, 112),
    "160": Parameters(22, 216, 55.59, 2.1, 128),
    "320": Parameters(23, 320, 69.86, 2.0, 168),
}
"""RegNetX by hundreds of millions of MACs (tables 3 and 4)."""
Y: dict[str, Parameters] = {
    "002": Parameters(13, 24, 36.44, 2.49, 8),
    "004": Parameters(16, 48, 27.89, 2.09, 8),
    "006": Parameters(15, 48, 32.54, 2.32, 16),
    "008": Parameters(14, 56, 38.84, 2.4, 16),
    "016": Parameters(27, 48, 20.71, 2.65, 24),
    "032": Parameters(21, 80, 42.63, 2.66, 24),
    "040": Parameters(22, 96, 31.41, 2.24, 64),
    "064": Parameters(25, 112, 33.22, 2.27, 72),
    "080": Parameters(17, 192, 76.82, 2.19, 56),
    "120": Parameters(19, 168, 73.36, 2.37, 112),
    "160": Parameters(18, 200, 106.23, 2.48, 112),
    "320": Parameters(20, 232, 115.89, 2.53, 232),
    "640": Parameters(20, 352, 147.48, 2.4, 328),
    "1280": Parameters(27, 456, 160.83, 2.52, 264),
    "2560": Parameters(27, 640, 230.83, 2.53, 373),
}
"""RegNetY; the last three are those of Goyal et al. 2021."""
_TORCHVISION = ("regnetx_004", "regnety_008", "regnety_080")  # timm has both roundings of these


def published_parameters() -> dict[str, Parameters]:
    """The published members' parameters by timm's names."""
    found = {f"regnetx_{size}": p for size, p in X.items()}
    found |= {f"regnety_{size}": replace(p, se_ratio=0.25) for size, p in Y.items()}
    return found | {f"{name}_tv": replace(found[name], limit=0.9) for name in _TORCHVISION}


_PARTS = {"reduce": "conv1", "spatial": "conv2", "expand": "conv3", "shortcut": "downsample"}
_GATE = {"reduce": "fc1", "expand": "fc2"}


def _original(member: str, name: str) -> str:
    """timm's name of a tensor."""
    module, _, tensor = name.rpartition(".")
    row, _, rest = module.partition(".")
    if row == "head":
        return f"head.fc.{tensor}"
    if row == "stem":
        return f"stem.{rest}.{tensor}"
    block, part, kind = rest.split(".")
    if part == "se":
        return f"{row}.b{int(block) + 1}.se.{_GATE[kind]}.{tensor}"
    return f"{row}.b{int(block) + 1}.{_PARTS[part.partition('_by_')[0]]}.{kind}.{tensor}"


file_family(
    Family(
        "regnet",
        {n: Member(partial(regnet, n, p), ("timm", n)) for n, p in published_parameters().items()},
        _original,
    )
)


# ---- the space -------------------------------------------------------------------------------------------


@register_space("regnet")
class RegNet(SearchSpace):
    """RegNets: the numbers of the quantised linear rule, the group width and the bottleneck.

    Members differ in how many stages they have and in which block begins one; the first blocks of a stage share their
    weights whatever the rule.

    Args:
        member: published network that bounds such as `latency_ms <= 0.5x` are relative to, or what is nearest to it.
        depths: numbers of blocks.
        w0: widths that the rule starts with, multiples of 8.
        wa: slopes.
        wm: multipliers between stages.
        group_widths: channels of a group.
        ratios: widths of the 3x3 convolutions relative to the block's output.
        se_ratios: of squeeze-and-excite; 0 for none.
        stem: channels of the first convolution.
        stride: total stride at most; by default as published, but so low that 4 pixels a side are left.
        drop_path: stochastic depth of the last block.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (3, 32, 32),
        classes: int = 10,
        member: str = "regnetx_002",
        depths: Sequence[int] = (7, 9, 11, 13),
        w0: Sequence[int] = (16, 24, 32),
        wa: Sequence[float] = (12.0, 24.0, 36.44),
        wm: Sequence[float] = (2.0, 2.24, 2.49),
        group_widths: Sequence[int] = (4, 8, 16),
        ratios: Sequence[float] = (0.5, 1.0),
        se_ratios: Sequence[float] = (0.0, 0.25),
        stem: int = 32,
        stride: int | None = None,
        drop_path: float = 0.0,
    ) -> None:
        known = published_parameters()
        if member not in known:
            raise SpaceError(f"space {self.name!r} has no member {member!r}: {did_you_mean(member, known)}")
        self.member, self.stem, self.drop_path = member, stem, drop_path
        choices: list[Choice] = []
        given = {"depth": depths, "w0": w0, "wa": wa, "wm": wm}
        given |= {"group_width": group_widths, "ratio": ratios, "se_ratio": se_ratios}
        for name, options in given.items():
            choices.append(Choice(name, tuple(sorted(options))))
        super().__init__(choices, input_shape=input_shape, classes=classes)
        self.stride = largest_stride(min(self.input_shape[1:])) if stride is None else stride
        self._made = Memo(self._skeleton)
        for choice in self.choices:  # mistakes are told now, not when a member is first drawn
            for i in range(len(choice.options)):
                self.parameters(self.architecture({choice.name: choice.options[i]}))

    @property
    def reference(self) -> Architecture:
        wanted = published_parameters()[self.member]
        return self.architecture({c.name: _nearest(c.options, getattr(wanted, c.name)) for c in self.choices})

    def parameters(self, architecture: Architecture) -> Parameters:
        """The numbers of a member."""
        return self._parameters(architecture.indices)

    def _parameters(self, indices: Sequence[int]) -> Parameters:
        values: dict[str, Any] = {c.name: c.options[i] for c, i in zip(self.choices, indices, strict=True)}
        return Parameters(**values)

    def canonical(self, architecture: Architecture) -> Architecture:
        """The first of the members whose rules give the same widths."""
        p = self.parameters(architecture)
        first = self._rules[block_widths(p.depth, p.w0, p.wa, p.wm)]
        return self.from_indices([*first, *architecture.indices[len(first) :]])

    @cached_property
    def _rules(self) -> dict[tuple[int, ...], tuple[int, ...]]:
        """Widths of all blocks to the indices of the first rule that gives them."""
        options = [c.options for c in self.choices[:4]]
        rules = product(*(range(len(o)) for o in options))
        made = ((block_widths(*(o[i] for o, i in zip(options, rule, strict=True))), rule) for rule in rules)
        found: dict[tuple[int, ...], tuple[int, ...]] = {}
        for widths, rule in made:
            found.setdefault(widths, rule)
        return found

    def skeleton(self, architecture: Architecture) -> Skeleton:
        """The table of a member."""
        return self._made(architecture.indices)

    def _skeleton(self, indices: tuple[int, ...]) -> Skeleton:
        table = regnet(self.name, self._parameters(indices), self.stem).at_stride(self.stride)
        return replace(table, resolution=self.input_shape[1], drop_path=self.drop_path)

    def graph(self, architecture: Architecture) -> Graph:
        return self.skeleton(architecture).graph(self.input_shape, self.classes)

    def scaled(self, architecture: Architecture, scaling: Scaling) -> Graph:
        table = self.skeleton(architecture).scaled(scaling)
        if table.resolution == self.input_shape[1]:
            return table.graph(self.input_shape, self.classes)
        g = GraphBuilder(self.input_shape)
        return g.build(table.extend(g, g.add("resize", g.input, name="resize", size=table.resolution), self.classes))

    # ---- the largest of every weight -----------------------------------------------------------------------

    def envelope(self) -> Iterator[Architecture]:
        """The members that have some weight at its largest along some axis: wide stages are seldom deep ones."""
        yield from (self.from_indices(indices) for indices in self._extremes[1])

    def envelope_graphs(self) -> Iterator[Graph]:
        """Every convolution, normalisation and linear layer by itself, as large as any member has it."""
        found = self._extremes[0]
        g = GraphBuilder(*(slot.input_shape for slot in found.values()))
        inputs = zip(g.inputs, found.items(), strict=True)
        yield g.build(
            *(g.add(slot.signature.operator.name, x, name=name, **slot.attributes) for x, (name, slot) in inputs)
        )

    @cached_property
    def _extremes(self) -> tuple[dict[str, _Slot], tuple[tuple[int, ...], ...]]:
        """Every weight slot at its largest, and the indices of members that are largest somewhere."""
        slots: dict[str, _Slot] = {}
        holders: dict[tuple[str, int], tuple[int, ...]] = {}
        known: set[tuple[str, Signature]] = set()
        for indices in self._leaders():
            for block in self.graph(self.from_indices(indices)):
                if block.inputs and (block.name, block.signature) not in known:
                    known.add((block.name, block.signature))
                    for name, signature, _ in block.signature.flat:
                        path = f"{block.name}.{name}"
                        for axis in _Slot.widened(slots, path, signature):
                            holders[path, axis] = indices
        return slots, tuple(dict.fromkeys(holders.values()))

    def _leaders(self) -> Iterator[tuple[int, ...]]:
        """Indices of members with a stage that no other member's, with the same slots, exceeds in all it is made of.

        Only they can have a weight at its largest; arithmetic alone finds them, as building every graph takes long.
        """
        fronts: dict[tuple[Any, ...], list[tuple[int, int, int]]] = {}
        for indices in product(*(range(len(c.options) - 1, -1, -1) for c in self.choices)):  # large ones first
            p, leads, before = self._parameters(indices), False, self.stem
            table = stages(p)
            for i, (width, depth, group_width) in enumerate(table):
                dense = round(width * p.ratio) == group_width
                key = (i, len(table), width == before, dense, group_width, p.ratio, p.se_ratio)
                found, own = fronts.setdefault(key, []), (before, width, depth)
                if not any(all(a <= b for a, b in zip(own, other, strict=True)) for other in found):
                    found.append(own)
                    leads = True
                before = width
            if leads:
                yield indices


@dataclass
class _Slot:
    """A primitive operator with weights, as large as any member has it.

    Attributes:
        signature: a member's.
        sizes: channels that come out, and channels that one of them reads.
    """

    signature: Signature
    sizes: list[int]

    @staticmethod
    def widened(slots: dict[str, _Slot], path: str, signature: Signature) -> list[int]:
        """Make the slot at a path large enough for an operator; the axes that were too small."""
        if not signature.cost.params:
            return []
        groups = signature.operator.attributes.get("groups", 1)
        needed = [signature.shape[0], signature.inputs[0][0] // groups]
        if path not in slots:
            slots[path] = _Slot(signature, needed)
            return [0, 1]
        sizes = slots[path].sizes
        wider = [axis for axis in (0, 1) if needed[axis] > sizes[axis]]
        for axis in wider:
            sizes[axis] = needed[axis]
        return wider

    @property
    def grouped(self) -> bool:
        """Whether it is a convolution in groups; these keep their width, so that wider ones have more of them."""
        return self.signature.operator.attributes.get("groups", 1) > 1

    @property
    def input_shape(self) -> Shape:
        channels = self.sizes[0] if self.grouped else self.sizes[1]
        return (channels, *(1 for _ in self.signature.inputs[0][1:]))

    @property
    def attributes(self) -> dict[str, Any]:
        """Those of the member's operator, with the channels of the slot."""
        found = dict(self.signature.operator.attributes)
        if "out_channels" in found:
            found["out_channels"] = self.sizes[0]
        if self.grouped:
            found["groups"] = self.sizes[0] // self.sizes[1]
        return found


def _nearest(options: Sequence[Option], wanted: float) -> Option:
    return min(options, key=lambda option: abs(float(option) - wanted))
