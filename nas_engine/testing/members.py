"""The random members of a space that all contracts look at."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from search_spaces import Architecture, SearchSpace


class Members:
    """A space and a sample of it.

    Attributes:
        space: the space to check, made with `make_space`.
        members: random members to look at.
    """

    space: ClassVar[SearchSpace]
    members: ClassVar[int] = 40

    @pytest.fixture(scope="class")
    def sampled(self) -> list[Architecture]:
        """The random members that the checks look at, the same in every run."""
        rng = np.random.default_rng(0)
        return [self.space.sample(rng) for _ in range(self.members)]
