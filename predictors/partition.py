"""Cutting the choices of a space into segments of about equal size, and listing what a segment holds.

A choice comes after the one it depends on; both, and all choices of a stage, stay together where they fit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace

Segments = tuple[tuple[int, ...], ...]
"""Positions of choices, by segment."""


_AT_ONCE = 8192  # architectures


@dataclass(frozen=True)
class SuperCell:
    """A sub-architecture that later segments build on.

    Attributes:
        indices: option indices of the choices searched so far, in the order of the segments.
        score: predicted, on average over completions.
        cost: with the lightest completion; None where the search has no cost.
    """

    indices: tuple[int, ...]
    score: float
    cost: float | None = None


def partition(space: SearchSpace, segments: int | Sequence[Sequence[str]] | None, *, keep: int, limit: int) -> Segments:
    """Segments whose sub-architectures, times `keep` from the second on, are no more than `limit`.

    Args:
        segments: how many; or the choices of each, by name; None for as few as there can be.

    Raises:
        ConfigError: there are no such segments; or names that are not all choices once, parents first.
    """
    if segments is None or isinstance(segments, int):
        return _balanced(space, segments, keep, limit)
    return _named(space, segments, keep, limit)


def size(space: SearchSpace, positions: Sequence[int]) -> int:
    """Sub-architectures of some choices; where a parent is not among them, at its most permissive option."""
    inside, total = set(positions), 1
    for parent, choice in enumerate(space.choices):
        children = [p for p in positions if _parent(space, p) == parent]
        counts = [
            math.prod(len(space.choices[p].options) for p in children if _counts(space, p, option))
            for option in choice.options
        ]
        if parent in inside and _parent(space, parent) is None:
            total *= sum(counts)
        elif children:
            total *= max(counts)
    return total


def extend(space: SearchSpace, before: Sequence[int], prefixes: np.ndarray, segment: Sequence[int]) -> np.ndarray:
    """Every distinct continuation of some sub-architectures by the choices of a segment.

    Args:
        before: positions of the p choices of the prefixes.
        prefixes: int64 `(k, p)`, settled option indices.
        segment: positions of q more choices; a parent comes before its children.

    Returns:
        int64 `(n, p + q)`; choices that do not count rest at 0.
    """
    columns, rows = list(before), prefixes
    for position in segment:
        choice, parent = space.choices[position], _parent(space, position)
        counts = np.full(len(rows), len(choice.options))
        if parent is not None:
            active = np.array([_counts(space, position, option) for option in space.choices[parent].options])
            counts = np.where(active[rows[:, columns.index(parent)]], counts, 1)
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        options = np.arange(len(starts)) - starts
        rows = np.column_stack([np.repeat(rows, counts, axis=0), options])
        columns.append(position)
    return rows


def _parent(space: SearchSpace, position: int) -> int | None:
    when = space.choices[position].when
    return None if when is None else [c.name for c in space.choices].index(when[0])


def _counts(space: SearchSpace, position: int, option: object) -> bool:
    """Whether a choice counts while its parent has this option."""
    when = space.choices[position].when
    return when is None or any(o == option and isinstance(o, bool) == isinstance(option, bool) for o in when[1])


def _named(space: SearchSpace, segments: Sequence[Sequence[str]], keep: int, limit: int) -> Segments:
    names = [c.name for c in space.choices]
    given = list(chain.from_iterable(segments))
    for name in given:
        if name not in names:
            raise ConfigError(f"segment with unknown choice {name!r}: {did_you_mean(name, names)}")
    if odd := [n for n, times in Counter([*given, *names]).items() if times != 2] or not all(segments):
        what = f"not so {odd[0]!r}" if isinstance(odd, list) else "one is empty"
        raise ConfigError(f"segments hold each choice of the space once, and each holds some; {what}")
    for name in given:
        when = space.choices[names.index(name)].when
        if when is not None and given.index(when[0]) > given.index(name):
            raise ConfigError(f"choice {name!r} depends on {when[0]!r}; put {when[0]!r} before it in the segments")
    parts = tuple(tuple(names.index(n) for n in part) for part in segments)
    for number, part in enumerate(parts):
        count = size(space, part) * (keep if number else 1)
        if count > limit:
            raise ConfigError(
                f"segment {number + 1} has {count:,} sub-architectures; {limit:,} are allowed, cut it into smaller ones"
            )
    return parts


def _balanced(space: SearchSpace, count: int | None, keep: int, limit: int) -> Segments:
    """The cut that makes the sizes most equal: least sum of squares of their logarithms."""
    atoms = _atoms(space, limit // keep)

    @cache
    def price(start: int, end: int) -> float:
        sub = size(space, tuple(chain.from_iterable(atoms[start:end])))
        return math.log(sub) ** 2 if sub * (keep if start else 1) <= limit else math.inf

    best = _cuts(len(atoms), price)
    fewest = next((n for n in sorted(best) if math.isfinite(best[n][0])), None)
    wanted = fewest if count is None else count
    if fewest is None:
        raise ConfigError(
            f"a limit of {limit} sub-architectures does not fit {keep} super-cells; raise it or keep fewer"
        )
    if wanted not in best or not math.isfinite(best[wanted][0]):
        raise ConfigError(
            f"{count} segments do not fit the {len(space.choices)} choices of space {space.name!r} with {limit:,} "
            f"sub-architectures each; choose from {fewest} to {len(atoms)}"
        )
    edges = best[wanted][1]
    return tuple(tuple(chain.from_iterable(atoms[a:b])) for a, b in pairwise(edges))


def _cuts(length: int, price: Callable[[int, int], float]) -> dict[int, tuple[float, tuple[int, ...]]]:
    """The cheapest cut of `length` items into each number of parts: its price, and where parts begin and end."""
    row: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, (0,))}
    best = {}
    for parts in range(1, length + 1):
        row = {
            end: min((row[start][0] + price(start, end), (*row[start][1], end)) for start in row if start < end)
            for end in range(parts, length + 1)
        }
        best[parts] = row[length]
    return best


def _atoms(space: SearchSpace, most: int) -> list[tuple[int, ...]]:
    """What is not cut, parents first: a stage, else a choice with those that depend on it, else single choices.

    A stage is the choices whose names agree up to the first dot; pieces larger than `most` are cut further.
    """
    stages: dict[str, list[tuple[int, ...]]] = {}
    for position, choice in enumerate(space.choices):
        if choice.when is None:
            family = (position, *(p for p in range(len(space.choices)) if _parent(space, p) == position))
            stages.setdefault(choice.name.partition(".")[0], []).append(family)
    atoms: list[tuple[int, ...]] = []
    for families in stages.values():
        stage = tuple(chain.from_iterable(families))
        if size(space, stage) <= most:
            atoms.append(stage)
            continue
        for family in families:
            atoms += [family] if size(space, family) <= most else [(p,) for p in family]
    return atoms


# ---- what a search ended with


def cell_rows(cells: Sequence[SuperCell]) -> np.ndarray:
    """Option indices of super-cells of one segment, int64 `(k, p)`."""
    return np.array([c.indices for c in cells], dtype=np.int64)


def read_cells(space: SearchSpace, segments: Sequence[Sequence[int]], saved: Sequence[Any]) -> list[list[SuperCell]]:
    """The super-cells of each segment that is done, from plain values; raises ValueError where they do not fit."""
    counts: list[int] = []
    cells = []
    for part, told in zip(segments, saved, strict=False):
        counts += [len(space.choices[p].options) for p in part]
        cells.append([SuperCell(tuple(c["indices"]), float(c["score"]), c["cost"]) for c in told])
        for cell in cells[-1]:
            if len(cell.indices) != len(counts) or not all(
                0 <= i < n for i, n in zip(cell.indices, counts, strict=True)
            ):
                raise ValueError(f"super-cell {cell.indices}")
    return cells


def segment_members(state: Mapping[str, Any], space: SearchSpace, *, scored: bool = True) -> Iterator[str]:
    """Codes of the subspace that a segment-wise search ended with: what its lookup table is of.

    All distinct members of the last segment (super-cells times its choices), in the order of enumeration, then, where
    `scored`, the members that were scored and are not among them.

    Args:
        state: of a search that is over (`SegmentSearch.state`, or the JSON written of it).

    Raises:
        DataError: a search that is not over, of another space, or a damaged state.
    """
    try:
        positions = [[_position(space, name) for name in part] for part in state["segments"]]
        cells = read_cells(space, positions, state["super_cells"])
        codes = [code for r in state["rounds"] for code in r["codes"]] if scored else []
    except (KeyError, TypeError, ValueError) as e:
        raise DataError(f"the state of the segment-wise search is damaged ({e!r}); start a new one") from None
    if len(cells) != len(positions) - 1:
        raise DataError(f"the search ended {len(cells)} of {len(positions)} segments; let it finish first")
    prefixes = cell_rows(cells[-1]) if cells else np.zeros((1, 0), dtype=np.int64)
    before = [p for part in positions[:-1] for p in part]
    rows = extend(space, before, prefixes, positions[-1])
    rows = rows[:, np.argsort(before + positions[-1])]
    found: set[str] = set()
    for code in _codes(space, rows, codes):
        if code not in found:
            found.add(code)
            yield code


def _codes(space: SearchSpace, rows: np.ndarray, more: Sequence[str]) -> Iterator[str]:
    for start in range(0, len(rows), _AT_ONCE):
        for row in rows[start : start + _AT_ONCE].tolist():
            yield space.canonical(space.from_indices(row)).code
    yield from (space.canonical(space.decode(code)).code for code in more)


def _position(space: SearchSpace, name: str) -> int:
    names = [c.name for c in space.choices]
    if name not in names:
        raise DataError(f"space {space.name!r} has no choice {name!r}: {did_you_mean(name, names)}")
    return names.index(name)
