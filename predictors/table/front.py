"""Pareto fronts of many rows: exact, with ties kept, in seconds for a million rows of a few objectives."""

from __future__ import annotations

import numpy as np

_DOMINATORS = 256  # rows that rule out most others, and are asked first


def pareto(losses: np.ndarray) -> np.ndarray:
    """Indices of the non-dominated rows, rising; all objectives are minimised.

    A row is dominated if another is nowhere larger and somewhere smaller, so equal rows stay together. Rows with NaN
    are left out.

    Shapes: losses `(n, k)`; a million rows of two or three objectives take seconds.
    """
    losses = np.asarray(losses, dtype=np.float64)
    finite = np.flatnonzero(~np.isnan(losses).any(1))
    if not len(finite):
        return finite
    # ranks instead of values: comparisons stay exact when objectives are added up
    ranks = np.stack([np.unique(column, return_inverse=True)[1] for column in losses[finite].T], axis=1).astype(
        np.int64
    )
    order = np.lexsort((*ranks.T[::-1], ranks.sum(1)))  # a row is never dominated by a later one
    ordered = ranks[order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (ordered[1:] != ordered[:-1]).any(1)
    unique = ordered[fresh]
    keep = _front_of_two(unique) if unique.shape[1] == 2 else _front(unique)
    return np.sort(finite[order[keep[np.cumsum(fresh) - 1]]])


def _front_of_two(points: np.ndarray) -> np.ndarray:
    """Mask of the non-dominated among distinct points of two objectives, by one pass over the sorted first."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    second = points[order, 1]
    best = np.concatenate([[np.iinfo(np.int64).max], np.minimum.accumulate(second)[:-1]])
    keep = np.zeros(len(points), dtype=bool)
    keep[order] = second < best
    return keep


def _front(points: np.ndarray) -> np.ndarray:
    """Mask of the non-dominated among distinct points, of which none is dominated by a later one."""
    keep = np.zeros(len(points), dtype=bool)
    front = points[:0]
    for start in range(0, len(points), 1024):
        block = np.arange(start, min(start + 1024, len(points)))
        for rivals in (front[:_DOMINATORS], front[_DOMINATORS:]):
            block = block[~_dominated(points[block], rivals)]
        block = block[~_dominated(points[block], points[block])]
        keep[block] = True
        front = np.concatenate([front, points[block]])
    return keep


def _dominated(points: np.ndarray, rivals: np.ndarray) -> np.ndarray:
    """Mask of the points to which some other rival is nowhere larger; points and rivals are distinct or the same."""
    result = np.zeros(len(points), dtype=bool)
    for part in np.array_split(np.arange(len(rivals)), max(1, len(rivals) // _DOMINATORS)):
        no_larger = np.ones((len(points), len(part)), dtype=bool)
        same = no_larger.copy()
        for column in range(points.shape[1]):
            no_larger &= rivals[part, column] <= points[:, column, None]
            same &= rivals[part, column] == points[:, column, None]
        result |= (no_larger & ~same).any(1)
    return result
