"""Parts of tensors: what a member of a space uses of a shared tensor, and what a cut leaves of one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Kept = tuple[np.ndarray | None, ...]
"""Indices kept along the leading axes of a tensor; None for all."""


def cut(tensor: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The view of `shape` inside a slot: first entries of the two leading axes, the centre of the others."""
    if tensor.shape == shape:
        return tensor
    for axis, (have, want) in enumerate(zip(tensor.shape, shape, strict=True)):
        start = 0 if axis < 2 else (have - want) // 2
        tensor = tensor.narrow(axis, start, want)
    return tensor


def corner(tensor: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The view of the first entries of all axes: the slice of a bare tensor, such as a position embedding."""
    return tensor[tuple(slice(n) for n in shape)]


def part_of(tensor: Tensor, kept: Kept) -> Tensor:
    """The kept entries of each axis: a view where they are the first ones, else a copy."""
    for axis, indices in enumerate(kept):
        if indices is None or len(indices) == tensor.shape[axis]:
            continue
        if leading(indices):
            tensor = tensor.narrow(axis, 0, len(indices))
        else:
            tensor = tensor.index_select(axis, torch.from_numpy(indices).to(tensor.device))
    return tensor


def leading(indices: np.ndarray) -> bool:
    """Whether sorted indices are those of the first entries."""
    return not len(indices) or int(indices[-1]) == len(indices) - 1
