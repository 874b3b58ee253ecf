"""Ways to search a scaling: the choices of each, and the multipliers that they come to."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, ClassVar

from ..errors import SpaceError, did_you_mean
from ..space import Choice, Option
from .rules import DIMENSIONS, Compound, FastCompound, Rule, Scaling, Single, grid

_TOLERANCE = 0.06  # of the product of exponents, around 2
_MOST = 62  # options of a choice
RULES = ("compound", "dwr", *DIMENSIONS)


def make_rule(name: str, exponents: Compound | None = None, a: float = 0.8) -> Rule:
    """The rule of a name: `compound`, `dwr` (fast compound scaling), or a dimension that takes all.

    Args:
        exponents: of `compound`; EfficientNet's by default.
        a: share of the width in `dwr`.

    Raises:
        SpaceError: an unknown name.
    """
    if name not in RULES:
        raise SpaceError(f"unknown rule of scaling {name!r}: {did_you_mean(name, RULES)}")
    if name == "compound":
        return exponents or Compound()
    return FastCompound(a) if name == "dwr" else Single(name)  # type: ignore[arg-type]


class Form(ABC):
    """Choices whose options come to a `Scaling`; their names begin with `scale.`."""

    choices: tuple[Choice, ...]

    @abstractmethod
    def scaling(self, values: Mapping[str, Any]) -> Scaling:
        """The multipliers of these options."""

    def largest(self) -> list[dict[str, Option]]:
        """The options whose multipliers no other ones reach or exceed in all dimensions; the first of equal ones."""
        found: dict[tuple[float, ...], dict[str, Option]] = {}
        for values in self.assignments():
            scaling = self.scaling(values)
            found.setdefault(tuple(getattr(scaling, name) for name in DIMENSIONS), values)
        return [
            values
            for mine, values in found.items()
            if not any(other != mine and all(map(operator.ge, other, mine)) for other in found)
        ]

    def assignments(self) -> Iterator[dict[str, Option]]:
        """All options by the names of their choices."""
        for options in product(*(c.options for c in self.choices)):
            yield {c.name: option for c, option in zip(self.choices, options, strict=True)}


class ByPhi(Form):
    """Choice `scale.phi`: the exponents to its power."""

    name: ClassVar[str] = "phi"

    def __init__(self, phi: Sequence[float], exponents: Compound) -> None:
        self.exponents = exponents
        self.choices = (Choice("scale.phi", tuple(sorted(phi))),)

    def scaling(self, values: Mapping[str, Any]) -> Scaling:
        return self.exponents.scaling(values["scale.phi"])


class ByExponents(Form):
    """Choice `scale.exponents`: the triples near a product of 2, at phi 1 (Tan and Le 2019, section 3.3, step 1)."""

    name: ClassVar[str] = "exponents"

    def __init__(self, step: float) -> None:
        if not 0 < step <= 1:
            raise SpaceError(f"step is that of a grid from 1 to 2, above 0 and up to 1; got {step!r}")
        found = grid(step, tolerance=_TOLERANCE)
        self.rules = {f"{r.alpha:g},{r.beta:g},{r.gamma:g}": r for r in found}
        if not 1 < len(found) <= _MOST:
            raise SpaceError(f"a grid of step {step:g} has {len(found)} triples; 2 to {_MOST} are allowed, try 0.1")
        self.choices = (Choice("scale.exponents", tuple(self.rules)),)

    def scaling(self, values: Mapping[str, Any]) -> Scaling:
        return self.rules[values["scale.exponents"]].scaling(1)


class ByRule(Form):
    """Choices `scale.rule` and `scale.factor`, by which arithmetic is multiplied."""

    name: ClassVar[str] = "rules"

    def __init__(self, rules: Sequence[str], factors: Sequence[float], exponents: Compound, a: float) -> None:
        self.rules = {name: make_rule(name, exponents, a) for name in rules}
        self.choices = (Choice("scale.rule", tuple(self.rules)), Choice("scale.factor", tuple(sorted(factors))))

    def scaling(self, values: Mapping[str, Any]) -> Scaling:
        return self.rules[values["scale.rule"]].at(values["scale.factor"])


class Free(Form):
    """Choices `scale.depth`, `scale.width` and `scale.resolution`: the multipliers themselves."""

    name: ClassVar[str] = "free"

    def __init__(self, depths: Sequence[float], widths: Sequence[float], resolutions: Sequence[float]) -> None:
        options = zip(DIMENSIONS, (depths, widths, resolutions), strict=True)
        self.choices = tuple(Choice(f"scale.{name}", tuple(sorted(o))) for name, o in options)

    def scaling(self, values: Mapping[str, Any]) -> Scaling:
        return Scaling(*(values[c.name] for c in self.choices))
