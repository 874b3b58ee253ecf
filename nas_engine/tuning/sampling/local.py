"""Local search with restarts: the neighbours of the best member are tried, and of the best of these in turn.

Where the search stands is read off the study each time, by going through its members in order; one rule serves one
objective and several, since the best of a descent are then those that none of its members dominates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from optuna.samplers import BaseSampler

from search_spaces import Architecture, SearchSpace

from ...config import Bound
from .base import Costs, Limits, SamplerSettings, SpaceSampler, Told, samplers
from .evolution import fresh_member


@dataclass
class _Descent:
    """The members of one descent that no other one of it is as good as, with their results."""

    members: list[Architecture] = field(default_factory=list)
    results: list[tuple[bool, tuple[float, ...]]] = field(default_factory=list)

    def add(self, member: Architecture, feasible: bool, losses: tuple[float, ...]) -> None:
        """Take a member in unless one is at least as good, and put out those that it is at least as good as."""
        new = (feasible, losses)
        if any(_at_least_as_good(old, new) for old in self.results):
            return
        kept = [i for i, old in enumerate(self.results) if not _at_least_as_good(new, old)]
        self.members = [*(self.members[i] for i in kept), member]
        self.results = [*(self.results[i] for i in kept), new]


def _at_least_as_good(one: tuple[bool, tuple[float, ...]], other: tuple[bool, tuple[float, ...]]) -> bool:
    if one[0] != other[0]:
        return one[0]
    return all(a <= b for a, b in zip(one[1], other[1], strict=True))


class LocalSampler(SpaceSampler):
    """Local search (White et al. 2021, UAI), for several objectives Pareto local search (Paquete et al. 2004, MOSN).

    From a random member on, neighbours (members that differ in one choice) of the best member are proposed in random
    order; a better one takes its place at once. When all neighbours were proposed, the descent is at a local optimum
    and the next one begins at a random member. With several objectives a descent keeps all its members that none of
    its others dominates, and proposes neighbours of any of them; it ends when each has none left. A member that
    breaks a constraint counts as worse than any that breaks none. Neighbours that break a bound on costs, and members
    proposed before, in this descent or another, are left out.

    With trials at the same time the neighbours of a best member may all be running; then the next descent begins, and
    is dropped again where one of them turns out better.

    Args:
        space: whose choices are the study's parameters.
        bounds: on costs, asked of `costs` before a member is proposed.
        costs: of a member.
        seed: with the number of a trial, decides its draw.
    """

    def __init__(
        self, space: SearchSpace, *, bounds: Sequence[Bound] = (), costs: Costs | None = None, seed: int = 0
    ) -> None:
        super().__init__(space, seed=seed)
        self._limits = Limits(bounds, costs)
        self._near: dict[str, tuple[Architecture, ...]] = {}

    def propose(self, told: Told, rng: np.random.Generator) -> Architecture | None:
        """A new neighbour of one of the best of this descent; a random member where there is none."""
        proposed = told.proposed
        best = self._descent(told).members
        for i in rng.permutation(len(best)):
            new = [a for a in self._neighbours(best[i]) if a.code not in proposed]
            if new:
                return new[int(rng.integers(len(new)))]
        return fresh_member(self.space, proposed, self._limits, rng)

    def _descent(self, told: Told) -> _Descent:
        """The descent that is going on.

        A member begins one if at its time the descent before it had no neighbour left. Those without results count as
        proposed all along: they were proposed, or a neighbour that followed shows that one was left.
        """
        descent = _Descent()
        seen = {a.code for a in (*told.pending, *told.barred)}
        for member, losses, feasible in zip(told.members, told.losses.tolist(), told.feasible.tolist(), strict=True):
            if all(near.code in seen for best in descent.members for near in self._neighbours(best)):
                descent = _Descent()
            seen.add(member.code)
            descent.add(member, feasible, tuple(losses))
        return descent

    def _neighbours(self, member: Architecture) -> tuple[Architecture, ...]:
        """Other networks within the bounds that differ in one choice, each once."""
        if member.code not in self._near:
            near = dict.fromkeys(self.space.canonical(a) for a in self.space.neighbours(member))
            near.pop(member, None)
            self._near[member.code] = tuple(a for a in near if self._limits.allow(a))
        return self._near[member.code]


@samplers.register("local")
def _local(settings: SamplerSettings) -> BaseSampler:
    """Local search (White et al. 2021): neighbours of the best member, from a random one again at a local optimum."""
    return LocalSampler(settings.space, bounds=settings.bounds, costs=settings.costs, seed=settings.seed)
