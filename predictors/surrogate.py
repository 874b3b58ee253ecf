"""What a search believes of members, renewed with every result: a Gaussian process that also hears a slower learner.

The process is exact, fast and knows what it does not know; a network on graphs sees what its features miss but takes
seconds to learn. So the network learns anew once in a while, and what it says of members it has not seen enters the
process as one more input, which counts as far as the results bear it out (stacking, Wolpert 1992).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from search_spaces.errors import ConfigError

from .base import make_predictor
from .gp import Kernel, Posterior, Watch
from .ranked import RankPredictor, folds_of
from .ranking import normal_scores
from .reading import Members, Reader

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace

_FOLDS = 5
_FEWEST = 3 * _FOLDS  # results that the slow learner needs
_RENEWED_ALWAYS = 20  # results up to which each changes the length scales


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


class Surrogate:
    """Beliefs about members of a space, given some results, on a scale of normal scores of their ranks.

    Ranks, because a few bad networks must not decide what is learned of the good ones; a belief is the mean and the
    standard deviation of what a member would come to on that scale.

    Args:
        learner: name of the predictor that is heard beside the process, one that learns to rank; None for none.
        spread: deviation of the logarithmic length scales under their prior, see `GPSettings.scale_spreads`.
        steps: of L-BFGS, for the length scales.
        most: results that the length scales are found from, at most.
        renewed_every: results after which length scales are found anew, once there are more than 20; between, a belief
            about the same members costs little.
        seed: of the learner.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        learner: str | None = "gcn",
        spread: float = 1.0,
        steps: int = 15,
        most: int = 400,
        renewed_every: int = 1,
        seed: int = 0,
    ) -> None:
        self.reader = Reader.of(space)
        self._renewed_every = renewed_every
        self._watched: tuple[Members, Watch] | None = None
        self._found: tuple[Tensor, np.ndarray, Kernel] | None = None
        self._spread, self._steps, self._most, self._seed = spread, steps, most, seed
        self._learner: RankPredictor | None = None
        if learner is not None:
            made = make_predictor(learner, space, seed=seed)
            if not isinstance(made, RankPredictor):
                raise ConfigError(f"predictor {learner!r} gives no ranking, so a search cannot build on it; try 'gcn'")
            made.read_with(self.reader)
            self._learner = made
        self._learned: tuple[str, np.ndarray] | None = None
        self._of_known: np.ndarray | None = None

    def fit(self, seen: Members, scores: np.ndarray, *, learned: int, running: Members | None = None) -> Self:
        """Believe in results.

        Args:
            seen: members with results; further inputs of members are part of what is read.
            scores: of them, `(n,)`, higher is better.
            learned: how many of the first ones the slow learner learns from; it learns anew only where these changed.
            running: members whose results are awaited. They count as if they came to what is expected of them, so
                that nothing near them seems unknown.
        """
        self._scores = np.asarray(scores, dtype=float)
        self._targets = normal_scores(self._scores)
        self._listen(seen, learned if learned >= _FEWEST else 0)
        points, goal = self._points(seen, told=True), torch.from_numpy(self._targets)
        kernel = self._kernel(points)
        self._posterior = Posterior.given(kernel, points, goal)
        self._goal = goal
        if running is not None and len(running):
            more = self._points(running)
            self._goal = torch.cat([goal, self._posterior.mean(more)])
            self._posterior = Posterior.given(kernel, torch.cat([points, more]), self._goal)
        return self

    def _kernel(self, points: Tensor) -> Kernel:
        """The process's kernel, found from the first results up to the last that calls for it."""
        count = len(points)
        if count > _RENEWED_ALWAYS:
            count -= (count - _RENEWED_ALWAYS) % self._renewed_every
        first, scores = points[:count], self._scores[:count]
        if self._found is not None and _same(self._found[0], first) and np.array_equal(self._found[1], scores):
            return self._found[2]
        few = np.random.default_rng(self._seed).permutation(count)[: self._most]
        goal = torch.from_numpy(normal_scores(scores))
        kernel = Kernel.fit(first[few], goal[few], spread=self._spread, steps=self._steps)
        self._found = first, scores, kernel
        return kernel

    def believe(self, members: Members) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each member, `(B,)`."""
        if self._renewed_every == 1:
            return self._posterior(self._points(members))
        kernel = self._posterior.kernel
        if self._watched is None or self._watched[0] is not members or self._watched[1].kernel is not kernel:
            self._watched = members, Watch(kernel, self._points(members))
        return self._watched[1](self._posterior.points, self._goal)

    @property
    def targets(self) -> np.ndarray:
        """The results on the scale of beliefs, `(n,)`."""
        return self._targets

    def target_of(self, score: float) -> float:
        """Where a score would lie among the results, on the scale of beliefs."""
        order = np.argsort(self._scores, kind="stable")
        return float(np.interp(score, self._scores[order], self._targets[order]))

    # ---- the slow learner --------------------------------------------------------------------------------

    def _listen(self, seen: Members, learned: int) -> None:
        """Let the slow learner learn from the first results, unless it did."""
        if self._learner is None or not learned:
            self._learned = None
            return
        first = self.reader.read(seen.architectures[:learned])
        key = repr([(a.code, float(s)) for a, s in zip(first.architectures, self._scores, strict=False)])
        if self._learned is not None and self._learned[0] == key:
            return
        folds = folds_of(np.arange(learned), _FOLDS, np.random.default_rng(self._seed))
        self._learned = key, self._learner.learn(first, normal_scores(self._scores[:learned]), folds)
        self._of_known = None

    def _points(self, members: Members, *, told: bool = False) -> Tensor:
        """What the process reads, `(B, F + 1)`; `told` where the members are those with results."""
        if self._learned is None or self._learner is None:
            return torch.from_numpy(members.features)
        unseen, heard = self._learned[1], self._hear(self._learner, members)
        if told:
            heard = np.concatenate([unseen, heard[len(unseen) :]])
        column = (heard - unseen.mean()) / (unseen.std() + 1e-9)
        return torch.from_numpy(np.concatenate([members.features, column[:, None]], axis=1))

    def _hear(self, learner: RankPredictor, members: Members) -> np.ndarray:
        """The learner's ranking `(B,)`; a space that is read whole is asked about whole, once."""
        if members.rows is None:
            return learner.rank(replace(members, extra=members.extra[:, :0]))[0]
        if self._of_known is None:
            self._of_known = learner.rank(self.reader.everything())[0]
        return self._of_known[members.rows]
