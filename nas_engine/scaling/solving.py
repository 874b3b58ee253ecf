"""The largest member along a rule that meets targets.

Costs rise with the factor of arithmetic, in steps where repeats and sizes are rounded, so a bisection in its logarithm
finds the place; a predicted latency may dip beyond it, so the factors just above are looked at too. Where a step leaves
much of the target unused, a rule that grows the width fills it with width. What is given has been costed itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from search_spaces.errors import GraphError, SpaceError, UnsatisfiableError
from search_spaces.scaling import Rule, Scaling

from ..compress.targets import Target
from ..show import figure
from .base import Base
from .costing import Coster, Costs

_MOST = 1024.0  # times the arithmetic is as far as is looked
_NEAR = 1.002  # ratio of two factors between which nothing is looked for
_STEP, _BEYOND = 1.01, 10  # factors looked at beyond the bisection's, each by so much larger
_FULL = 0.95  # of a target is used, or else filled with width
_WIDER = (1.1, 1.3, 1.6, 2.0, 3.0, 4.0)  # by what a width is raised to find the end of that
_ROUNDS = 4  # of measuring for a latency
FROM, NEAR = 0.93, 1.03
"""From which share of a latency to which it counts as met when it is measured."""


@dataclass(frozen=True)
class Place:
    """A member of a rule.

    Attributes:
        factor: of arithmetic, that the rule was asked for.
        scaling: the rule's multipliers, but for a width that was raised to fill the target.
    """

    factor: float
    scaling: Scaling


@dataclass(frozen=True)
class Seeker:
    """Looks along a rule.

    Attributes:
        limits: of costs, in their units; all are to be met.
    """

    base: Base
    rule: Rule
    costs: Coster
    limits: Mapping[str, float]

    def largest(self) -> Place:
        """The largest member found that meets the limits.

        Raises:
            UnsatisfiableError: no member meets them, or they bind none; says which.
            SpaceError, GraphError: the network cannot be scaled by the rule at all.
        """
        factor = _highest(lambda f: self._meets(self.rule.at(f)), *self._bracket())
        scaling = self.rule.at(factor)
        mixed = scaling.width != 1 and (scaling.depth != 1 or scaling.resolution != 1)
        return Place(factor, self._filled(scaling) if mixed and self._used(scaling) < _FULL else scaling)

    def _filled(self, scaling: Scaling) -> Scaling:
        """The multipliers with the largest width that still meets the limits."""

        def wider(factor: float) -> Scaling:
            return replace(scaling, width=scaling.width * factor)

        most = next((f for f in _WIDER if not self._meets(wider(f))), None)
        return scaling if most is None else wider(_highest(lambda f: self._meets(wider(f)), 1.0, most))

    def _used(self, scaling: Scaling) -> float:
        """How much of the tightest limit a member takes."""
        found = self.costs(self.base.scaled(scaling))
        return max(found[name] / limit for name, limit in self.limits.items())

    def _bracket(self) -> tuple[float, float]:
        """A factor that meets the limits and one above it that does not, at most twice as large."""
        _ = self.base.scaled(self.rule.at(2.0))  # says why, where the rule is not for this network
        factor = 1.0
        if self._meets(self.rule.at(factor)):
            while factor < _MOST:
                if not self._meets(self.rule.at(2 * factor)):
                    return factor, 2 * factor
                factor *= 2
            raise self._open(factor)
        while factor > 1 / _MOST:
            factor /= 2
            if self._meets(self.rule.at(factor)):
                return factor, 2 * factor
        raise self._out_of_reach()

    def _meets(self, scaling: Scaling) -> bool:
        try:
            return self._used(scaling) <= 1 + 1e-9
        except (SpaceError, GraphError):  # too small for its strides, or too large to be built
            return False

    def _open(self, factor: float) -> UnsatisfiableError:
        found = self.costs(self.base.scaled(self.rule.at(factor)))
        told = ", ".join(f"{name} {figure(name, found[name])}" for name in self.limits)
        return UnsatisfiableError(
            f"the target binds no member: asked for {factor:,.0f} times the arithmetic it still has {told}; give a "
            "target on a cost that grows with this rule, such as macs=2x, or another rule"
        )

    def _out_of_reach(self) -> UnsatisfiableError:
        smallest = self._smallest()
        told = [
            f"{name} <= {figure(name, limit)} (the lowest of a member of this rule is {figure(name, smallest[name])})"
            for name, limit in self.limits.items()
            if smallest[name] > limit
        ]
        return UnsatisfiableError(f"cannot be reached: {', '.join(told)}; ask for more, or scale a smaller network")

    def _smallest(self) -> Costs:
        """Costs of the smallest network that the rule still makes."""
        factor = 1 / _MOST
        while factor < 1:
            try:
                return self.costs(self.base.scaled(self.rule.at(factor)))
            except (SpaceError, GraphError):
                factor *= 2
        return self.costs(self.base.graph)


def limits_of(targets: Iterable[Target], base: Costs) -> dict[str, float]:
    """The limits that targets come to, the tightest of each cost.

    Args:
        base: costs of the network as it came, which relative targets refer to.
    """
    found: dict[str, float] = {}
    for target in targets:
        limit = target.limit(base[target.metric])
        found[target.metric] = min(limit, found.get(target.metric, limit))
    return found


def _highest(meets: Callable[[float], bool], low: float, high: float) -> float:
    """The highest of the factors looked at between one that meets and one that does not, or a little beyond."""
    while high / low > _NEAR:
        middle = (low * high) ** 0.5
        if meets(middle):
            low = middle
        else:
            high = middle
    beyond = [low * _STEP**k for k in range(1, _BEYOND + 1)]
    return max([low, *(factor for factor in beyond if meets(factor))])


def measured_to_fit(
    seek: Callable[[float], Place], measure: Callable[[Place], float], limit: float
) -> tuple[Place, float]:
    """A member whose measured latency is near a limit, to which a model's sums of operators are only near.

    The limit that the model is asked for is corrected by what was measured, up or down.

    Args:
        seek: the largest member under a limit, by the model.
        measure: its latency, in the unit of the limit.

    Returns:
        The member, and the latency measured: the slowest that meets the limit, or where none does the fastest.
    """
    asked, tries = limit, list[tuple[Place, float]]()
    for _ in range(_ROUNDS):
        try:
            place = seek(asked)
        except UnsatisfiableError:
            if not tries:
                raise
            break
        if any(place.scaling == known.scaling for known, _ in tries):
            break
        tries.append((place, measure(place)))
        share = tries[-1][1] / limit
        if FROM <= share <= NEAR:
            break
        asked /= share
    met = [(place, got) for place, got in tries if got <= limit * NEAR]
    return max(met, key=lambda t: t[1]) if met else min(tries, key=lambda t: t[1])
