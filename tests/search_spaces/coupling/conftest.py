"""Networks with what coupling must get right, weights and statistics drawn at random."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import Network, trace
from search_spaces.coupling import Coupling, couple


def stirred(module: nn.Module) -> nn.Module:
    """Batch norms as after a training, so that a channel of zeros is not a channel that is gone."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.copy_(torch.randn(part.num_features, generator=generator) * 0.2)
            part.running_var.copy_(torch.rand(part.num_features, generator=generator) + 0.5)
            part.weight.data.copy_(torch.rand(part.num_features, generator=generator) + 0.5)
            part.bias.data.copy_(torch.randn(part.num_features, generator=generator) * 0.2)
    return module.eval()


def traced(module: nn.Module, example: Tensor) -> tuple[Network, Coupling]:
    """The network of a module, and what can be cut out of it."""
    graph = trace(stirred(module), example)
    network = Network(graph)
    network.load_state_dict(module.state_dict())
    return network.eval(), couple(graph)


def half(coupling: Coupling, share: float = 0.4, seed: int = 0) -> np.ndarray:
    """A mask that drops this share of every group at random."""
    rng, keep = np.random.default_rng(seed), coupling.all()
    for group in coupling.groups:
        keep[rng.choice(group.units, int(share * len(group)), replace=False)] = False
    return keep


class Shortcuts(nn.Module):
    """Two stages of a CIFAR network: a residual block, then one whose shortcut pads channels (option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a1, self.na1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a2, self.na2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.b1, self.nb1 = nn.Conv2d(8, 16, 3, 2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.b2, self.nb2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.na2(self.a2(F.relu(self.na1(self.a1(x))))))
        y = self.nb2(self.b2(F.relu(self.nb1(self.b1(x)))))
        x = F.relu(F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)) + y)
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="session")
def shortcuts() -> tuple[Network, Coupling]:
    torch.manual_seed(0)
    return traced(Shortcuts(), torch.zeros(2, 3, 8, 8))


@pytest.fixture
def made() -> Callable[..., tuple[Network, Coupling]]:
    """Traces a module; see `traced`."""
    return traced


@pytest.fixture
def dropped() -> Callable[..., np.ndarray]:
    """Drops a share of every group; see `half`."""
    return half
