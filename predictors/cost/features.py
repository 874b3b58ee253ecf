"""A unit as numbers: what its primitive operators compute and move, by kind of operator.

ShuffleNet V2's lesson (Ma et al. 2018) is that time follows memory access and the number of calls as well as
multiply-accumulates, each with a rate of its own for each kind of operator; these are the columns.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache

from search_spaces.graph import Signature

from .units import runs

SHARED = "*"  # the columns that every operator adds to
TERMS = ("calls", "megamacs", "megabytes")
Terms = Mapping[str, float]


@cache
def primitives(signature: Signature) -> tuple[Signature, ...]:
    """The primitive operators that are executed for a unit, in order."""
    if signature.body is None:
        return (signature,) if runs(signature) else ()
    return tuple(n.signature for n in signature.body.simplify().nodes if n.operator != "input")


@cache
def kind(signature: Signature) -> str:
    """Class of a primitive operator by the speed to expect: its name, how a convolution is grouped, its variant."""
    attributes = signature.operator.attributes
    name = signature.operator.name
    groups = attributes.get("groups", 1)
    if signature.cost.macs and "kernel_size" in attributes:
        if groups > 1:
            return f"{name}/{'depthwise' if groups == signature.inputs[0][0] else 'grouped'}"
        return f"{name}/{'pointwise' if _largest(attributes['kernel_size']) == 1 else 'dense'}"
    return f"{name}/{attributes['kind']}" if isinstance(attributes.get("kind"), str) else name


def stratum(signature: Signature) -> str:
    """What units have in common that differ in sizes only: operators in order, with kernels and strides."""
    windows = [(kind(p), *_window(p)) for p in primitives(signature)]
    return " ".join(f"{name}:{kernel}:{stride}" for name, kernel, stride in windows)


@cache
def _window(primitive: Signature) -> tuple[int, int]:
    """Largest kernel size and stride, 0 for operators without."""
    attributes = primitive.operator.attributes
    return _largest(attributes.get("kernel_size")), _largest(attributes.get("stride"))


def terms(signature: Signature) -> Terms:
    """Calls, 10^6 MACs and 10^6 bytes of a unit: in all and by kind, keyed `kind calls` and so on."""
    sums: dict[str, float] = defaultdict(float)
    for primitive in primitives(signature):
        for name, amount in _amounts(primitive):
            sums[name] += amount
    return dict(sums)


@cache
def _amounts(primitive: Signature) -> tuple[tuple[str, float], ...]:
    cost = primitive.cost
    amounts = (1.0, cost.macs / 1e6, cost.bytes_moved / 1e6)
    names = (kind(primitive), SHARED)
    return tuple((f"{name} {term}", n) for name in names for term, n in zip(TERMS, amounts, strict=True))


def sizes(signature: Signature) -> Terms:
    """Smooth features of a unit as a whole, for what rates alone do not explain (caches, vector lengths)."""
    parts = primitives(signature)
    costs = [p.cost for p in parts]
    shapes = [shape for p in parts for shape in (*p.inputs, p.shape)] or [(1,)]
    inputs = signature.inputs or ((1,),)
    return {
        "log macs": math.log1p(sum(c.macs for c in costs)),
        "log bytes": math.log1p(sum(c.bytes_moved for c in costs)),
        "log params": math.log1p(sum(c.params for c in costs)),
        "log largest tensor": math.log(max(map(math.prod, shapes))),
        "log widest": math.log(max(shape[0] for shape in shapes)),
        "log input": math.log(sum(map(math.prod, inputs))),
        "log output": math.log(math.prod(signature.shape)),
        "channels in": inputs[0][0],
        "channels out": signature.shape[0],
        "pixels": inputs[0][-1],
        "kernel": max((_window(p)[0] for p in parts), default=0),
        "stride": max((_window(p)[1] for p in parts), default=0),
    }


def columns(rows: Iterable[Terms]) -> tuple[str, ...]:
    """All keys of some rows, sorted."""
    return tuple(sorted({key for row in rows for key in row}))


def _largest(value: object) -> int:
    if isinstance(value, tuple):
        return max((_largest(v) for v in value), default=0)
    return value if isinstance(value, int) else 0
