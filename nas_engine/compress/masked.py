"""A network with a mask over its units, so that channels can go while it trains and no tensor changes its shape.

The mask zeroes the places that read a unit, not what makes it: the network is exactly the one that surgery leaves, and
the optimiser, its momenta and checkpoints stay as they are until then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces import Network
from search_spaces.coupling import Coupling, Gated, Surgery, operate
from search_spaces.errors import SpaceError


class MaskedGated(Gated):
    """Gates upon a mask: what the mask zeroes stays so, whatever its gate; at gates of 1 it is the masked network.

    Args:
        mask: gives the mask `(units,)` of the moment.
    """

    def __init__(self, network: Network, coupling: Coupling, mask: Callable[[], Tensor]) -> None:
        super().__init__(network, coupling)
        self._mask = mask

    def __call__(self, inputs: Tensor, gates: Tensor | None = None, blocks: Tensor | None = None) -> Tensor:
        return super().__call__(inputs, self._upon(gates), blocks)

    def values(
        self, inputs: Tensor, names: Collection[str], gates: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return super().values(inputs, names, self._upon(gates))

    def tail(self, inputs: Tensor, group: int, gates: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        run = super().tail(inputs, group, self._upon(gates))
        return lambda gates: run(self._upon(gates))

    def _upon(self, gates: Tensor | None) -> Tensor:
        return self._mask() if gates is None else gates * self._mask().to(gates.dtype)


class Masked(nn.Module):
    """A network of which some units are masked; it trains, is saved and goes on like any module.

    Attributes:
        network: of the coupling's graph, with all its weights.
        keep: `(units,)` buffer of 0 and 1: what is left.
        drawn: `(units,)` buffer: what is left in training mode; the same, but for schedules that draw masks at random.
    """

    keep: Tensor
    drawn: Tensor

    def __init__(self, network: Network, coupling: Coupling) -> None:
        super().__init__()
        self.network, self.coupling = network, coupling
        like = next(network.parameters())
        self.register_buffer("keep", torch.ones(coupling.count, dtype=like.dtype, device=like.device))
        self.register_buffer("drawn", self.keep.clone())
        self._gated = Gated(network, coupling)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs of the masked network for inputs `(B, ...)`."""
        return self._gated(inputs, self.drawn if self.training else self.keep)

    @property
    def kept(self) -> np.ndarray:
        """(units,) bool mask of what is left, as allocators and surgery take it."""
        return self.keep.cpu().numpy() > 0

    def mask(self, keep: np.ndarray, drawn: np.ndarray | None = None) -> None:
        """Set what is left, and what is left in training mode where that is something else.

        Raises:
            SpaceError: a mask of another shape, or not of bool.
        """
        for buffer, wanted in ((self.keep, keep), (self.drawn, keep if drawn is None else drawn)):
            wanted = np.asarray(wanted)
            if wanted.shape != (self.coupling.count,) or wanted.dtype != np.bool_:
                raise SpaceError(
                    f"a mask is bool of {self.coupling.count} units; got {wanted.dtype} of shape {wanted.shape}"
                )
            buffer.copy_(torch.from_numpy(wanted))

    def gated(self) -> MaskedGated:
        """What criteria look through: gates upon the mask."""
        return MaskedGated(self.network, self.coupling, lambda: self.keep)

    def operate(self, without: Collection[str] = ()) -> Surgery:
        """The smaller network that this one already is, by its outputs."""
        return operate(self.network, self.coupling, self.kept, without)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_gated"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._gated = Gated(self.network, self.coupling)
