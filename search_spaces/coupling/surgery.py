"""The smaller network with its share of the weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import SpaceError
from ..network import Network
from ..slices import Kept, part_of
from .cutting import cut, kept_along
from .units import Coupling


@dataclass(frozen=True, eq=False)
class Surgery:
    """What came of cutting a network.

    Attributes:
        network: the smaller one, an ordinary module of its own; nothing is shared with the other.
        indices: what is kept along each axis of its tensors, by name in state dicts; None for an axis kept whole.
    """

    network: Network
    indices: dict[str, Kept]

    def carry_over(self, old: torch.optim.Optimizer, new: torch.optim.Optimizer, source: nn.Module) -> None:
        """Move what an optimiser of `source` remembers (momenta, second moments) to one of the smaller network.

        Tensors of a parameter's shape are cut as the parameter was; anything else (step counts) is copied.
        """
        before = dict(source.named_parameters())
        for name, parameter in self.network.named_parameters():
            state = old.state.get(before[name])
            if state:
                new.state[parameter] = {k: self._part(name, v, before[name].shape) for k, v in state.items()}

    def _part(self, name: str, value: object, shape: torch.Size) -> object:
        if not isinstance(value, Tensor):
            return value
        return part_of(value, self.indices[name]).clone() if value.shape == shape else value.clone()


def operate(
    network: Network,
    coupling: Coupling,
    keep: np.ndarray,
    without: Collection[str] = (),
    source: nn.Module | None = None,
) -> Surgery:
    """Cut a network: only the kept units are left of it, and the blocks of these names are gone.

    Its outputs are those of the network whose edges read zeros in the place of the other units; see `Gated`.

    Args:
        network: of the coupling's graph; it is not changed.
        keep: `(units,)` bool.
        source: the module a graph was traced from, where it has nodes of operator `other`.

    Raises:
        SpaceError: nothing would be left of a group, or a block is not known.
        GraphError: nodes of operator `other` and no source.
    """
    if np.asarray(keep).dtype != np.bool_:
        raise SpaceError("weights can be cut, not repeated: keep is a bool mask here; `cut` gives a wider graph")
    weight = next(network.parameters())
    small = Network(cut(coupling, keep, without), source)
    state, indices = network.state_dict(), {}
    for name in small.state_dict():
        axes = coupling.tensors.get(name, ())
        kept = kept_along(axes, keep) or (None,)
        indices[name] = kept + (None,) * (state[name].dim() - len(kept))
    small.load_state_dict({name: part_of(state[name], kept) for name, kept in indices.items()})
    return Surgery(small.to(weight.device, weight.dtype).train(network.training), indices)
