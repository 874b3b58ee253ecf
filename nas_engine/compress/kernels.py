"""Single kernels masked in a network, channels that die of it, and the smaller network without them.

Masks are parametrisations: training cannot revive what they cut. A channel into which no kernel leads gives zeros only
if its bias and the weight and bias of its batch norms are zeroed too, so clean-up masks those; then it can really be
removed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from search_spaces import Network
from search_spaces.coupling import NONE, Coupling, Edge, Surgery, operate
from search_spaces.errors import ConfigError, did_you_mean
from search_spaces.graph import Graph, Node

from .criteria.lean_graph import prunable
from .criteria.lean_norms import by_input, by_output
from .liveness import Life

Masks = dict[str, np.ndarray]


class Mask(nn.Module):
    """A parametrisation that multiplies a tensor by zeros and ones; `mask` is saved with the network."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor * self.mask


@dataclass(frozen=True, eq=False)
class Cleaned:
    """What is left when kernels of dead channels are gone too.

    Attributes:
        masks: kernels left, by the name of the convolution, `(out, in / groups)` bool.
        dead: channels whose biases are zeroed, by the name of the convolution or batch norm, `(channels,)` bool.
        keep: units of the coupling that are needed, `(units,)` bool; every group keeps one.
        removed: how many kernels clean-up took.
    """

    masks: Masks
    dead: Masks
    keep: np.ndarray
    removed: int

    @property
    def kernels(self) -> int:
        """How many kernels are left."""
        return sum(int(mask.sum()) for mask in self.masks.values())


@dataclass(frozen=True, eq=False)
class Removed:
    """A smaller network.

    Attributes:
        surgery: the network, without parametrisations, and what was kept of each tensor.
        masks: the kernels left in it, as `mask_kernels` takes them.
    """

    surgery: Surgery
    masks: Masks


def clean_up(
    coupling: Coupling, masks: Mapping[str, np.ndarray], network: Network | None = None, variance: float = 0.0
) -> Cleaned:
    """Remove kernels that read dead channels or make unneeded ones ("redundancy pruning" of LEAN).

    A channel is dead that no kernel leads to, and unneeded if no way leads from it to an output.

    Args:
        masks: kernels to keep, `(out, in / groups)` bool, of any convolutions but those that make outputs.
        network, variance: channels of batch norms whose running variance is below `variance` count as dead too; what
            they added as constants is lost then. The published thresholds are 1e-45 and 1e-10.

    Raises:
        ConfigError: a mask of something that is no such convolution, or of another shape.
    """
    checked = _checked(coupling.graph, masks)
    silenced = {} if network is None or variance <= 0 else _constant(coupling.graph, network, variance)
    life = Life(coupling.graph, dict(checked), silenced).run()
    dead = {name: np.asarray(~mask.any(1)) for name, mask in life.masks.items()}
    for node in coupling.graph.nodes:
        if node.operator == "batch_norm" and node.attributes["affine"]:
            dead[node.name] = ~life.alive[node.name]
    removed = sum(int(m.sum()) for m in checked.values()) - sum(int(m.sum()) for m in life.masks.values())
    return Cleaned(life.masks, {n: d for n, d in dead.items() if d.any()}, _needed_units(coupling, life), removed)


def mask_kernels(
    network: Network, graph: Graph, masks: Mapping[str, np.ndarray], dead: Mapping[str, np.ndarray] | None = None
) -> None:
    """Mask kernels, and the biases of dead channels; masks of an earlier call are replaced.

    Args:
        network: changed in place: its weights become parametrised, see `bake` for the way back.
        masks, dead: of `Cleaned`.
    """
    dead = dead or {}
    for name, mask in _checked(graph, masks).items():
        node = graph[name]
        kernels = by_input(mask, node.attributes["groups"]) if node.operator.startswith("conv_transpose") else mask
        _mask(network.get_submodule(name), "weight", kernels.reshape(*kernels.shape, *(1,) * (len(node.shape) - 1)))
    for node in graph.nodes:
        if node.name in masks or node.operator == "batch_norm":
            module = network.get_submodule(node.name)
            alive = np.ones(node.shape[0], dtype=bool) if node.name not in dead else ~dead[node.name]
            for part in ("bias",) if node.name in masks else ("weight", "bias"):
                if getattr(module, part, None) is not None and (not alive.all() or _held(module, part) is not None):
                    _mask(module, part, alive)


def bake(network: Network, source: nn.Module | None = None) -> Network:
    """A copy whose weights are ordinary ones again, zeros where they were masked.

    It is built anew: a deep copy would share classes with the parametrised modules, and lose them for both.

    Args:
        source: the module a graph was traced from, where it has nodes of operator `other`.
    """
    state = {}
    for name, tensor in network.state_dict().items():
        owner, parametrised, rest = name.partition(".parametrizations.")
        if parametrised:
            part = rest.partition(".")[0]
            state[f"{owner}.{part}"] = getattr(network.get_submodule(owner), part).detach()
        else:
            state[name] = tensor
    plain = Network(network.graph, source)
    plain.load_state_dict(state)
    weight = next(network.parameters())
    return plain.to(weight.device, weight.dtype).train(network.training)


def remove_dead(network: Network, coupling: Coupling, cleaned: Cleaned, source: nn.Module | None = None) -> Removed:
    """Really remove the channels that clean-up found dead; outputs are those of the masked network.

    Args:
        network: masked by `mask_kernels` with what `clean_up` found; it is not changed.
        source: the module a graph was traced from, where it has nodes of operator `other`.
    """
    surgery = operate(bake(network, source), coupling, cleaned.keep, source=source)
    masks = {}
    for name, mask in cleaned.masks.items():
        node = coupling.graph[name]
        masks[name] = _sliced(mask, node, surgery)
    return Removed(surgery, masks)


def geometric_quotas(kernels: int, share: float, steps: int) -> list[int]:
    """How many kernels are left after each step, each the same share of those before, and `share` of all at the end.

    >>> geometric_quotas(1000, 0.125, 3)
    [500, 250, 125]
    """
    if not 0 < share <= 1 or steps < 1:
        raise ConfigError(
            f"a share of {share} in {steps} steps; more than 0 and at most 1, in 1 step or more, is allowed"
        )
    return [max(1, math.floor(kernels * share ** (step / steps) + 0.5)) for step in range(1, steps + 1)]


# ---- details -----------------------------------------------------------------------------------------------


def _checked(graph: Graph, masks: Mapping[str, np.ndarray]) -> Masks:
    """Copies of masks that fit the graph."""
    known = {n.name: n for n in prunable(graph)}
    for name, mask in masks.items():
        if name not in known:
            raise ConfigError(f"no convolution {name!r} whose kernels may be cut: {did_you_mean(name, known)}")
        shape = known[name].shape[0], known[name].signature.inputs[0][0] // known[name].attributes["groups"]
        if mask.shape != shape or mask.dtype != np.bool_:
            raise ConfigError(
                f"mask of {name!r} is {mask.dtype} of shape {mask.shape}; bool of shape {shape} is allowed"
            )
    return {name: mask.copy() for name, mask in masks.items()}


def _constant(graph: Graph, network: Network, variance: float) -> Masks:
    """Channels of batch norms whose running variance is below a threshold."""
    found = {}
    for node in graph.nodes:
        if node.operator == "batch_norm" and node.attributes["track_running_stats"] and node.attributes["affine"]:
            running: Tensor = network.get_submodule(node.name).running_var  # type: ignore[assignment]
            found[node.name] = (running < variance).cpu().numpy()
    return found


def _needed_units(coupling: Coupling, life: Life) -> np.ndarray:
    """Units that some edge still reads; the first of a group of which nothing would be left."""
    keep = np.zeros(coupling.count, dtype=bool)
    for edge in coupling.edges:
        read = edge.units[_reads(edge, life)]
        keep[read[read != NONE]] = True
    for group in coupling.groups:
        if not keep[group.units].any():
            keep[group.units[0]] = True
    return keep


def _reads(edge: Edge, life: Life) -> np.ndarray:
    """(channels,) which channels an edge reads anything but zeros from, and uses."""
    if edge.axis != 0:
        return np.ones(len(edge.units), dtype=bool)
    read = life.alive[edge.source].copy()
    if edge.node in life.masks:
        read &= ~life.unread(edge.node)
    return read


def _held(module: nn.Module, part: str) -> Mask | None:
    """The mask of one of a module's tensors, if it has one."""
    if not parametrize.is_parametrized(module, part):
        return None
    return next((p for p in module.parametrizations[part] if isinstance(p, Mask)), None)  # type: ignore[index,union-attr]


def _mask(module: nn.Module, part: str, mask: np.ndarray) -> None:
    """Set the mask of one of a module's tensors."""
    tensor = getattr(module, part)
    values = torch.from_numpy(np.ascontiguousarray(mask)).to(tensor.device, tensor.dtype)
    held = _held(module, part)
    if held is None:
        parametrize.register_parametrization(module, part, Mask(values))
    else:
        held.mask.copy_(values)


def _sliced(mask: np.ndarray, node: Node, surgery: Surgery) -> np.ndarray:
    """A mask of what is left of a convolution."""
    axes = surgery.indices[f"{node.name}.weight"][:2]
    groups = node.attributes["groups"]
    transposed = node.operator.startswith("conv_transpose")
    kernels = by_input(mask, groups) if transposed else mask
    for axis, indices in enumerate(axes):
        kernels = kernels if indices is None else kernels.take(indices, axis)
    left = surgery.network.graph[node.name].attributes["groups"]
    return by_output(kernels, left) if transposed else kernels
