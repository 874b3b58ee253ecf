"""Which members are trained in a step: uniform, strictly fair, sandwich.

A sampling knows what is open and a generator, nothing of losses or weights; what the members learn from is decided
elsewhere. `attentive.py` has the one that learns from what it hears.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import ConfigError
from search_spaces.registry import Registry

from ..config import Supernet as SupernetSettings
from .phases import Opened

samplings: Registry[type[Sampling]] = Registry("strategy", ConfigError)
"""Samplings by the name that `supernet.strategy` has for them."""


class Sampling(ABC):
    """Draws the members of a step.

    Attributes:
        distils: whether by default the members learn from the largest one.
        summed: whether gradients of a step's members are added up, as published; else averaged.
    """

    distils: ClassVar[bool] = False
    summed: ClassVar[bool] = False

    def __init__(self, space: SearchSpace, settings: SupernetSettings, seed: int) -> None:
        self.space, self.settings, self.seed = space, settings, seed

    @abstractmethod
    def members(self, opened: Opened, rng: np.random.Generator, epoch: int) -> list[Architecture]:
        """The members of a step, of what is open, from the step's generator."""


class Listening(Sampling):
    """A sampling that hears what members lose, and keeps what it learned of that."""

    @abstractmethod
    def observe(self, members: list[Architecture], losses: Tensor) -> None:
        """Hear the losses `(members,)` of a step's members on its labels."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on after a kill: plain values and tensors."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state, whatever was heard before."""


@samplings.named("uniform")
class Uniform(Sampling):
    """One random member a step (single path one-shot, Guo et al. 2019)."""

    def members(self, opened: Opened, rng: np.random.Generator, epoch: int) -> list[Architecture]:
        return [self.space.canonical(opened.sample(rng))]


@samplings.named("fair")
class Fair(Sampling):
    """Strict fairness (FairNAS, Chu et al. 2021): each step trains every open option of every choice equally often.

    Each choice draws a permutation of its options; as many members as the longest choice has options are run
    and their gradients accumulated. A choice with fewer options repeats its permutation.
    """

    def members(self, opened: Opened, rng: np.random.Generator, epoch: int) -> list[Architecture]:
        orders = [low + rng.permutation(n) for low, n in zip(opened.lowest, opened.counts, strict=True)]
        return [
            self.space.from_indices([int(order[i % len(order)]) for order in orders]) for i in range(max(opened.counts))
        ]


@samplings.named("sandwich")
class Sandwich(Sampling):
    """Sandwich rule (Yu et al. 2020): the largest member, the smallest, and random ones between."""

    distils = True
    summed = True

    def members(self, opened: Opened, rng: np.random.Generator, epoch: int) -> list[Architecture]:
        ends = [opened.largest, opened.smallest]
        if ends[0] == ends[1]:
            return ends[:1]
        members = [*ends, *(self.between(opened, rng, epoch) for _ in range(self.settings.random_members))]
        return members if opened.whole else list(dict.fromkeys(members))

    def between(self, opened: Opened, rng: np.random.Generator, epoch: int) -> Architecture:
        """One of the members between the ends."""
        return opened.sample(rng)
