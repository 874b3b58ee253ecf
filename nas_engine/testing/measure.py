"""What torch itself says of a graph's network: the yardstick that the contracts hold cost and shape rules against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from search_spaces import Graph, Network


def example_inputs(graph: Graph, batch: int, generator: torch.Generator) -> list[Tensor]:
    """Random tensors `(batch, *shape)`, one for each input of the graph: normal, or 0 and 1 for whole numbers."""
    made = []
    for node in graph.inputs:
        size, dtype = (batch, *node.shape), getattr(torch, node.attributes["dtype"])
        normal = torch.randn(size, generator=generator)
        made.append(normal.to(dtype) if dtype.is_floating_point else (normal > 0).to(dtype))
    return made


def counted_macs(graph: Graph) -> int:
    """MACs of one example as torch's FLOP counter sees them, run without memory on the meta device.

    The counter gives two FLOPs for each multiply-accumulate of a convolution or a matrix product and none
    for biases, normalisations and element-wise functions, as `Cost.macs` does.
    """
    with torch.device("meta"):
        network = Network(graph).eval().requires_grad_(False)  # the counter refuses views of learned tensors
        inputs = [torch.empty(1, *n.shape, dtype=getattr(torch, n.attributes["dtype"])) for n in graph.inputs]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return counter.get_total_flops() // 2


def counted_params(graph: Graph) -> int:
    """Learned numbers of the network of a graph."""
    with torch.device("meta"):
        return sum(p.numel() for p in Network(graph).parameters())


def outputs(network: nn.Module, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """All outputs of a network, also where it has one."""
    result = network(*tensors)
    return result if isinstance(result, tuple) else (result,)


def shake_statistics(module: nn.Module, generator: torch.Generator) -> None:
    """Give every normalisation random statistics and every parameter some noise.

    A fresh network has means of 0 and variances of 1, on which many mistakes do not show.
    """
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
