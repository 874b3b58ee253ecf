"""Progressive shrinking: which options are open when (once-for-all, Cai et al. 2020, section 3.3).

At first members take the largest option of every choice that a phase names; phase by phase the smaller ones open, so
that small members begin as parts of large ones that are trained already. A phase begins with an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import ConfigError, did_you_mean

from ..config.elastic import Phase


class Opened:
    """The part of a space that is open: of each choice the options from `lowest` on.

    Attributes:
        lowest: index of the first open option of each choice.
    """

    def __init__(self, space: SearchSpace, lowest: Sequence[int]) -> None:
        self.space = space
        self.lowest = tuple(lowest)

    @property
    def whole(self) -> bool:
        """Whether all options are open."""
        return not any(self.lowest)

    @property
    def largest(self) -> Architecture:
        """The member with the last option of each choice."""
        return self.space.from_indices([len(c.options) - 1 for c in self.space.choices])

    @property
    def smallest(self) -> Architecture:
        """The member with the first open option of each choice."""
        return self.space.from_indices(self.lowest)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many options of each choice are open."""
        return tuple(len(c.options) - low for c, low in zip(self.space.choices, self.lowest, strict=True))

    def sample(self, rng: np.random.Generator) -> Architecture:
        """A member as the space draws them; options that are not open yet give way to the first that is."""
        drawn = self.space.sample(rng)
        return drawn if self.whole else self.space.from_indices(np.maximum(drawn.indices, self.lowest).tolist())


class Phases:
    """The phases of a training.

    Args:
        phases: as configured; none for one in which all options are open.
        epochs: of the training.

    Attributes:
        starts: the first epoch of each phase, from 0; a phase too short for an epoch begins with the next one.
        opened: what is open in each.

    Raises:
        ConfigError: a name that is none of a choice, or more phases than epochs.
    """

    def __init__(self, space: SearchSpace, phases: Sequence[Phase], epochs: int) -> None:
        if len(phases) > max(epochs, 1):
            raise ConfigError(
                f"{len(phases)} phases of supernet.shrinking do not fit into {epochs} epochs; give more epochs"
            )
        self.space = space
        if not phases:
            self.starts: tuple[int, ...] = (0,)
            self.opened: tuple[Opened, ...] = (Opened(space, [0] * len(space.choices)),)
            return
        shares = np.array([phase.share for phase in phases])
        ends = np.cumsum(shares) / shares.sum()
        latest = epochs - len(phases) + np.arange(len(phases))  # so that each phase has an epoch
        self.starts = _rising(np.minimum(np.rint(np.concatenate([[0.0], ends[:-1]]) * epochs), latest))
        self.opened = tuple(Opened(space, low) for low in _lowest(space, phases))

    def index(self, epoch: int) -> int:
        """The phase of an epoch, counted from 0; the last one goes on after the end."""
        return int(np.searchsorted(self.starts, epoch, side="right")) - 1

    def at(self, epoch: int) -> Opened:
        """What is open in an epoch."""
        return self.opened[self.index(epoch)]

    def opens(self, phase: int) -> tuple[int, ...]:
        """Positions of the choices of which a phase opens options; none for the first phase."""
        if phase == 0:
            return ()
        before, now = self.opened[phase - 1].lowest, self.opened[phase].lowest
        return tuple(i for i, (b, n) in enumerate(zip(before, now, strict=True)) if n < b)


def _rising(starts: np.ndarray) -> tuple[int, ...]:
    """Starts at least an epoch apart."""
    found: list[int] = []
    for start in starts.astype(int).tolist():
        found.append(start if not found else max(start, found[-1] + 1))
    return tuple(found)


def _lowest(space: SearchSpace, phases: Sequence[Phase]) -> list[list[int]]:
    """The first open option of each choice, phase by phase."""
    named = [[matching(space, pattern) for pattern in phase.open] for phase in phases]
    shrinking = {i for phase in named for found in phase for i in found}
    lowest = [len(c.options) - 1 if i in shrinking else 0 for i, c in enumerate(space.choices)]
    told = []
    for phase, patterns in zip(phases, named, strict=True):
        for i in {i for found in patterns for i in found}:
            last = len(space.choices[i].options)
            lowest[i] = min(lowest[i], 0 if phase.options is None else max(0, last - phase.options))
        told.append(list(lowest))
    return told


def matching(space: SearchSpace, pattern: str) -> list[int]:
    """Positions of the choices that a pattern names, by the whole name or by what follows its last dot.

    Raises:
        ConfigError: none does.
    """
    names = [c.name for c in space.choices]
    last = [name.rpartition(".")[2] for name in names]
    found = [i for i, both in enumerate(zip(names, last, strict=True)) if any(fnmatchcase(n, pattern) for n in both)]
    if not found:
        near = did_you_mean(pattern, list(dict.fromkeys(last)))
        raise ConfigError(f"supernet.shrinking opens {pattern!r}, which no choice of the space is called: {near}")
    return found
