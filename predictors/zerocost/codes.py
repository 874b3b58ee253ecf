"""Which units of the rectifiers fire for which image, compared between images while the network runs.

A dispatch mode sees every rectifier that torch executes, whether it is a module, a function or a method. Codes are
compared at once and dropped, so that memory stays that of the forward pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from search_spaces.graph import Graph
from search_spaces.network import Network

_aten = torch.ops.aten
_NAMES = "relu", "leaky_relu", "_prelu_kernel", "elu", "celu", "selu", "silu", "gelu", "hardswish", "mish", "hardtanh"
RECTIFIERS = frozenset(
    getattr(_aten, name).default for stem in _NAMES for name in (stem, f"{stem}_") if hasattr(_aten, name)
)
_CLIPS = frozenset((_aten.hardtanh.default, _aten.hardtanh_.default))  # relu6 is one that begins at 0


class Codes(TorchDispatchMode):
    """While active, compares the binary codes of rectifiers: 1 where the input is above 0.

    Rectifiers are ReLU, ReLU6, leaky ReLU, PReLU, ELU, SELU, CELU, SiLU, GELU, hard swish and Mish; gates between
    two bounds (sigmoid, tanh) have no such code.

    Args:
        images: number of images N; tensors that do not begin with N are passed over.
    """

    def __init__(self, images: int) -> None:
        super().__init__()
        self._images = images
        self._times = 1
        self._total: Tensor | None = None

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if operator in RECTIFIERS and args[0].shape[:1] == (self._images,) and _rectifies(operator, args, kwargs or {}):
            self._add(args[0])  # before the operator runs: it may write over its input
        return operator(*args, **(kwargs or {}))

    def _add(self, x: Tensor) -> None:
        """Add the agreements of one rectifier, from one matrix product.

        With codes c of n units, agreements are `c c' + (1 - c)(1 - c)' = n - r_i - r_j + 2 c c'`, r the sums of codes,
        which stand on the diagonal of `c c'`. Sums of fewer than 2^24 ones are exact in float32.
        """
        fires = torch.empty_like(x, dtype=torch.float32)
        torch.gt(x, 0, out=fires)
        if fires.ndim == 4 and not fires.is_contiguous():  # channels last: flattened in this order nothing is copied
            fires = fires.permute(0, 2, 3, 1)
        fires = fires.reshape(self._images, -1)
        both = (fires @ fires.mT).double()
        ones = both.diagonal()
        added = both.mul(2).sub_(ones).sub_(ones.unsqueeze(1)).add_(fires.shape[1]).mul_(self._times)
        self._total = added if self._total is None else self._total.add_(added)

    def repeated(self, call: Callable[..., Any], times: int) -> Callable[..., Any]:
        """The same function, whose rectifiers count `times` times."""

        def counted(*inputs: Any) -> Any:
            self._times = times
            try:
                return call(*inputs)
            finally:
                self._times = 1

        return counted

    def agreement(self) -> Tensor:
        """`K_H`, float64 `(N, N)`: units of all rectifiers with equal code; zeros where there was no rectifier."""
        if self._total is None:
            return torch.zeros(self._images, self._images, dtype=torch.float64)
        return self._total


def _rectifies(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if operator not in _CLIPS:
        return True
    return (args[1] if len(args) > 1 else kwargs.get("min_val", -1)) == 0


@contextmanager
def counting(codes: Codes, module: nn.Module) -> Iterator[None]:
    """Record codes as the graphs of networks have them.

    A `Network` runs equal functions of one value once, the rectifiers before three convolutions of a node, say. The
    score's definition counts each, and ranks much better for it, so what runs once for k nodes counts k times.
    """
    networks = [(m, m._plan) for m in module.modules() if isinstance(m, Network)]
    try:
        for network, plan in networks:
            times = repetitions(network.graph)
            steps = (replace(s, call=codes.repeated(s.call, times[s.node.name])) for s in plan.steps)
            network._plan = replace(plan, steps=tuple(steps))
        with codes:
            yield
    finally:
        for network, plan in networks:
            network._plan = plan


def repetitions(graph: Graph) -> Counter[str]:
    """How many live nodes of a graph each node of `graph.simplify()` stands for, by name."""
    first: dict[Hashable, str] = {}
    stands_for: dict[str, str] = {}
    times: Counter[str] = Counter()
    for node in graph.inline().live().nodes:
        inputs = tuple(stands_for[name] for name in node.inputs)
        if node.operator == "identity":
            stands_for[node.name] = inputs[0]
            continue
        same = (node.signature, inputs) if node.signature.pure else node.name
        stands_for[node.name] = first.setdefault(same, node.name)
        times[stands_for[node.name]] += 1
    return times
