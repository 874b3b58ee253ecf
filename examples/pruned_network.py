"""A residual network for scikit-learn's digits, and a training of it, for `examples/pruned.yaml` to cut.

Run it with `python examples/pruned_network.py`: half a minute later there is `digits_network.safetensors`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS = "digits_network.safetensors"
EPOCHS = 30


class Block(nn.Module):
    """Two convolutions beside a shortcut, which is the input itself or a convolution of it."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        same = channels == out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DigitsNetwork(nn.Module):
    """Images `(N, C, 8, 8)` to logits `(N, classes)`; the engine gives what the data decide."""

    def __init__(self, input_shape: tuple[int, ...] = (1, 8, 8), classes: int = 10) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(input_shape[0], 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        plan = [(24, 24, 1), (24, 24, 1), (24, 48, 2), (48, 48, 1), (48, 48, 1)]
        self.blocks = nn.Sequential(*[Block(*sizes) for sizes in plan])
        self.head = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn(self.stem(x))))
        return self.head(x.mean((2, 3)))


def main() -> None:
    from safetensors.torch import save_file

    from nas_engine.config import Optimizer
    from nas_engine.data import load_data
    from nas_engine.evaluate import judge
    from nas_engine.train import NetworkProgram, train

    torch.manual_seed(0)
    torch.set_num_threads(1)
    data, network = load_data("digits"), DigitsNetwork()
    for epoch in train(NetworkProgram(network), data, Optimizer(), epochs=EPOCHS, seed=0, augment=data.augment):
        if epoch.epoch % 10 == 0:
            print(f"epoch {epoch.epoch}: {100 * judge(network, data, data.validation).accuracy:.1f} % of validation")
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, WEIGHTS)
    print(f"wrote {WEIGHTS}; next: nas-engine search examples/pruned.yaml")


if __name__ == "__main__":
    main()
