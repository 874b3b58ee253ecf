"""By how much each dimension of a network grows: rules of compound scaling, and how the results are rounded.

A `Rule` turns a factor of arithmetic (2 for twice the MACs) into a `Scaling`, multipliers of depth, width and
resolution. MACs grow as `depth * width^2 * resolution^2`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ..errors import SpaceError
from ..operators.blocks import make_divisible

DIMENSIONS = ("depth", "width", "resolution")


@dataclass(frozen=True)
class Scaling:
    """Multipliers of a network's depth, width and resolution.

    >>> Scaling(depth=1.2, width=1.1, resolution=1.15).macs
    1.920...
    """

    depth: float = 1.0
    width: float = 1.0
    resolution: float = 1.0

    def __post_init__(self) -> None:
        for name in DIMENSIONS:
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise SpaceError(f"{name} is a multiplier above 0, such as 1.2; got {value!r}")

    @property
    def macs(self) -> float:
        """By what the arithmetic is multiplied before anything is rounded: `d * w^2 * r^2`."""
        return self.depth * self.width**2 * self.resolution**2

    def __mul__(self, other: Scaling) -> Scaling:
        return Scaling(self.depth * other.depth, self.width * other.width, self.resolution * other.resolution)

    def __str__(self) -> str:
        return f"depth {self.depth:.3g}, width {self.width:.3g}, resolution {self.resolution:.3g}"


class Rule(Protocol):
    """How a factor of arithmetic is shared between the dimensions."""

    def at(self, factor: float) -> Scaling:
        """The multipliers that multiply MACs by about `factor`."""


@dataclass(frozen=True)
class Compound:
    """Compound scaling (Tan and Le 2019, equation 3): `d = alpha^phi, w = beta^phi, r = gamma^phi`.

    With `alpha * beta^2 * gamma^2` near 2, MACs are multiplied by about `2^phi`. The defaults are EfficientNet's.

    >>> Compound().scaling(1)
    Scaling(depth=1.2, width=1.1, resolution=1.15)
    """

    alpha: float = 1.2
    beta: float = 1.1
    gamma: float = 1.15

    def __post_init__(self) -> None:
        if min(self.alpha, self.beta, self.gamma) < 1 or self.product <= 1:
            raise SpaceError(
                f"alpha, beta and gamma are at least 1 and one of them above it; got {self.alpha:g}, {self.beta:g}, "
                f"{self.gamma:g}; EfficientNet's are 1.2, 1.1, 1.15"
            )

    @property
    def product(self) -> float:
        """`alpha * beta^2 * gamma^2`: by what a step of phi multiplies the MACs."""
        return self.alpha * self.beta**2 * self.gamma**2

    def scaling(self, phi: float) -> Scaling:
        """The multipliers at `phi`, which need not be whole, and may be below 0."""
        return Scaling(self.alpha**phi, self.beta**phi, self.gamma**phi)

    def at(self, factor: float) -> Scaling:
        return self.scaling(math.log(factor, self.product))


@dataclass(frozen=True)
class FastCompound:
    """Fast compound scaling (Dollar et al. 2021, "Fast and accurate model scaling", dWr).

    MACs times s: `e_w = a, e_d = e_r = (1 - a) / 2`, and `d * s^e_d, w * s^(e_w / 2), r * s^(e_r / 2)`. Most goes into
    the width, as activations, and with them time, then grow as `s^(1 - a / 2)` only; a third is uniform compound
    scaling.
    """

    a: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.a <= 1:
            raise SpaceError(f"a is the share of the width, from 0 to 1; got {self.a!r}")

    def at(self, factor: float) -> Scaling:
        rest = (1 - self.a) / 2
        return Scaling(factor**rest, factor ** (self.a / 2), factor ** (rest / 2))


@dataclass(frozen=True)
class Single:
    """One dimension takes all of the growth."""

    dimension: Literal["depth", "width", "resolution"]

    def __post_init__(self) -> None:
        if self.dimension not in DIMENSIONS:
            raise SpaceError(f"unknown dimension {self.dimension!r}: {', '.join(DIMENSIONS)} can be scaled")

    def at(self, factor: float) -> Scaling:
        return Scaling(**{self.dimension: factor if self.dimension == "depth" else math.sqrt(factor)})


def grid(step: float = 0.05, target: float = 2.0, tolerance: float = 0.05) -> tuple[Compound, ...]:
    """The rules of the first step's grid search: alpha, beta, gamma on a grid from 1, with a product near `target`.

    Tan and Le 2019, section 3.3: phi is fixed at 1 and the best of these is taken.
    """
    count = round((target * (1 + tolerance) - 1) / step) + 1
    values = [round(1 + i * step, 6) for i in range(count)]
    low, high = target * (1 - tolerance), target * (1 + tolerance)
    found = (Compound(a, b, c) for a in values for b in values for c in values if 1 < a * b**2 * c**2 <= high)
    return tuple(rule for rule in found if low <= rule.product)


@dataclass(frozen=True)
class Rounding:
    """How scaled numbers become whole ones.

    Widths are the nearest multiple of `divisor`, but never less than `limit` of what was asked for; repeats are rounded
    up, or to the nearest. The defaults are EfficientNet's.
    """

    divisor: int = 8
    limit: float = 0.9
    repeats: Literal["ceil", "round"] = "ceil"

    def width(self, channels: int, multiplier: float, divisor: int | None = None) -> int:
        """Channels times the multiplier; what is not scaled is not rounded either.

        `divisor`: of this layer, where its structure asks for one of its own.
        """
        if multiplier == 1:
            return channels
        return make_divisible(channels * multiplier, math.lcm(divisor or 1, self.divisor), self.limit)

    def depth(self, repeats: int, multiplier: float) -> int:
        """Blocks of a stage, at least one."""
        if self.repeats == "ceil":
            return max(1, math.ceil(round(repeats * multiplier, 6)))
        return max(1, math.floor(repeats * multiplier + 0.5))

    def depths(self, rows: Sequence[int], multiplier: float) -> list[int]:
        """timm's form for a stage of several kinds of blocks: their sum is scaled, then shared out from the last on."""
        left, total = sum(rows), self.depth(sum(rows), multiplier)
        found = []
        for repeats in reversed(rows):
            share = max(1, round(repeats / left * total))  # halves go to the even number, as in timm
            found.append(share)
            left, total = left - repeats, total - share
        return found[::-1]

    def resolution(self, size: int, multiplier: float) -> int:
        """Pixels of a side, at least one."""
        return max(1, math.floor(size * multiplier + 0.5))
