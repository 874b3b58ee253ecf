"""Gates of 1, by which criteria take derivatives and take units out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from search_spaces.coupling import Gated


def ones(gated: Gated, inputs: Tensor, *size: int, learned: bool = False) -> Tensor:
    """Ones in the precision of the network's weights, on the device of the inputs; with gradients if `learned`."""
    import torch

    precision = next((p.dtype for p in gated.network.parameters() if p.is_floating_point()), torch.float32)
    return torch.ones(size, dtype=precision, device=inputs.device, requires_grad=learned)
