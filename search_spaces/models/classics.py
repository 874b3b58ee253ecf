"""Networks that papers on pruning are measured on, as plain torch modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..registry import Registry

models: Registry[Callable[..., nn.Module]] = Registry("model", ConfigError)


@models.register("lenet5")
class LeNet5(nn.Module):
    """LeNet-5 as pruning papers use it: 20 and 50 filters of 5x5, 500 hidden features (431,080 parameters).

    Shapes:
        input `(N, 1, 28, 28)`, or as `input_shape` says.
    """

    def __init__(self, *, input_shape: Sequence[int] = (1, 28, 28), classes: int = 10) -> None:
        super().__init__()
        channels, height, width = input_shape
        left = ((height - 4) // 2 - 4) // 2 * (((width - 4) // 2 - 4) // 2)
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * left, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Where the shape changes, option A takes every second pixel and puts the channels among zeros, a quarter of the new
    width before and after; option B is a 1x1 convolution (He et al. 2016, section 4.2).
    """

    def __init__(self, channels: int, width: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        self.stride, self.padding = stride, 0
        if channels != width:
            if option == "A":
                self.padding = (width - channels) // 2
            else:
                self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """Residual network of `6 * blocks + 2` layers for small images (He et al. 2016, section 4.2).

    Shapes:
        input `(N, C, H, W)`, any size.
    """

    def __init__(
        self, blocks: int, *, option: str = "A", input_shape: Sequence[int] = (3, 32, 32), classes: int = 10
    ) -> None:
        super().__init__()
        if option not in ("A", "B"):
            raise ConfigError(f"unknown shortcut option {option!r}: A (padding) or B (1x1 convolution)")
        self.conv1 = nn.Conv2d(input_shape[0], 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        stages, channels = [], 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            sizes = [channels] + [width] * (blocks - 1)
            parts = [BasicBlock(c, width, stride if i == 0 else 1, option) for i, c in enumerate(sizes)]
            stages.append(nn.Sequential(*parts))
            channels = width
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


for _depth in (20, 32, 44, 56, 110):
    models.register(f"resnet{_depth}")(partial(CifarResNet, (_depth - 2) // 6))


@models.register("vgg16_bn")
class VGG16(nn.Module):
    """VGG-16 with batch norm and one linear layer, for small images (14,728,266 parameters at 10 classes).

    `hidden` adds a linear layer of so many features before the last, as in the network of HRank and CHIP (512).
    """

    WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)

    def __init__(
        self, *, hidden: int | None = None, input_shape: Sequence[int] = (3, 32, 32), classes: int = 10
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = input_shape[0]
        for width in self.WIDTHS:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        head: list[nn.Module] = [nn.Linear(512, classes)]
        if hidden is not None:
            head = [nn.Linear(512, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, classes)]
        self.classifier = nn.Sequential(*head)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def _double(channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c in (channels, width):
        layers += [nn.Conv2d(c, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


@models.register("unet")
class UNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015) with batch norm and average pooling, `levels` deep.

    Shapes:
        input `(N, C, H, W)` with sides that `2 ** levels` divides, output `(N, classes, H, W)`.
    """

    def __init__(
        self, *, width: int = 16, levels: int = 3, input_shape: Sequence[int] = (3, 32, 32), classes: int = 10
    ) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(levels + 1)]
        self.down = nn.ModuleList(
            _double(c, w) for c, w in zip([input_shape[0], *widths[:-2]], widths[:-1], strict=True)
        )
        self.bottom = _double(widths[-2], widths[-1])
        self.rise = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in reversed(widths[:-1]))
        self.up = nn.ModuleList(_double(2 * w, w) for w in reversed(widths[:-1]))
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for part in self.down:
            x = part(x)
            kept.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.bottom(x)
        for rise, part in zip(self.rise, self.up, strict=True):
            x = part(torch.cat([kept.pop(), rise(x)], 1))
        return self.last(x)


@models.register("msd")
class MixedScaleDense(nn.Module):
    """A mixed-scale dense network (Pelt and Sethian 2018): each layer one channel wide, reading all before it.

    Layer `i` has 3x3 kernels of dilation `i % 10 + 1`; a 1x1 convolution of all channels is the output.

    Shapes:
        input `(N, C, H, W)`, output `(N, classes, H, W)`.
    """

    def __init__(self, *, depth: int = 30, input_shape: Sequence[int] = (3, 32, 32), classes: int = 10) -> None:
        super().__init__()
        channels = input_shape[0]
        self.layers = nn.ModuleList(
            nn.Conv2d(channels + i, 1, 3, padding=i % 10 + 1, dilation=i % 10 + 1) for i in range(depth)
        )
        self.last = nn.Conv2d(channels + depth, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x))], 1)
        return self.last(x)
