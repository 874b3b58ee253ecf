"""What torch itself says of a graph's network: the yardstick that the contracts hold cost and shape rules against."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from search_spaces import Graph, Network
from search_spaces.inputs import random_inputs as example_inputs


def counted_macs(graph: Graph, device: str = "meta") -> int:
    """MACs of one example as torch's FLOP counter sees them; on the meta device nothing is really computed.

    The counter gives two FLOPs for each multiply-accumulate of a convolution or a matrix product and none
    for biases, normalisations and element-wise functions, as `Cost.macs` does. Convolutions of graphs look at the
    values of edges, which the meta device does not have.
    """
    with torch.device(device):
        network = Network(graph).eval().requires_grad_(False)  # the counter refuses views of learned tensors
    inputs = [x.to(device) for x in example_inputs(graph, 1, torch.Generator().manual_seed(0))]
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


def measured_step_bytes(graph: Graph, batch: int = 1) -> int:
    """Peak bytes of a training step with Adam on the CPU, from the allocator's events: weights, gradients, moments and
    all that the step allocates, but for the data. The step before it, which makes the moments, is not looked at.
    """
    network = Network(graph).train()
    given = example_inputs(graph, batch, torch.Generator().manual_seed(0))
    classes = graph[graph.outputs[0]].shape[-1]
    labels = torch.zeros(batch * math.prod(graph[graph.outputs[0]].shape[:-1]), dtype=torch.int64)
    optimizer = torch.optim.Adam(network.parameters())

    def step() -> None:
        loss = F.cross_entropy(network(*given).reshape(-1, classes), labels)
        loss.backward()
        optimizer.step()

    step()
    optimizer.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    live = peak = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak + 3 * sum(p.nbytes for p in network.parameters())
