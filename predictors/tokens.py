"""Members of any search space as sequences of tokens, and back: what sequence models read and write.

One token a choice, in the order of the space save that a choice follows the one it depends on. All tokens come from
one vocabulary of (choice, option) pairs, so a token says by itself which choice it settles, and a mask for each step is
the whole grammar.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from search_spaces.errors import SpaceError

if TYPE_CHECKING:
    from search_spaces.space import Architecture, Choice, SearchSpace

START = 0
"""The token before the first and after the last step."""


class Tokens:
    """The vocabulary and grammar of one space.

    Shapes: B members, L steps (choices), V tokens, U distinct option values.

    Args:
        space: whose members are written as tokens.

    Attributes:
        order: position in `space.choices` of the choice that each of the L steps settles.
        size: number of tokens, V; `START` is 0, then come the options of the first step, of the second, and so on.
        allowed: bool `(L, V)`, tokens of each step.
        values: int64 `(V,)`, equal for tokens of the same option of choices that have equal options (the kernel sizes
            of all blocks, say), below U; 0 for `START`.
        parents: int64 `(L,)`, the earlier step that each step depends on, or -1.
        wakes: bool `(L, V)`, tokens of the parent step under which a step counts; all of them where it has no parent.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.order = _parents_first(space.choices)
        choices = [space.choices[i] for i in self.order]
        counts = [len(c.options) for c in choices]
        starts = [START + 1, *accumulate(counts, initial=START + 1)][1:]
        self.size = starts[-1]
        self._first = np.array(starts[:-1], dtype=np.int64)
        step_of = np.repeat(np.arange(len(choices)), counts)
        self.allowed = np.zeros((len(choices), self.size), dtype=bool)
        self.allowed[step_of, START + 1 + np.arange(len(step_of))] = True
        numbers: dict[str, int] = {}
        kinds = [f"{i} of {c.options!r}" for c in choices for i in range(len(c.options))]
        self.values = np.array([0, *(1 + numbers.setdefault(k, len(numbers)) for k in kinds)], dtype=np.int64)
        self.parents, self.wakes = self._dependences(choices)

    def _dependences(self, choices: Sequence[Choice]) -> tuple[np.ndarray, np.ndarray]:
        step_of = {c.name: step for step, c in enumerate(choices)}
        parents = np.full(len(choices), -1, dtype=np.int64)
        wakes = np.ones((len(choices), self.size), dtype=bool)
        for step, choice in enumerate(choices):
            if choice.when is not None:
                parent, options = step_of[choice.when[0]], choice.when[1]
                parents[step] = parent
                wakes[step] = False
                wakes[step, [self._first[parent] + choices[parent].index(o) for o in options]] = True
        return parents, wakes

    def __len__(self) -> int:
        """Steps of every sequence, L."""
        return len(self.order)

    def encode(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Tokens of members, int64 `(B, L)`."""
        if not len(architectures):
            return np.zeros((0, len(self)), dtype=np.int64)
        return np.array([a.indices for a in architectures], dtype=np.int64)[:, self.order] + self._first

    def decode(self, tokens: np.ndarray) -> list[Architecture]:
        """Inverse of `encode`, for `(B, L)`; choices that do not count are set to rest.

        Raises:
            SpaceError: sequences of another length, or a token that is not one of its step.
        """
        tokens = np.asarray(tokens)
        if tokens.ndim != 2 or tokens.shape[1] != len(self) or tokens.dtype.kind not in "iu":
            raise SpaceError(
                f"tokens of shape {tokens.shape} and type {tokens.dtype}; "
                f"space {self.space.name!r} takes whole numbers of shape (B, {len(self)})"
            )
        indices = np.empty_like(tokens, dtype=np.int64)
        indices[:, self.order] = tokens - self._first
        counts = np.array([len(c.options) for c in self.space.choices])
        wrong = np.argwhere((indices < 0) | (indices >= counts))
        if len(wrong):
            row, choice = wrong[0]
            step = self.order.index(choice)
            low = int(self._first[step])
            raise SpaceError(
                f"sequence {row} has token {int(tokens[row, step])} at step {step}; "
                f"choice {self.space.choices[choice].name!r} is written as {low} to {low + int(counts[choice]) - 1}"
            )
        return [self.space.from_indices(row) for row in indices.tolist()]

    def next_allowed(self, prefix: np.ndarray) -> np.ndarray:
        """Tokens that may follow `(B, t)` tokens, bool `(B, V)`; a resting choice has its first option only.

        After the last step only `START` may follow.
        """
        count, step = prefix.shape
        if step == len(self):
            return np.broadcast_to(np.arange(self.size) == START, (count, self.size))
        allowed = np.repeat(self.allowed[step : step + 1], count, axis=0)
        if (parent := self.parents[step]) >= 0:
            rests = ~self.wakes[step, prefix[:, parent]]
            allowed[rests] = np.arange(self.size) == self._first[step]
        return allowed

    def allowed_along(self, tokens: np.ndarray) -> np.ndarray:
        """What `next_allowed` gives at each step of whole sequences `(B, L)`, bool `(B, L, V)`."""
        allowed = np.repeat(self.allowed[None], len(tokens), axis=0)
        for step in np.flatnonzero(self.parents >= 0):
            rests = ~self.wakes[step, tokens[:, self.parents[step]]]
            allowed[rests, step] = np.arange(self.size) == self._first[step]
        return allowed


def _parents_first(choices: Sequence[Choice]) -> list[int]:
    """Positions of the choices, each after the one it depends on."""
    position = {c.name: i for i, c in enumerate(choices)}
    order: dict[int, None] = {}
    for i, choice in enumerate(choices):
        if choice.when is not None:
            order.setdefault(position[choice.when[0]])
        order.setdefault(i)
    return list(order)
