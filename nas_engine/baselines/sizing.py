"""A network brought to a latency: its multipliers are solved for on predictions, which measurements correct.

A latency model is made for the networks of its space and may be off for others. So the network as it is, and each one
that is then predicted to fit, is measured, and predictions are multiplied by what was found before the next solving.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from search_spaces.errors import EngineError, UnsatisfiableError
from search_spaces.graph import Graph
from search_spaces.scaling import Rule, Scaling

from ..show import milliseconds

_ROUNDS = 6  # of solving and measuring
_NEAR = 0.03  # of the target, on either side: what a measurement does not tell apart
_OCTAVES = 10  # that arithmetic may be multiplied or divided by
_STRIDE = 3  # octaves above what was measured to be fast enough: no further are predictions followed at once
_HALVINGS = 5  # of an octave, so that the factor is known to 2 %


@dataclass(frozen=True)
class Sized:
    """A network along a rule.

    Attributes:
        scaling: multipliers that lead to it.
        predicted_ms: its latency as the model has it.
        measured_ms: its latency on the device.
    """

    graph: Graph
    scaling: Scaling
    predicted_ms: float
    measured_ms: float


class _Point:
    """A network along a rule, its arithmetic multiplied by 2 to a power; predicted and measured when asked for."""

    def __init__(self, graph: Graph, octaves: float, scaling: Scaling, sizing: Sizing) -> None:
        self.graph, self.octaves, self.scaling, self._sizing = graph, octaves, scaling, sizing

    @cached_property
    def predicted_ms(self) -> float:
        return self._sizing.predict(self.graph)

    @cached_property
    def measured_ms(self) -> float:
        return self._sizing.measure(self.graph)

    @property
    def sized(self) -> Sized:
        return Sized(self.graph, self.scaling, self.predicted_ms, self.measured_ms)


class Sizing:
    """Networks along a rule, each made once.

    Args:
        rule: turns a factor of arithmetic into multipliers.
        make: the network of these multipliers.
        predict, measure: latency of a network in milliseconds.
    """

    def __init__(
        self,
        rule: Rule,
        make: Callable[[Scaling], Graph],
        predict: Callable[[Graph], float],
        measure: Callable[[Graph], float],
    ) -> None:
        self.predict, self.measure = predict, measure
        self._rule, self._make = rule, make
        self._made: dict[float, _Point | EngineError] = {}
        self._points: dict[Graph, _Point] = {}

    def to(self, target_ms: float) -> Sized:
        """The largest network along the rule that is measured to take at most a target, or at most 3 % more.

        Raises:
            UnsatisfiableError: all networks along the rule are slower.
            EngineError: not even the network as it is can be made.
        """
        base = self._at(0.0)
        if isinstance(base, EngineError):
            raise base
        tried = [base]
        for _ in range(_ROUNDS):
            if abs(tried[-1].measured_ms / target_ms - 1) <= _NEAR:
                break
            known = max((p.octaves for p in tried if p.measured_ms <= target_ms), default=0.0)
            point = self._largest_within(_aim(tried, target_ms), known + _STRIDE)
            if point in tried:  # then one that is predicted to miss: predictions may be off by less than a step
                above = self._next_above(point, tried)
                if point.measured_ms > target_ms or above is None:
                    break
                point = above
            tried.append(point)
        fast = [p for p in tried if p.measured_ms <= (1 + _NEAR) * target_ms]
        if not fast:
            nearest = min(tried, key=lambda p: p.measured_ms)
            raise UnsatisfiableError(
                f"no network along the rule takes {milliseconds(target_ms)}: at {nearest.scaling} it still takes "
                f"{milliseconds(nearest.measured_ms)}; take a smaller network, a lower resolution, or another rule"
            )
        return max(fast, key=lambda p: p.measured_ms).sized

    def _at(self, octaves: float) -> _Point | EngineError:
        """The network whose arithmetic is multiplied by 2 to a power, or why there is none."""
        if octaves not in self._made:
            scaling = self._rule.at(2.0**octaves)
            try:
                graph = self._make(scaling)
                self._made[octaves] = self._points.setdefault(graph, _Point(graph, octaves, scaling, self))
            except EngineError as e:  # too small or too large for its own structure
                self._made[octaves] = e
        return self._made[octaves]

    def _largest_within(self, aim: float, most: float) -> _Point:
        """The largest network whose prediction is within an aim; where there is none, that of the lowest prediction.

        `most`: octaves at most.
        """
        low = 0.0
        if self._fits(low, aim):
            while low + 1 <= min(most, _OCTAVES) and self._fits(low + 1, aim):
                low += 1
        else:
            while low > -_OCTAVES and not self._fits(low, aim):
                low -= 1
                if isinstance(self._at(low), EngineError):
                    break
        if not self._fits(low, aim):
            return min((p for p in self._made.values() if isinstance(p, _Point)), key=lambda p: p.predicted_ms)
        high = low + 1
        for _ in range(_HALVINGS if high <= most else 0):
            middle = (low + high) / 2
            low, high = (middle, high) if self._fits(middle, aim) else (low, middle)
        found = self._at(low)
        if isinstance(found, EngineError):
            raise found
        return found

    def _next_above(self, point: _Point, tried: Sequence[_Point]) -> _Point | None:
        """The next larger network that was made and not measured, where no measured one lies between."""
        made = [p for p in self._made.values() if isinstance(p, _Point) and p.octaves > point.octaves]
        above = min(made, key=lambda p: p.octaves, default=None)
        return None if above in tried else above

    def _fits(self, octaves: float, aim: float) -> bool:
        found = self._at(octaves)
        return not isinstance(found, EngineError) and found.predicted_ms <= aim


def _aim(tried: Sequence[_Point], target_ms: float) -> float:
    """The prediction of a network that takes the target, by the line through the two last ones, or the last alone.

    Below 0 where the line never comes down to the target: then nothing is too small.
    """
    last = tried[-1]
    for before in tried[-2:-1]:
        across, up = last.predicted_ms - before.predicted_ms, last.measured_ms - before.measured_ms
        if across * up > 0:
            return last.predicted_ms + (target_ms - last.measured_ms) * across / up
    return target_ms * last.predicted_ms / last.measured_ms
