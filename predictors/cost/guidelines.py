"""ShuffleNet V2's four guidelines as checks: why a network is slower than its MACs say, in figures and in words.

Ma et al. 2018, section 2: equal widths move the fewest bytes (G1), groups move more (G2), many small operators in a
block do not fill a device (G3), element-wise operators move much and compute little (G4). All is read off the graph:
bytes are those of `Cost`, batch normalisations behind convolutions count as folded into them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import Any, Literal

from search_spaces.graph import Graph, Node
from search_spaces.operators.base import FLOAT_BYTES

from .features import kind
from .roofline import folded
from .units import runs

Guideline = Literal["G1", "G2", "G3", "G4"]

EXCESS = 3 / (2 * math.sqrt(2))
"""G1 and G2: bytes moved relative to the best form above which an operator counts, 1.06. It is the ratio of widths 1:2,
the mildest of the paper's settings, with which its GPU already lost 12 % of its speed (table 1)."""
FRAGMENTS = 5
"""G3: convolutions and poolings of a block above which it counts. ShuffleNet V2's own largest block has five, the
regular ones of ResNet and MobileNetV2 two or three, NASNet-A's thirteen (section 2, G3)."""
BRANCHES = 2
"""G3: branches that work side by side above which a block counts; two as in ShuffleNet V2's down-sampling block."""
ELEMENTWISE_SHARE = 0.5
"""G4: share of the bytes above which it counts: more than all other operators together. At 224 pixels it is 64 % in
MobileNetV2, which the paper names as breaking G4, 43 % in ResNet-50 and 38 % in ShuffleNet V2."""
NOTICEABLE = 0.05
"""G1 to G3: share of a network's bytes in operators that count, below which mending them would not be noticed."""
SMALL_BYTES = 64 * 1024
"""Bytes below which calling an operator takes longer than moving them: some microseconds at tens of GB/s."""

TITLES: dict[Guideline, str] = {
    "G1": "unequal widths",
    "G2": "heavy grouping",
    "G3": "fragmentation",
    "G4": "element-wise operators",
}
CLEAN = "It keeps the four guidelines of ShuffleNet V2."

_SHOWN = 3
_WINDOWED = ("conv", "max_pool", "avg_pool", "adaptive_", "functional_conv", "functional_adder", "functional_shift")
_KINDS = {
    "activations": ("activation", "prelu", "clamp", "elementwise", "softmax"),
    "sums and gates": ("add", "subtract", "multiply", "combine", "scalar"),
    "normalisations": ("batch_norm", "instance_norm", "layer_norm", "rms_norm", "group_norm", "normalize"),
}
_KIND_OF = {name: words for words, names in _KINDS.items() for name in names}


@dataclass(frozen=True)
class Finding:
    """What one guideline says of a network.

    Attributes:
        guideline: `G1` to `G4`.
        broken: whether it is worth telling, by the limits of this module.
        figure: what is measured: bytes relative to the best form of the operator that wastes most (G1, G2),
            convolutions and poolings of the most fragmented block (G3), element-wise share of the bytes (G4).
        share: share of the network's bytes in the operators that count.
        nodes: those most responsible by their names in `Graph.inline()`, the worst first.
        words: a sentence for people.
        time_share: as `share`, of the predicted time; None where no times were given.
        figures: further figures by name.
    """

    guideline: Guideline
    broken: bool
    figure: float
    share: float
    nodes: tuple[str, ...]
    words: str
    time_share: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Finding:
        """Inverse of `to_dict`."""
        return cls(**{**data, "nodes": tuple(data["nodes"])})


def check_guidelines(graph: Graph, times_ms: Mapping[str, float] | None = None) -> list[Finding]:
    """One finding for each guideline, G1 to G4, kept ones as well.

    Args:
        graph: the network.
        times_ms: milliseconds of its primitive operators by name, as `Roofline.times` gives them.
    """
    network = _Network(graph, times_ms)
    return [_unequal_widths(network), _groups(network), _fragments(network), _element_wise(network)]


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Broken guidelines, the largest share of the time (of the bytes, where no times are known) first."""
    broken = [f for f in findings if f.broken]
    return sorted(broken, key=lambda f: -(f.share if f.time_share is None else f.time_share))


def explain(findings: Iterable[Finding]) -> list[str]:
    """The sentences worth telling, worst first; one that says so where all guidelines are kept."""
    return [f.words for f in worst_first(findings)] or [CLEAN]


# ---- the network as the checks see it --------------------------------------------------------------------


class _Network:
    """A graph's executed operators with their bytes, batch normalisations folded."""

    def __init__(self, graph: Graph, times_ms: Mapping[str, float] | None) -> None:
        simple = graph.simplify()
        self.graph, self._times = simple, times_ms
        self.norms = folded(simple, activations=False)
        self.nodes = [n for n in simple.nodes if runs(n.signature) and n.name not in self.norms]
        self.bytes = {n.name: n.signature.cost.bytes_moved for n in self.nodes}

    @cached_property
    def total(self) -> int:
        return max(sum(self.bytes.values()), 1)

    def share(self, nodes: Iterable[Node]) -> float:
        return sum(self.bytes[n.name] for n in nodes) / self.total

    def time_share(self, nodes: Iterable[Node]) -> float | None:
        """Share of the predicted time, that of folded normalisations included where they are run."""
        if self._times is None:
            return None
        total = sum(self._times.values()) or 1.0
        return sum(self._times.get(n.name, 0.0) for n in nodes) / total

    def finding(
        self,
        guideline: Guideline,
        broken: bool,
        figure: float,
        concerned: Sequence[Node],
        words: str,
        **figures: float,
    ) -> Finding:
        names = tuple(n.name for n in concerned[:_SHOWN])
        share, time_share = self.share(concerned), self.time_share(concerned)
        return Finding(guideline, broken, figure, share, names, f"{guideline}: {words}.", time_share, figures)


# ---- G1 and G2: bytes against the best form with equal MACs ----------------------------------------------


def pointwise_minimum(pixels_in: int, pixels_out: int, channels: int, out_channels: int) -> float:
    """Fewest numbers that a 1x1 convolution with these MACs moves over all pairs of widths.

    `2 sqrt(h w B) + B / (h w)` with `B = h w c1 c2` (eq. 1), taken with equality iff `c1 = c2`; with a stride, where
    input and output differ in size, the widths that balance both.
    """
    return 2 * math.sqrt(pixels_in * pixels_out * channels * out_channels) + channels * out_channels


def ungrouped(pixels_in: int, pixels_out: int, channels: int, out_channels: int, groups: int, window: int = 1) -> float:
    """Numbers moved by the convolution of one group with the same input and MACs, which has `out_channels / groups`
    outputs (eq. 2: `h w c1 + B g / c1 + B / (h w)` grows with `g`)."""
    weights = window * channels * out_channels / groups
    return pixels_in * channels + pixels_out * out_channels / groups + weights


def _unequal_widths(network: _Network) -> Finding:
    def ratio(node: Node) -> float:
        (channels, *size), (out_channels, *out_size) = node.signature.inputs[0], node.shape
        least = pointwise_minimum(math.prod(size), math.prod(out_size), channels, out_channels)
        return network.bytes[node.name] / (FLOAT_BYTES * least)

    pointwise = [n for n in network.nodes if _is(n, "pointwise")]
    if not pointwise:
        return network.finding("G1", False, 1.0, [], "there is no 1x1 convolution")
    return _wasteful(
        network,
        "G1",
        {n.name: ratio(n) for n in pointwise},
        lambda n: f"1x1 convolution {_maps(n)}",
        "the balanced form with equal MACs",
        "widths of 1x1 convolutions are balanced",
    )


def _groups(network: _Network) -> Finding:
    def ratio(node: Node) -> float:
        (channels, *size), (out_channels, *out_size) = node.signature.inputs[0], node.shape
        groups = node.attributes["groups"]
        window = node.signature.cost.macs * groups // (math.prod(out_size) * channels * out_channels)
        best = ungrouped(math.prod(size), math.prod(out_size), channels, out_channels, groups, window)
        return network.bytes[node.name] / (FLOAT_BYTES * best)

    grouped = [n for n in network.nodes if _is(n, "grouped")]
    if not grouped:
        return network.finding("G2", False, 1.0, [], "there is no grouped convolution but depthwise ones")
    return _wasteful(
        network,
        "G2",
        {n.name: ratio(n) for n in grouped},
        lambda n: f"convolution {_maps(n)} in {n.attributes['groups']} groups",
        "the form without groups and with equal MACs",
        "grouped convolutions move hardly more than their form without groups",
    )


def _wasteful(
    network: _Network,
    guideline: Guideline,
    ratios: Mapping[str, float],
    described: Callable[[Node], str],
    best_form: str,
    kept: str,
) -> Finding:
    """The finding on operators that move `ratios` times the bytes of their best form."""

    def wasted(node: Node) -> float:
        return network.bytes[node.name] * (1 - 1 / ratios[node.name])

    judged = sorted((n for n in network.nodes if n.name in ratios), key=wasted, reverse=True)
    over = [n for n in judged if ratios[n.name] > EXCESS + 1e-9]
    excess = sum(map(wasted, judged)) / network.total
    if not over or network.share(over) < NOTICEABLE:
        figure = max(ratios.values())
        words = f"{kept} (at most {figure:.2f} times the bytes" + (" where it matters little)" if over else ")")
        return network.finding(guideline, False, figure, over, words, operators=len(over), wasted_share=excess)
    worst = over[0]
    words = (
        f"{described(worst)}: it moves {ratios[worst.name]:.2g} times the bytes of {best_form}. "
        f"{_such(len(over), 'such convolution')} {_percent(network.share(over))} of the bytes"
    )
    return network.finding(guideline, True, ratios[worst.name], over, words, operators=len(over), wasted_share=excess)


# ---- G3: fragmentation -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Block:
    """Operators between two points that all data passes, and how their convolutions and poolings lie."""

    nodes: tuple[Node, ...]
    fragments: int
    branches: int
    longest: int
    small: int

    @property
    def fragmented(self) -> bool:
        return self.fragments > FRAGMENTS or self.branches > BRANCHES

    @property
    def name(self) -> str:
        """What the operators' names begin with in common, else the first and the last of them."""
        paths = zip(*(n.name.split(".")[:-1] for n in self.nodes), strict=False)
        common = takewhile(lambda parts: len(set(parts)) == 1, paths)
        return ".".join(parts[0] for parts in common) or f"from {_short(self.nodes[0])} to {_short(self.nodes[-1])}"


def _fragments(network: _Network) -> Finding:
    blocks = list(_blocks(network))
    worst = max(blocks, key=lambda b: (b.fragmented, b.fragments, b.branches), default=None)
    over = sorted((b for b in blocks if b.fragmented), key=lambda b: -b.fragments)
    concerned = [n for b in over for n in b.nodes if n.name in network.bytes]
    if worst is None:
        return network.finding("G3", False, 0.0, [], "operators follow one another without branches")
    figures = {
        "blocks": len(over),
        "branches": worst.branches,
        "longest": worst.longest,
        "small": worst.small,
        "operators": len(network.nodes),
    }
    if not over or network.share(concerned) < NOTICEABLE:
        words = f"blocks run at most {_lying(worst)}"
        return network.finding("G3", False, worst.fragments, concerned, words, **figures)
    row = f", up to {worst.longest} in a row" if worst.branches > 1 else " in a row"
    small = f", {worst.small} of them so small that calling takes longer than running" if worst.small else ""
    words = (
        f"block {worst.name} runs {_lying(worst)}{row}{small}. "
        f"{_such(len(over), 'such block')} {_percent(network.share(concerned))} of the bytes"
    )
    return network.finding("G3", True, worst.fragments, concerned, words, **figures)


def _blocks(network: _Network) -> Iterator[_Block]:
    """Parts of the graph between cuts, where a single tensor is all that later operators read, that have branches."""
    graph = network.graph
    flowing = {n.name for n in graph.inputs}
    last = {name: len(graph.nodes) for name in graph.outputs}
    for i, node in enumerate(graph.nodes):
        if flowing.intersection(node.inputs):
            flowing.add(node.name)
        last.update({name: max(i, last.get(name, 0)) for name in node.inputs})
    part: list[Node] = []
    live = {n.name for n in graph.inputs}
    for i, node in enumerate(graph.nodes):
        if node.name not in flowing or node.operator == "input":
            continue
        part.append(node)
        live = {name for name in live | {node.name} if last.get(name, -1) > i}
        if len(live) <= 1:
            if len(part) > 1:
                yield _block(part)
            part = []


def _block(nodes: Sequence[Node]) -> _Block:
    """Depth of a node: fragments on the longest way to it; those of equal depth can work side by side."""
    depth: dict[str, int] = {}
    at_depth: dict[int, int] = defaultdict(int)
    small = 0
    for node in nodes:
        before = max((depth.get(name, 0) for name in node.inputs), default=0)
        fragment = _is_fragment(node)
        depth[node.name] = before + fragment
        at_depth[depth[node.name]] += fragment
        small += fragment and node.signature.cost.bytes_moved < SMALL_BYTES
    fragments = sum(at_depth.values())
    return _Block(tuple(nodes), fragments, max(at_depth.values()), max(depth.values()), small)


def _is_fragment(node: Node) -> bool:
    return node.operator.startswith(_WINDOWED) or node.operator in ("linear", "mean")


def _lying(block: _Block) -> str:
    where = f" on {block.branches} parallel branches" if block.branches > 1 else ""
    return f"{block.fragments} convolutions and poolings{where}"


# ---- G4: element-wise operators --------------------------------------------------------------------------


def _element_wise(network: _Network) -> Finding:
    kinds = {n.name: words for n in network.nodes if (words := _element_kind(n))}
    concerned = sorted((n for n in network.nodes if n.name in kinds), key=lambda n: -network.bytes[n.name])
    share = network.share(concerned)
    by_kind: dict[str, float] = defaultdict(float)
    for node in concerned:
        by_kind[kinds[node.name]] += network.bytes[node.name] / network.total
    told = ", ".join(f"{name} {_percent(part)}" for name, part in sorted(by_kind.items(), key=lambda item: -item[1]))
    unfolded = sum(network.graph[name].signature.cost.bytes_moved for name in network.norms) / network.total
    figures = {**by_kind, "folded normalisations": unfolded}
    broken = share > ELEMENTWISE_SHARE + 1e-9
    words = f"element-wise operators move {_percent(share)} of the bytes" + (f" ({told})" if told else "")
    if broken:
        words += f", most of all {_short(concerned[0])}"
        if unfolded:
            words += f". Batch normalisations that are not folded into convolutions move {_percent(unfolded)} on top"
    return network.finding("G4", broken, share, concerned, words, **figures)


def _element_kind(node: Node) -> str:
    """What an element-wise operator is called, empty for others; as in the paper depthwise convolutions are some."""
    return "depthwise convolutions" if _is(node, "depthwise") else _KIND_OF.get(node.operator, "")


# ---- words -----------------------------------------------------------------------------------------------


def _is(node: Node, how: str) -> bool:
    """Whether a node is a convolution of images or lines that is `pointwise`, `grouped`, `depthwise`."""
    return node.operator in ("conv1d", "conv2d") and kind(node.signature).endswith(f"/{how}")


def _maps(node: Node) -> str:
    size = "x".join(map(str, node.signature.inputs[0][1:]))
    return f"{_short(node)} maps {node.signature.inputs[0][0]} to {node.shape[0]} channels at {size}"


def _short(node: Node) -> str:
    """Name of the block's part rather than of the convolution in it."""
    return node.name.removesuffix(".conv")


def _such(count: int, what: str) -> str:
    return f"1 {what} holds" if count == 1 else f"{count} {what}s hold"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else "under 1 %"
