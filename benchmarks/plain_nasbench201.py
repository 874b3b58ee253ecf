"""A plain NAS-Bench-201 executor to compare with: each edge a module of its own, every edge run, no graph.

What a supernet of this space looks like when it is written directly in torch: activations are recomputed on each
edge, dead edges are computed, memory is in torch's default order.
"""

from __future__ import annotations

from torch import Tensor, nn

from search_spaces.nasbench201 import EDGES, OPERATIONS


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul(0.0)


def operation(name: str, channels: int) -> nn.Module:
    match name:
        case "none":
            return Zero()
        case "skip_connect":
            return nn.Identity()
        case "avg_pool_3x3":
            return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    kernel = int(name[-1])
    convolution = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(channels))


class Cell(nn.Module):
    """All operations on all edges; a path picks one an edge."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleList(nn.ModuleList(operation(o, channels) for o in OPERATIONS) for _ in EDGES)

    def forward(self, x: Tensor, path: list[int]) -> Tensor:
        nodes = [x]
        for target in (1, 2, 3):
            terms = [self.edges[i][path[i]](nodes[s]) for i, (s, t) in enumerate(EDGES) if t == target]
            nodes.append(sum(terms[1:], terms[0]))
        return nodes[-1]


class Reduction(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels

        def block(inputs: int, stride: int) -> nn.Module:
            convolution = nn.Conv2d(inputs, wide, 3, stride=stride, padding=1, bias=False)
            return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(wide))

        self.main = nn.Sequential(block(channels, 2), block(wide, 1))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(channels, wide, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.shortcut(x)


class PlainSupernet(nn.Module):
    """Stem, three stages of cells with reductions between, head."""

    def __init__(self, channels: int = 16, cells: int = 5, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.layers = nn.ModuleList()
        for stage in range(3):
            if stage:
                self.layers.append(Reduction(channels * 2 ** (stage - 1)))
            self.layers.extend(Cell(channels * 2**stage) for _ in range(cells))
        wide = channels * 4
        self.head = nn.Sequential(nn.BatchNorm2d(wide), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear = nn.Linear(wide, classes)

    def forward(self, x: Tensor, path: list[int]) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x, path) if isinstance(layer, Cell) else layer(x)
        return self.linear(self.head(x))
