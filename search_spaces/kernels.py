"""Smaller kernels as learned maps of larger ones (once-for-all, Cai et al. 2020, section 3.2).

The centre of a 7x7 kernel is no good 5x5 kernel, and need not become one if a matrix stands between: it is learned for
each layer, shared by its channels, and one chain leads from the largest kernel to the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from .slices import cut

KERNEL_TRANSFORM = "kernel_transform"
"""Name of a slot's `KernelTransform`; what tells that weights were trained with them."""

Size = tuple[int, ...]


class KernelTransform(nn.Module):
    """The kernels of one layer from its largest: `w' = (I + D) c` for the centre c of the next larger one.

    D is learned and starts at zero, so that weight decay pulls to the centre itself and an untrained transform is none.
    Kernels of sizes that the chain lacks are the centre of the smallest one that holds them.

    Args:
        sizes: of kernels, falling, each inside the one before; see `chain`.

    Shapes:
        input: `(O, I, *sizes[0])`, output `(O, I, *size)`; each D is `(n, n)` for the n numbers of its smaller kernel.
    """

    def __init__(self, sizes: Iterable[Size]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        for size in self.sizes[1:]:
            count = math.prod(size)
            self.register_parameter(_name(size), nn.Parameter(torch.zeros(count, count)))

    def forward(self, weight: Tensor, size: Size) -> Tensor:
        channels = weight.shape[:2]
        for smaller in self._passed(size):
            centre = cut(weight, (*channels, *smaller))
            flat = centre.flatten(2)
            weight = (flat + flat @ self.get_parameter(_name(smaller)).T).view_as(centre)
        return cut(weight, (*channels, *size))

    def used(self, size: Size) -> list[str]:
        """Names of the matrices that a kernel of a size goes through."""
        return [_name(smaller) for smaller in self._passed(size)]

    def _passed(self, size: Size) -> list[Size]:
        return [smaller for smaller in self.sizes[1:] if all(s >= n for s, n in zip(smaller, size, strict=True))]


def chain(sizes: Iterable[Size]) -> tuple[Size, ...] | None:
    """Kernel sizes falling, None where there is but one or where one does not lie inside another.

    >>> chain([(3, 3), (7, 7), (5, 5)])
    ((7, 7), (5, 5), (3, 3))
    """
    falling = tuple(sorted(set(sizes), key=math.prod, reverse=True))
    nested = all(all(a >= b for a, b in zip(*pair, strict=True)) for pair in pairwise(falling))
    return falling if len(falling) > 1 and nested else None


def _name(size: Size) -> str:
    return "x".join(map(str, size))
