"""Channels in order of weight when widths open (once-for-all, Cai et al. 2020, section 3.3).

A narrow member uses the first channels of a layer, so before narrow members are trained the channels that weigh most
are put first: wherever they lie, together with what the optimiser knows of them. The largest member computes what it
did.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from search_spaces import Architecture, Graph, Supernet
from search_spaces.coupling import NONE, couple
from search_spaces.coupling.order import falling, reorder
from search_spaces.errors import ConfigError
from search_spaces.kernels import KERNEL_TRANSFORM
from search_spaces.network import learned

from .phases import Opened, Phases


class ChannelSorter:
    """Puts channels of a supernet in falling order of the weights that read them.

    Args:
        phases: of the training; `groups` needs to know what they open.

    Raises:
        ConfigError: some phase narrows channels and the largest member does not have all weights, so that channels
            elsewhere would lose their place.
    """

    def __init__(self, supernet: Supernet, phases: Phases) -> None:
        self._supernet, self._phases = supernet, phases
        largest = phases.opened[-1].largest
        self.coupling = couple(supernet.space.graph(largest))
        self._shapes = _tensor_shapes(self.coupling.graph)
        self._lacking: dict[Architecture, set[int]] = {}
        lacking = _missing(supernet, self._shapes)
        if lacking and any(self.groups(phase) for phase in range(len(phases.starts))):
            raise ConfigError(
                f"channels cannot be sorted: the largest member of space {largest.space!r} does not have "
                f"{lacking[0]!r} in full; give supernet.sort_channels: false"
            )

    def groups(self, phase: int) -> tuple[int, ...]:
        """Positions in the coupling of the groups of channels that a phase is the first to narrow."""
        after = self._narrowed(self._phases.opened[phase])
        before = self._narrowed(self._phases.opened[phase - 1]) if phase else after
        return tuple(sorted(after - before))

    def _narrowed(self, opened: Opened) -> set[int]:
        """Groups of which some open member lacks channels that is the largest but for one choice."""
        found: set[int] = set()
        for member in _smaller(opened):
            if member not in self._lacking:
                self._lacking[member] = self._lacked(self._supernet.space.graph(member))
            found |= self._lacking[member]
        return found

    def _lacked(self, graph: Graph) -> set[int]:
        """Groups of which a graph has fewer channels, in the tensors that it has."""
        found: set[int] = set()
        for name, shape in _tensor_shapes(graph).items():
            for axis, units in enumerate(self.coupling.tensors.get(name, ())):
                if units is not None and shape[axis] < self._shapes[name][axis]:
                    found |= set(self.coupling.group_of[units[units != NONE]].tolist())
        return found

    def order(self, phase: int) -> np.ndarray | None:
        """`(units,)` what comes to the place of each unit as a phase begins; None where all stays as it is."""
        groups = self.groups(phase)
        if not groups:
            return None
        scores = self._scores()
        kept = ~np.isin(self.coupling.group_of, groups)
        scores[kept] = 0.0  # equal scores stay in turn
        return falling(self.coupling, scores)

    def _scores(self) -> np.ndarray:
        """(units,) the L1 norm of the weights that read each unit."""
        scores = np.zeros(self.coupling.count)
        for name, parameter in self._supernet.named_parameters():
            axes = self.coupling.tensors.get(name, ())
            if parameter.dim() > 1 and len(axes) > 1 and axes[1] is not None:
                norms = parameter.detach().abs().transpose(0, 1).flatten(1).double().sum(1).cpu().numpy()
                borne = axes[1] != NONE
                np.add.at(scores, axes[1][borne], norms[borne])
        return scores

    @torch.no_grad()
    def apply(self, order: np.ndarray, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Move channels in tensors, which are called as parameters and buffers of the supernet are."""
        given = dict(tensors)
        for name, moved in reorder(given, self.coupling, order).items():
            given[name].copy_(moved)

    def sort(self, order: np.ndarray) -> None:
        """Move channels of the supernet's own tensors."""
        self.apply(order, self._supernet.state_dict().items())

    def sort_momenta(self, order: np.ndarray, optimizer: torch.optim.Optimizer) -> None:
        """Move what an optimiser keeps of the parameters, as far as that has their shape."""
        states = {n: optimizer.state.get(p, {}) for n, p in self._supernet.named_parameters()}
        for key in {key for state in states.values() for key in state}:
            kept = {n: s[key] for n, s in states.items() if isinstance(s.get(key), Tensor)}
            shaped = {n: t for n, t in kept.items() if t.shape == self._supernet.get_parameter(n).shape}
            self.apply(order, shaped.items())


def _smaller(opened: Opened) -> Iterable[Architecture]:
    """Members that are the largest but for one choice, which takes its first open option."""
    space, top = opened.space, opened.largest.indices
    for i, low in enumerate(opened.lowest):
        if low < top[i]:
            yield space.from_indices([low if j == i else t for j, t in enumerate(top)])


def _tensor_shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Shapes of what the network of a graph learns or keeps, by their names in state dicts."""
    shapes: dict[str, tuple[int, ...]] = {}
    for node in graph.simplify().nodes:
        with torch.device("meta"):
            things = learned(node)
        for path, thing in things:
            if isinstance(thing, Tensor):
                shapes[path] = tuple(thing.shape)
            else:
                shapes |= {f"{path}.{n}": tuple(t.shape) for n, t in thing.state_dict().items()}
    return shapes


def _missing(supernet: Supernet, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Weights of a supernet that a network with tensors of these shapes does not have in full."""
    own = {n: tuple(t.shape) for n, t in supernet.state_dict().items() if f".{KERNEL_TRANSFORM}." not in n}
    return [name for name in own if shapes.get(name) != own[name]]
