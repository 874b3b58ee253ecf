"""NAO's search in rounds, as questions and answers: random members, then what the decoder writes for the best so far.

Whoever scores is asked for a round of members at a time, so the rounds suit scores that cost little and come in
batches, as those of a supernet do (NAO-WS, Luo et al. 2018, section 4). Each round follows from the seed and the scores
of the rounds before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.errors import ConfigError, DataError, SpaceError

from ..base import FEWEST
from .moves import improved

if TYPE_CHECKING:
    from search_spaces.space import Architecture, SearchSpace

_FORMAT = 1
_DRAWS = 50  # for each member of a round that the decoder leaves open
_WIDER = 4  # members decoded for each one asked for


class NAORounds:
    """Rounds of members to be scored.

    >>> search = NAORounds(space, members=200, rounds=4)  # doctest: +SKIP
    >>> while (members := search.ask()) is not None:  # doctest: +SKIP
    ...     search.tell([supernet(a) for a in members])

    Args:
        space: to be searched.
        members: that are scored, in all.
        rounds: 1 or more; the first is random.
        first: share of the members in the first round.
        seeds: share of the scored members, the best of them, that moves start from.
        settings: of `NAOPredictor`, over `SEARCH`.
        seed: of all random numbers.

    Raises:
        ConfigError: settings out of range.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        members: int = 200,
        rounds: int = 4,
        first: float = 0.5,
        seeds: float = 0.2,
        settings: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if rounds < 1 or not 0 < first < 1 or not 0 < seeds <= 1:
            raise ConfigError(
                f"NAO's rounds need rounds >= 1, first between 0 and 1, and seeds above 0 and up to 1; "
                f"got {rounds}, {first:g} and {seeds:g}"
            )
        start = members if rounds == 1 else max(FEWEST, round(first * members))
        if members - start < rounds - 1:
            raise ConfigError(
                f"{members} members are too few for {rounds} rounds, {start} of them in the first; "
                "ask for fewer rounds or more members"
            )
        later = [len(part) for part in np.array_split(np.arange(members - start), rounds - 1)] if rounds > 1 else []
        self.space, self.sizes, self.seeds, self.seed = space, [start, *later], seeds, seed
        self.settings = dict(settings or {})
        self._codes: list[list[str]] = []
        self._scores: list[list[float]] = []

    def ask(self) -> list[Architecture] | None:
        """Members to be scored; the same ones until `tell` is called, None once all rounds were told."""
        while len(self._codes) < len(self.sizes) or self._open:
            if not self._open:
                self._codes.append([a.code for a in self._next()])
            if self._codes[-1]:
                return [self.space.decode(code) for code in self._codes[-1]]
            self._scores.append([])
        return None

    def tell(self, scores: Sequence[float]) -> None:
        """Answer the last `ask`: one score each, higher is better.

        Raises:
            DataError: nothing was asked, another number of scores, or one that is not finite.
        """
        if not self._open:
            raise DataError("no members wait for scores; call ask() first")
        asked = self._codes[-1]
        if len(scores) != len(asked) or not np.isfinite(np.asarray(scores, dtype=float)).all():
            raise DataError(
                f"{len(asked)} members were asked for, {len(scores)} scores came; give one finite score each"
            )
        self._scores.append([float(s) for s in scores])

    @property
    def _open(self) -> bool:
        return len(self._codes) > len(self._scores)

    @property
    def scored(self) -> dict[str, float]:
        """Score of each member that was told, by code."""
        told = zip(self._codes, self._scores, strict=False)
        return {code: score for codes, scores in told for code, score in zip(codes, scores, strict=True)}

    @property
    def questions(self) -> int:
        """Members that the whole search asks for, at most."""
        return sum(self.sizes)

    # ---- rounds ------------------------------------------------------------------------------------------

    def _next(self) -> list[Architecture]:
        """Members of the next round, fewer where the space has no more."""
        number, known = len(self._codes), self.scored
        count, rng = self.sizes[number], np.random.default_rng([self.seed, number])
        found: dict[str, Architecture] = {}
        if number and len(known) >= FEWEST:
            ranked = self._improved(known, count, rng)
            found = {a.code: a for a in ranked[:count]}
        for _ in range(_DRAWS * count):
            if len(found) == count:
                break
            member = self.space.canonical(self.space.sample(rng))
            if member.code not in known:
                found.setdefault(member.code, member)
        return list(found.values())

    def _improved(self, known: Mapping[str, float], count: int, rng: np.random.Generator) -> list[Architecture]:
        members, scores = [self.space.decode(code) for code in known], np.array(list(known.values()))
        best = np.argsort(-scores, kind="stable")[: max(1, round(self.seeds * len(members)))]
        return improved(
            self.space,
            members,
            scores,
            seeds=[members[i] for i in best],
            count=_WIDER * count,
            settings=self.settings,
            seed=int(rng.integers(2**31)),
        )

    # ---- going on elsewhere ------------------------------------------------------------------------------

    @property
    def _made_of(self) -> dict[str, Any]:
        settings = {"sizes": self.sizes, "seeds": self.seeds, "settings": self.settings, "seed": self.seed}
        return {"format": _FORMAT, "space": self.space.name, **settings}

    @property
    def state(self) -> dict[str, Any]:
        """Settings and all that was asked and told; plain values that JSON keeps exactly."""
        return {**self._made_of, "codes": [list(c) for c in self._codes], "scores": [list(s) for s in self._scores]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; fresh rounds with the same settings are needed.

        Raises:
            DataError: the state of rounds with other settings, or a damaged one.
        """
        for key, wanted in self._made_of.items():
            if state.get(key) != wanted:
                raise DataError(
                    f"NAO's rounds were begun with {key} {state.get(key)!r}, now it is {wanted!r}; "
                    "go on with the settings they were begun with, or start anew"
                )
        try:
            codes, scores = [list(c) for c in state["codes"]], [[float(s) for s in part] for part in state["scores"]]
            _ = [self.space.decode(code) for part in codes for code in part]
            if [len(c) for c in codes[: len(scores)]] != [len(s) for s in scores] or len(codes) > len(self.sizes):
                raise ValueError("members and scores do not belong together")
            if not 0 <= len(codes) - len(scores) <= 1:
                raise ValueError("rounds are missing")
        except (KeyError, TypeError, ValueError, SpaceError) as e:
            raise DataError(f"the state of NAO's rounds is damaged ({e!r}); start anew") from None
        self._codes, self._scores = codes, scores
