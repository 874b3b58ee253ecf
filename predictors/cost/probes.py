"""What a device is told by: a fixed set of small operators and three networks, and timing them within a granted time.

They are the same for every space, so the device's table holds their times once and for all.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np

from search_spaces.graph import Graph, GraphBuilder, Signature

from .device import DeviceProfile
from .features import kind
from .measure import NetworkTimer
from .table import Measurer, OperatorTable, empty_graph, reference_graphs, unit_key
from .units import unit_graph

EMPTY = "empty"  # key of the network that does nothing, as in the latency model's table
FEWEST = 12  # probes that are timed whatever the time granted
_BATCH = 20
_SHORTEST_S, _LONGEST_S = 0.02, 0.2  # timing of one probe
_MAKING_S = 0.005  # making one ready, about


@cache
def probes() -> tuple[Signature, ...]:
    """Operators that show a device's rates: every kind in sizes from where a call is all to where a rate is all."""
    convolutions = [
        *(_convolution(c, o, n, 3, stride) for c, o, n, stride in _DENSE),
        _convolution(16, 16, 14, 5, 1),
        _convolution(8, 16, 28, 7, 2),
        *(_convolution(c, o, n, 1, 1) for c, o, n in _POINTWISE),
        *(_convolution(c, c, n, k, stride, c) for c, n, k, stride in _DEPTHWISE),
        *(_convolution(c, c, n, k, 1, groups) for c, n, k, groups in _GROUPED),
    ]
    maps = [Signature.named("linear", {"out_features": o}, ((c,),)) for c, o in _LINEAR]
    maps += [Signature.named("matmul", {}, ((n, c), (c, n))) for n, c in _PRODUCTS]
    shapes = [(c, n, n) for c, n in _IMAGES]
    functions = [Signature.named(name, settings, (shape,)) for name, settings in _FUNCTIONS for shape in shapes]
    sums = [Signature.named("add", {}, (shape, shape)) for shape in shapes]
    gates = [Signature.named("multiply", {}, (shape, (shape[0], 1, 1))) for shape in shapes]
    joins = [Signature.named("concat", {}, (shape, shape)) for shape in shapes]
    return (*convolutions, *maps, *functions, *sums, *gates, *joins)


_DENSE = (  # channels in, channels out, pixels, stride
    (3, 16, 32, 1), (3, 32, 56, 2), (8, 8, 8, 1), (16, 16, 16, 1), (16, 32, 16, 2), (32, 32, 8, 1), (32, 32, 28, 1),
    (64, 64, 14, 1), (64, 128, 14, 2), (128, 128, 7, 1), (24, 24, 40, 1), (16, 16, 56, 1),
)  # fmt: skip
_POINTWISE = (  # channels in, channels out, pixels
    (8, 8, 8), (16, 16, 16), (16, 96, 28), (24, 144, 14), (144, 24, 14), (32, 32, 56), (64, 64, 14), (128, 128, 7),
    (40, 240, 7), (240, 40, 7), (96, 24, 28), (256, 256, 8), (512, 128, 1), (64, 16, 1),
)  # fmt: skip
_DEPTHWISE = (  # channels, pixels, kernel, stride
    (16, 8, 3, 1), (32, 16, 3, 1), (96, 28, 3, 2), (144, 14, 3, 1), (144, 14, 5, 1), (240, 7, 5, 1), (64, 28, 3, 1),
    (48, 28, 5, 2), (120, 14, 7, 1), (32, 56, 3, 1),
)  # fmt: skip
_GROUPED = ((16, 14, 3, 2), (64, 14, 3, 4), (64, 28, 1, 4), (128, 7, 3, 8), (32, 28, 3, 2), (128, 14, 1, 8))
_LINEAR = ((16, 10), (64, 10), (256, 10), (256, 256), (1024, 256), (1280, 1000))
_PRODUCTS = ((16, 16), (49, 32), (64, 64), (196, 32), (196, 64))
_IMAGES = ((16, 8), (32, 14), (96, 14), (64, 28), (64, 56))  # channels, pixels
_FUNCTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("activation", {"kind": name}) for name in ("relu", "hardswish", "hardsigmoid", "silu", "gelu", "sigmoid")),
    ("batch_norm", {}),
    ("max_pool2d", {"kernel_size": 3, "stride": 1, "padding": 1}),
    ("avg_pool2d", {"kernel_size": 3, "stride": 1, "padding": 1}),
    ("mean", {}),
    ("flatten", {}),
)


def _convolution(channels: int, out: int, pixels: int, kernel: int, stride: int, groups: int = 1) -> Signature:
    settings = {"out_channels": out, "kernel_size": kernel, "stride": stride, "padding": "same", "groups": groups}
    return Signature.named("conv2d", settings, ((channels, pixels, pixels),))


def measure_probes(
    table: OperatorTable,
    profile: DeviceProfile,
    measurer: Measurer | None,
    seconds: float,
    rng: np.random.Generator,
    clock: Callable[[], float],
) -> None:
    """Time what the table lacks, whole networks first, then probes, kinds in turns, until the time is used up."""
    networks = {EMPTY: empty_graph(), **whole_networks()}
    wanted = {key: (f"probe {key}", graph) for key, graph in networks.items() if key not in table}
    operators = _in_turns(probes(), rng)
    wanted |= {unit_key(p): (repr(p), unit_graph(p)) for p in operators if unit_key(p) not in table}
    if not wanted:
        return
    measurer = measurer or NetworkTimer(profile, reference_graphs())
    start, slots = clock(), len(wanted) + len(reference_graphs()) * math.ceil(len(wanted) / _BATCH)
    each = min(max(seconds / slots - _MAKING_S, _SHORTEST_S), _LONGEST_S)
    items = list(wanted.items())
    known = len(operators) + len(networks) - len(items)
    try:
        for i in range(0, len(items), _BATCH):
            if known >= FEWEST + len(networks) and clock() - start > seconds:
                break
            table.measure(dict(items[i : i + _BATCH]), measurer, each)
            known += len(items[i : i + _BATCH])
    finally:
        table.save()


@cache
def whole_networks() -> dict[str, Graph]:
    """Networks by their keys in the table: residual blocks, inverted residuals, and cells with branches."""
    plain, mobile, cells = GraphBuilder((3, 32, 32)), GraphBuilder((3, 32, 32)), GraphBuilder((3, 32, 32))
    x, y, z = (g.add("conv_bn_act", g.input, out_channels=16) for g in (plain, mobile, cells))
    for width in (16, 32, 64):
        short = plain.add("conv_bn_act", x, out_channels=width, stride=2, activation=None)
        x = plain.add("conv_bn_act", x, out_channels=width, stride=2)
        x = plain.add("add", short, plain.add("conv_bn_act", x, out_channels=width, activation=None))
        x = plain.add("activation", x)
        y = mobile.add("inverted_residual", y, out_channels=width, stride=2, kernel_size=5, activation="hardswish")
        y = mobile.add("inverted_residual", y, out_channels=width, expansion=6, se_ratio=0.25)
        z = cells.add("conv_bn_act", z, out_channels=width, stride=2)
        branches = [cells.add("conv_bn_act", z, out_channels=width, kernel_size=kernel) for kernel in (1, 3)]
        z = cells.add("add", z, *branches, cells.add("avg_pool2d", z, kernel_size=3, stride=1, padding=1))
    built = [g.build(g.add("classifier", end, classes=10)) for g, end in ((plain, x), (mobile, y), (cells, z))]
    return {f"network:{graph.inline().id}": graph for graph in built}


def _in_turns(operators: Iterable[Signature], rng: np.random.Generator) -> list[Signature]:
    """One of each kind after the other, each kind in a random order."""
    queues: dict[str, list[Signature]] = defaultdict(list)
    for operator in operators:
        queues[kind(operator)].append(operator)
    shuffled = [[queue[i] for i in rng.permutation(len(queue))] for queue in queues.values()]
    return [queue[i] for i in range(max(map(len, shuffled))) for queue in shuffled if i < len(queue)]
