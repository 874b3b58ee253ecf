"""Segment-wise search of spaces too large for one table (GCN-NAS, Chen et al. 2020, arXiv 2004.08423).

Choices are cut into segments. One after the other is free while the part before it is one of a few super-cells and the
part behind it is random: some members are scored, a predictor is fitted to all scores so far, every sub-architecture of
the segment is predicted, the best are scored again by way of a check, and the best after that are the next super-cells.
Whoever scores answers questions (`ask`, `tell`), so the search runs on anything and goes on from its `state`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.errors import ConfigError, DataError, SpaceError, UnsatisfiableError

from .base import FEWEST
from .partition import SuperCell, cell_rows, extend, partition, read_cells, segment_members

if TYPE_CHECKING:
    from search_spaces.space import Architecture, SearchSpace

    from .base import Predictor

LIMIT = 300_000
"""Sub-architectures of a segment, super-cells included, at most; the paper's first segment has 6^7 = 279,936."""

Cost = Callable[[Sequence["Architecture"]], np.ndarray]
"""One cost of each architecture, float `(n,)`."""

_FORMAT = 1
_DRAWS = 20  # per member asked, before a round is content with fewer
_AT_ONCE = 8192  # predictions
_ROUGH = 2  # completions that every sub-architecture is predicted with
_FINALISTS = 1000  # sub-architectures, at least, that are predicted with all completions
_SAMPLE, _CHECK = "sample", "check"


@dataclass
class _Round:
    segment: int
    kind: str
    codes: list[str]
    scores: list[float] | None = None


@dataclass
class _Subs:
    """Sub-architectures: rows `(n, p)` of option indices, scores, costs and ranges of cost, each `(n,)`."""

    rows: np.ndarray
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))
    costs: np.ndarray | None = None
    bands: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def select(self, which: np.ndarray) -> _Subs:
        if self.costs is None:
            return _Subs(self.rows[which], self.scores[which])
        return _Subs(self.rows[which], self.scores[which], self.costs[which], self.bands[which])

    def cell(self, i: int) -> SuperCell:
        cost = None if self.costs is None else float(self.costs[i])
        return SuperCell(tuple(self.rows[i].tolist()), float(self.scores[i]), cost)


@dataclass(frozen=True)
class Ranking:
    """Every member of the last segment, the best predicted first.

    Attributes:
        codes: of n members.
        mean, std: predicted, float64 `(n,)`.
        cost: float64 `(n,)`; None where the search has no cost.
    """

    codes: list[str]
    mean: np.ndarray
    std: np.ndarray
    cost: np.ndarray | None = None

    def best(self, count: int = 1, at_most: float | None = None) -> list[str]:
        """The best `count` codes whose cost is `at_most` so much: a constraint read off, without a new search.

        Raises:
            ConfigError: a bound where there are no costs.
        """
        if at_most is None:
            return self.codes[:count]
        if self.cost is None:
            raise ConfigError("a bound on the cost needs a search with costs; give it cost=")
        return [self.codes[i] for i in np.flatnonzero(self.cost <= at_most)[:count]]


class SegmentSearch:
    """Segment-wise search as questions and answers.

    >>> from search_spaces import make_space
    >>> space = make_space("nasbench201")
    >>> search = SegmentSearch(space, make, segments=2, samples=50, check=10)  # doctest: +SKIP
    >>> while (members := search.ask()) is not None:  # doctest: +SKIP
    ...     search.tell([supernet(a) for a in members])
    >>> search.ranking().best(10)  # doctest: +SKIP

    What is asked follows from the seed and the answers. After each question and each answer `state` holds all that
    another process needs to go on (`restore`).

    Args:
        space: to be searched.
        make: a predictor of a space, not fitted; called once a fit, each over all scores so far.
        segments: how many, or the choices of each by name; by default as few as `limit` allows. They are of about
            equal size, and a choice stays with those that depend on it where they fit into one segment.
        keep: super-cells of a segment.
        samples: members scored at random in each segment, 4 or more.
        check: members scored after the fit, one for each of the best predicted sub-architectures; 0 for none.
        completions: random rests that a promising sub-architecture is predicted with (any one: two of them). All
            share the same ones, so what a rest adds cancels out between them.
        cost: of members. Super-cells are then the best of several ranges of cost, so that the last segment has good
            members at any cost and bounds can be read off its ranking later.
        bands: ranges of cost; half of `keep` by default.
        at_most: bound on the cost. Sub-architectures that exceed it even with the lightest rest are left out, members
            that exceed it are not asked for.
        limit: sub-architectures that a segment may have.
        seed: of all random numbers; the predictor brings its own.

    Raises:
        ConfigError: settings out of range, or segments that do not fit the space.
        UnsatisfiableError: while searching, where no members meet the bound.
    """

    def __init__(
        self,
        space: SearchSpace,
        make: Callable[[SearchSpace], Predictor],
        *,
        segments: int | Sequence[Sequence[str]] | None = None,
        keep: int = 6,
        samples: int = 1000,
        check: int = 100,
        completions: int = 16,
        cost: Cost | None = None,
        bands: int | None = None,
        at_most: float | None = None,
        limit: int = LIMIT,
        seed: int = 0,
    ) -> None:
        for name, value, least in (
            ("keep", keep, 1),
            ("samples", samples, FEWEST),
            ("check", check, 0),
            ("completions", completions, 1),
            ("bands", bands or 1, 1),
        ):
            if value < least:
                raise ConfigError(f"a segment-wise search needs {name} >= {least}; got {value}")
        if cost is None and not (bands is None and at_most is None):
            raise ConfigError("bands and at_most of a segment-wise search are about a cost; give it cost=")
        self.space, self._make, self._cost = space, make, cost
        self.keep, self.samples, self.check, self.completions = keep, samples, check, completions
        self.bands = (bands or max(1, keep // 2)) if cost else 1
        self.at_most, self.seed = at_most, seed
        self.segments = partition(space, segments, keep=keep, limit=limit)
        self.super_cells: list[list[SuperCell]] = []
        self._rounds: list[_Round] = []
        self._fitted: tuple[int, Predictor] | None = None
        self._lightest: dict[int, np.ndarray] = {}

    # ---- questions and answers ---------------------------------------------------------------------------

    def ask(self) -> list[Architecture] | None:
        """Members to be scored; the same ones until `tell` is called, None once the search is over."""
        while not self.finished:
            if not self._open:
                self._next_round()
            if self._rounds[-1].codes:
                return [self.space.decode(code) for code in self._rounds[-1].codes]
            self._answer([])
        return None

    def tell(self, scores: Sequence[float]) -> None:
        """Answer the last `ask`: one score each, higher is better.

        Raises:
            DataError: nothing was asked, another number of scores, or one that is not finite.
        """
        if not self._open:
            raise DataError("no members wait for scores; call ask() first")
        asked = self._rounds[-1].codes
        if len(scores) != len(asked) or not np.isfinite(np.asarray(scores, dtype=float)).all():
            raise DataError(
                f"{len(asked)} members were asked for, {len(scores)} scores came; give one finite score each"
            )
        self._answer(scores)

    def _answer(self, scores: Sequence[float]) -> None:
        self._rounds[-1].scores = [float(s) for s in scores]

    @property
    def _open(self) -> bool:
        return bool(self._rounds) and self._rounds[-1].scores is None

    @property
    def finished(self) -> bool:
        """Whether all members were scored that the search asks for."""
        last = self._rounds[-1] if self._rounds else None
        kinds = self._kinds[-1]
        return last is not None and not self._open and (last.segment, last.kind) == (len(self.segments) - 1, kinds)

    @property
    def _kinds(self) -> tuple[str, ...]:
        return (_SAMPLE, _CHECK) if self.check else (_SAMPLE,)

    @property
    def scored(self) -> dict[str, float]:
        """Score of each member that was asked for and told, by code."""
        return {c: s for r in self._rounds for c, s in zip(r.codes, r.scores or (), strict=False)}

    @property
    def questions(self) -> int:
        """Members that the whole search asks for, at most."""
        return (self.samples + self.check) * len(self.segments)

    # ---- rounds ------------------------------------------------------------------------------------------

    def _next_round(self) -> None:
        number = len(self._rounds)
        segment, step = divmod(number, len(self._kinds))
        if segment > len(self.super_cells):
            self.super_cells.append(self._choose(segment - 1))
        kind = self._kinds[step]
        members = self._draw(segment) if kind == _SAMPLE else self._best_unscored(segment)
        self._rounds.append(_Round(segment, kind, [a.code for a in members]))

    def _draw(self, segment: int) -> list[Architecture]:
        """Random members that were not scored: a random super-cell, all choices behind it uniform."""
        rng = self._rng(segment, 0)
        prefixes, before = self._prefixes(segment), self._positions(segment)
        counts = [len(c.options) for c in self.space.choices]
        known = self.scored
        found: dict[str, Architecture] = {}
        for _ in range(_DRAWS):
            rows = rng.integers(counts, size=(self.samples, len(counts)))
            rows[:, before] = prefixes[rng.integers(len(prefixes), size=self.samples)]
            drawn = [self.space.canonical(self.space.from_indices(row)) for row in rows.tolist()]
            for architecture in self._within(drawn):
                if len(found) < self.samples and architecture.code not in known:
                    found[architecture.code] = architecture
            if len(found) >= self.samples:
                break
        if len(known) + len(found) < FEWEST:
            bound = "" if self.at_most is None else f" of cost {self.at_most:g} or less; raise at_most"
            raise UnsatisfiableError(f"fewer than {FEWEST} members found{bound}")
        return list(found.values())

    def _within(self, members: list[Architecture]) -> list[Architecture]:
        """Those that meet the bound."""
        if self._cost is None or self.at_most is None:
            return members
        return [a for a, c in zip(members, self._costs(members), strict=True) if c <= self.at_most]

    def _best_unscored(self, segment: int) -> list[Architecture]:
        """A member for each of the best predicted sub-architectures, completions in turn; more where they are few."""
        subs, rests = self._predicted(segment)
        known, order = self.scored, self._pick(subs)
        found: dict[str, Architecture] = {}
        for again, rank in product(range(len(rests)), range(len(order))):
            if len(found) == self.check:
                break
            rest = rests[[(rank + again) % len(rests)]]
            member = self.space.canonical(next(self._members(segment, subs.rows[[order[rank]]], rest)))
            if member.code not in known and member.code not in found and self._within([member]):
                found[member.code] = member
        return list(found.values())

    def _choose(self, segment: int) -> list[SuperCell]:
        """The best predicted sub-architectures that are different networks, in all ranges of cost."""
        subs, rests = self._predicted(segment)
        chosen: dict[tuple[str, ...], int] = {}
        for i in self._pick(subs):
            members = self._members(segment, subs.rows[[i]], rests)
            chosen.setdefault(tuple(self.space.canonical(a).code for a in members), i)
            if len(chosen) == self.keep:
                break
        return [subs.cell(i) for i in sorted(chosen.values(), key=lambda i: -subs.scores[i])]

    def _pick(self, subs: _Subs) -> list[int]:
        """Positions from the best score down; where there are costs, the ranges of cost in turn."""
        order = np.argsort(-subs.scores, kind="stable")
        if subs.costs is None:
            return order.tolist()
        rank = np.empty(len(order), dtype=np.int64)  # of a sub-architecture in its range
        for band in range(self.bands):
            inside = order[subs.bands[order] == band]
            rank[inside] = np.arange(len(inside))
        return order[np.argsort(rank[order], kind="stable")].tolist()

    # ---- predicting a segment ----------------------------------------------------------------------------

    def _predicted(self, segment: int) -> tuple[_Subs, np.ndarray]:
        """The promising sub-architectures up to the end of a segment, and the rests `(R, C - p)` they were given.

        All are predicted with a few rests, these with all of them.
        """
        predictor, rests = self._fit(), self._rests(segment)
        subs = self._allowed(segment)
        subs.scores = self._mean(predictor, segment, subs.rows, rests[:_ROUGH])
        if len(rests) > _ROUGH:
            subs = subs.select(np.sort(self._pick(subs)[: max(_FINALISTS, 10 * self.check, 10 * self.keep)]))
            subs.scores = self._mean(predictor, segment, subs.rows, rests)
        return subs, rests

    def _allowed(self, segment: int) -> _Subs:
        """Every sub-architecture up to the end of a segment that can meet the bound."""
        before = self._positions(segment)
        rows = extend(self.space, before, self._prefixes(segment), self.segments[segment])
        if self._cost is None:
            return _Subs(rows)
        if segment not in self._lightest:  # they are asked for twice
            self._lightest = {segment: self._lightest_costs(segment, rows)}
        costs = self._lightest[segment]
        if self.at_most is not None:
            rows, costs = rows[costs <= self.at_most], costs[costs <= self.at_most]
            if not len(rows):
                raise UnsatisfiableError(
                    f"no sub-architecture allows a cost of {self.at_most:g} or less; raise at_most"
                )
        edges = np.quantile(costs, np.linspace(0, 1, self.bands + 1)[1:-1])
        return _Subs(rows, costs=costs, bands=np.searchsorted(edges, costs, side="left"))

    def _fit(self) -> Predictor:
        scored = self.scored
        if self._fitted is None or self._fitted[0] != len(scored):
            members = [self.space.decode(code) for code in scored]
            self._fitted = len(scored), self._make(self.space).fit(members, list(scored.values()))
        return self._fitted[1]

    def _mean(self, predictor: Predictor, segment: int, subs: np.ndarray, rests: np.ndarray) -> np.ndarray:
        """Predicted score of each sub-architecture, on average over the rests, float64 `(n,)`."""
        step = max(1, _AT_ONCE // len(rests))
        parts = []
        for start in range(0, len(subs), step):
            members = list(self._members(segment, subs[start : start + step], rests))
            parts.append(predictor.predict(members)[0].reshape(-1, len(rests)).mean(1))
        return np.concatenate(parts)

    def _rests(self, segment: int) -> np.ndarray:
        """Random options of the choices behind a segment, `(R, C - p)`; one empty row where there are none."""
        counts = [len(self.space.choices[p].options) for p in self._behind(segment)]
        if not counts:
            return np.zeros((1, 0), dtype=np.int64)
        return self._rng(segment, 1).integers(counts, size=(self.completions, len(counts)))

    def _members(self, segment: int, subs: np.ndarray, rests: np.ndarray) -> Iterator[Architecture]:
        """Each sub-architecture with each rest."""
        rows = np.empty((len(subs), len(rests), len(self.space.choices)), dtype=np.int64)
        rows[..., self._positions(segment + 1)] = subs[:, None, :]
        rows[..., self._behind(segment)] = rests
        return map(self.space.from_indices, rows.reshape(-1, rows.shape[-1]).tolist())

    # ---- costs -------------------------------------------------------------------------------------------

    def _costs(self, members: Sequence[Architecture]) -> np.ndarray:
        if self._cost is None:
            raise ConfigError("the search has no cost; give it cost=")
        return np.asarray(self._cost(members), dtype=np.float64)

    def _lightest_costs(self, segment: int, rows: np.ndarray) -> np.ndarray:
        """Cost of each sub-architecture with the lightest rest, float64 `(n,)`."""
        rest = self._lightest_rest(segment, rows[0])
        starts = range(0, len(rows), _AT_ONCE)
        return np.concatenate([self._costs(list(self._members(segment, rows[i : i + _AT_ONCE], rest))) for i in starts])

    def _lightest_rest(self, segment: int, sub: np.ndarray) -> np.ndarray:
        """`(1, C - p)`: each choice at its cheapest option while the others stay, in turn until nothing changes."""
        behind = self._behind(segment)
        rest = np.zeros((1, len(behind)), dtype=np.int64)
        lowest = np.inf
        while behind:
            for column, position in enumerate(behind):
                options = np.repeat(rest, len(self.space.choices[position].options), axis=0)
                options[:, column] = np.arange(len(options))
                costs = self._costs(list(self._members(segment, sub[None], options)))
                rest[0, column] = int(costs.argmin())
            if costs.min() >= lowest:
                break
            lowest = float(costs.min())
        return rest

    # ---- what a segment is made of -----------------------------------------------------------------------

    def _positions(self, segment: int) -> list[int]:
        """Positions of the choices before a segment, in the order in which they are searched."""
        return [p for part in self.segments[:segment] for p in part]

    def _behind(self, segment: int) -> list[int]:
        return [p for part in self.segments[segment + 1 :] for p in part]

    def _prefixes(self, segment: int) -> np.ndarray:
        return cell_rows(self.super_cells[segment - 1]) if segment else np.zeros((1, 0), dtype=np.int64)

    def _rng(self, segment: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, segment, purpose])

    # ---- what comes out ----------------------------------------------------------------------------------

    def ranking(self) -> Ranking:
        """Every distinct member of the last segment, predicted from all scores.

        Raises:
            DataError: the search is not over.
        """
        if not self.finished:
            raise DataError("the search is not over; ask() and tell() until ask() gives None")
        predictor = self._fit()
        members = list(map(self.space.decode, segment_members(self.state, self.space, scored=False)))
        members = self._within(members)
        said = [predictor.predict(members[i : i + _AT_ONCE]) for i in range(0, len(members), _AT_ONCE)]
        mean, std = (np.concatenate(part) for part in zip(*said, strict=True))
        order = np.argsort(-mean, kind="stable")
        cost = None if self._cost is None else self._costs(members)[order]
        return Ranking([members[i].code for i in order], mean[order], std[order], cost)

    # ---- going on elsewhere ------------------------------------------------------------------------------

    @property
    def _settings(self) -> dict[str, Any]:
        names = [[self.space.choices[p].name for p in part] for part in self.segments]
        settings = {
            k: getattr(self, k) for k in ("keep", "samples", "check", "completions", "bands", "at_most", "seed")
        }
        return {"format": _FORMAT, "space": self.space.name, "segments": names, **settings}

    @property
    def state(self) -> dict[str, Any]:
        """Settings, super-cells, and all that was asked and told; plain values that JSON keeps exactly."""
        return {
            **self._settings,
            "super_cells": [[{**asdict(c), "indices": list(c.indices)} for c in part] for part in self.super_cells],
            "rounds": [asdict(r) for r in self._rounds],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; a fresh search with the same settings is needed.

        Raises:
            DataError: the state of a search with other settings, or a damaged one.
        """
        for key, wanted in self._settings.items():
            if state.get(key) != wanted:
                raise DataError(
                    f"the segment-wise search was begun with {key} {state.get(key)!r}, now it is {wanted!r}; "
                    "go on with the settings it was begun with, or start a new one"
                )
        try:
            self.super_cells = read_cells(self.space, self.segments, state["super_cells"])
            self._rounds = [_Round(**r) for r in state["rounds"]]
            _ = [self.space.decode(code) for r in self._rounds for code in r.codes]
        except (KeyError, TypeError, ValueError, SpaceError) as e:
            raise DataError(f"the state of the segment-wise search is damaged ({e!r}); start a new one") from None
