"""Shapley values of units (Ancona et al. 2020, arXiv 2006.01795): what a unit adds to a coalition, over all of them.

The units of a group are the players of a game whose cost is the loss. Permutations are walked: the network loses one
unit after the other, and each unit is charged with the loss that its going adds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from search_spaces.errors import ConfigError

from .base import Criterion, Scores, register_criterion
from .losses import losses

if TYPE_CHECKING:
    from search_spaces.coupling import Gated

Game = Callable[[np.ndarray], np.ndarray]
"""Who is in, `(coalitions, players)` bool, to the losses of each example, `(coalitions, examples)`."""


@register_criterion("shapley")
class Shapley(Criterion):
    """Shapley values within each group by sampled permutations; higher where the loss rises more when the unit goes.

    The values of single examples are kept. A negative one says that the network is better off without the unit.

    Args:
        permutations: of each group's units, drawn once and used for all batches.
        deviations: k of the score `mean + k * standard deviation` over the examples; 0 for the mean. 2 protects what is
            vital for few examples.
        truncate: share of a permutation that is walked. Below 1 permutations are walked in parts, each from the whole
            network on, so the cost is the same and only coalitions that are nearly complete count.
        rows: images that are run at once at most: copies of a batch, each with other units, are stacked.
        seed: of the permutations.

    Raises:
        ConfigError: settings out of their range.
    """

    needs = frozenset({"ablation", "labels"})

    def __init__(
        self,
        permutations: int = 5,
        deviations: float = 0.0,
        truncate: float = 1.0,
        rows: int = 512,
        seed: int = 0,
    ) -> None:
        if permutations < 1 or rows < 1:
            raise ConfigError(f"shapley takes 1 permutation and 1 row or more; got {permutations} and {rows}")
        if not 0 < truncate <= 1:
            raise ConfigError(f"truncate is the share of a permutation to walk, in (0, 1]; got {truncate}")
        if not 0 <= deviations < math.inf:
            raise ConfigError(f"deviations is the k of mean + k * standard deviation, 0 or more; got {deviations}")
        self.permutations, self.deviations, self.truncate = permutations, deviations, truncate
        self.rows, self.seed = rows, seed

    def begin(self, gated: Gated) -> None:
        super().begin(gated)
        rng = np.random.default_rng(self.seed)
        self._walks = [draw_walks(len(g), self.permutations, self.truncate, rng) for g in gated.coupling.groups]
        self._values: list[np.ndarray] = []

    @torch.no_grad()
    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        values = np.zeros((len(inputs), self.gated.coupling.count), dtype=np.float32)
        at_once = max(1, self.rows // len(inputs))
        for i, group in enumerate(self.gated.coupling.groups):
            values[:, group.units] = sampled(group_game(self.gated, i, inputs, targets), self._walks[i], at_once)
        self._values.append(values)

    def finish(self) -> Scores:
        examples = np.concatenate(self._values)
        units = examples.mean(0, dtype=np.float64)
        if self.deviations:
            units = units + self.deviations * examples.std(0, dtype=np.float64)
        return Scores(units=units, examples=examples)


def group_game(gated: Gated, group: int, inputs: Tensor, targets: Tensor) -> Game:
    """The game of a group's units: coalitions `(K, n)` to the losses `(K, B)` of a batch.

    Only what lies behind the first reader of the group is run for each coalition.
    """
    run = gated.tail(inputs, group)
    units = torch.from_numpy(gated.coupling.groups[group].units)

    def game(coalitions: np.ndarray) -> np.ndarray:
        gates = torch.ones(len(coalitions), gated.coupling.count, device=inputs.device)
        gates[:, units] = torch.from_numpy(coalitions).to(gates)
        logits = run(gates.repeat_interleave(len(inputs), 0))
        each = losses(logits, targets.repeat(len(coalitions), *(1,) * (targets.dim() - 1)))
        return each.double().unflatten(0, (len(coalitions), -1)).cpu().numpy()

    return game


def draw_walks(players: int, permutations: int, truncate: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Orders in which players leave. Each player leaves once in each permutation.

    A permutation is cut into walks of about `truncate` of its length; each walk is the beginning of a random
    permutation by itself.
    """
    parts = max(1, round(players / max(1, math.ceil(truncate * players))))
    return [walk for _ in range(permutations) for walk in np.array_split(rng.permutation(players), parts) if len(walk)]


def sampled(game: Game, walks: Sequence[np.ndarray], at_once: int = 64) -> np.ndarray:
    """(examples, players) mean rise of the loss when a player leaves, over the walks.

    Args:
        walks: orders of leaving, all from the full coalition on; together they name each player equally often. Of
            complete permutations, the values of an example add up to the loss of nobody less that of all, exactly.
        at_once: coalitions that the game is asked for at once.
    """
    players = 1 + max(int(walk.max()) for walk in walks)
    leaving = np.concatenate(walks)
    left = np.concatenate([_left(walk, players) for walk in walks])
    whole = game(np.ones((1, players), dtype=bool))[0]
    after = np.concatenate([game(left[i : i + at_once]) for i in range(0, len(left), at_once)])
    before = np.concatenate([whole[None], after[:-1]])
    before[np.cumsum([0, *map(len, walks[:-1])])] = whole
    totals = np.zeros((players, len(whole)))
    np.add.at(totals, leaving, after - before)
    return (totals / np.bincount(leaving, minlength=players)[:, None]).T


def _left(walk: np.ndarray, players: int) -> np.ndarray:
    """(steps, players) who is in after each step of a walk."""
    left = np.ones((len(walk), players), dtype=bool)
    left[:, walk] = ~np.tri(len(walk), dtype=bool)
    return left


def exact(game: Game, players: int) -> np.ndarray:
    """(examples, players) Shapley values by all 2^n coalitions: `sum |S|! (n-|S|-1)! / n! (L(S) - L(S + i))`."""
    subsets = [s for size in range(players + 1) for s in combinations(range(players), size)]
    present = np.zeros((len(subsets), players), dtype=bool)
    for row, subset in zip(present, subsets, strict=True):
        row[list(subset)] = True
    cost = game(present)
    place = {subset: k for k, subset in enumerate(subsets)}
    values = np.zeros((players, cost.shape[1]))
    for k, subset in enumerate(subsets):
        weight = math.factorial(len(subset)) * math.factorial(players - len(subset) - 1) if len(subset) < players else 0
        for i in set(range(players)) - set(subset):
            joined = place[tuple(sorted((*subset, i)))]
            values[i] += weight / math.factorial(players) * (cost[k] - cost[joined])
    return values.T
