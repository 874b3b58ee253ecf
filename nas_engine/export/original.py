"""The network that a bundle is made of, and the outputs its forms are held to."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_spaces.errors import ExportError, GraphError

from .base import input_dtype, input_name

if TYPE_CHECKING:
    from torch import Tensor, nn

    from search_spaces import Network


@dataclass(frozen=True)
class Original:
    """A network ready to be written down.

    Attributes:
        network: a copy on the CPU, in evaluation mode, float32, without parametrisations.
        batches: the images as one batch, and the first alone.
        outputs: what the network that came gives for them.
        scale: largest absolute number of the outputs.
    """

    network: Network
    batches: tuple[Tensor, Tensor]
    outputs: tuple[Tensor, Tensor]
    scale: float


def make_original(network: Network, samples: Tensor) -> Original:
    """Copy the network and run it; it keeps its device and its mode.

    Raises:
        ExportError: samples of another shape, or too few; a network with several inputs or outputs, or whose
            outputs are not finite numbers.
    """
    import torch

    _check(network, samples)
    samples = samples.detach().to("cpu", getattr(torch, input_dtype(network.graph))).contiguous()
    batches = samples, samples[:1].clone()
    moved = copy.deepcopy(network).to("cpu", torch.float32).eval()
    with torch.inference_mode():
        whole, first = (moved(batch) for batch in batches)
    if not all(bool(torch.isfinite(o).all()) for o in (whole, first)):
        raise ExportError("the network's own outputs hold numbers that are not finite; nothing is exported")
    scale = max(float(o.abs().max()) for o in (whole, first))
    return Original(_plain(moved), batches, (whole, first), scale)


def _check(network: Network, samples: Tensor) -> None:
    inputs, outputs = network.graph.inputs, network.graph.outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise ExportError(f"a bundle is of one input and one output; this network has {len(inputs)} and {len(outputs)}")
    if tuple(samples.shape[1:]) != inputs[0].shape or len(samples) < 2:
        wanted = f"{input_name(network.graph)} (N, {', '.join(map(str, inputs[0].shape))})"
        raise ExportError(
            f"samples of shape {tuple(samples.shape)}; two or more {wanted} are needed, "
            "so that the batch size is seen to vary"
        )


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
