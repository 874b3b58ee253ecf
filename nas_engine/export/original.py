"""The network that a bundle is made of, and the outputs its forms are held to."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_spaces.errors import ExportError, GraphError

from .inputs import ports, trials

if TYPE_CHECKING:
    from torch import Tensor, nn

    from search_spaces import Network
    from search_spaces.inputs import GraphInput

    from .inputs import Given, Port


@dataclass(frozen=True)
class Original:
    """A network ready to be written down.

    Attributes:
        network: a copy on the CPU, in evaluation mode, float32, without parametrisations.
        ports: its inputs.
        batches: what forms are run on: images as one batch, and the first alone; or a graph, and a smaller one.
        outputs: what the network that came gives for them.
        scale: largest absolute number of the outputs.
    """

    network: Network
    ports: tuple[Port, ...]
    batches: tuple[Given, Given]
    outputs: tuple[Tensor, Tensor]
    scale: float


def make_original(network: Network, samples: Tensor | GraphInput) -> Original:
    """Copy the network and run it; it keeps its device and its mode.

    Raises:
        ExportError: samples of another shape, or too few; a network with inputs that are not those of a graph, with
            several outputs, or whose outputs are not finite numbers.
    """
    import torch

    if len(network.graph.outputs) != 1:
        raise ExportError(f"a bundle has one output; this network has {len(network.graph.outputs)}")
    taken = ports(network.graph)
    batches = trials(samples, taken)
    moved = copy.deepcopy(network).to("cpu", torch.float32).eval()
    with torch.inference_mode():
        whole, part = (moved(*batch) for batch in batches)
    if not all(bool(torch.isfinite(o).all()) for o in (whole, part)):
        raise ExportError("the network's own outputs hold numbers that are not finite; nothing is exported")
    scale = max(float(o.abs().max()) for o in (whole, part))
    return Original(_plain(moved), taken, batches, (whole, part), scale)


def _plain(network: Network) -> Network:
    """The network with tensors in the place of parametrised ones.

    It is built anew: `remove_parametrizations` would change the class that the copy shares with what it was copied
    from.
    """
    from torch.nn.utils import parametrize

    if not any(parametrize.is_parametrized(m) for m in network.modules()):
        return network
    try:
        plain = type(network)(network.graph)
    except GraphError as e:
        raise ExportError(f"a network with both parametrisations and traced parts cannot be exported: {e}") from e
    plain.load_state_dict({name: _tensor(network, name) for name in plain.state_dict()})
    return plain.eval()


def _tensor(root: nn.Module, path: str) -> Tensor:
    folder, _, name = path.rpartition(".")
    tensor: Tensor = getattr(root.get_submodule(folder), name)
    return tensor.detach()
