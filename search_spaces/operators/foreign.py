"""What a traced module does and no operator stands for: kept as a call of that module's own part, and reported."""

from __future__ import annotations

from typing import Any

from .base import Cost, Operator, Shape, register_operator


@register_operator("other")
class Other(Operator):
    """A call that `trace` could not name; it runs where the network is given the traced module as `source`.

    Attributes:
        kind: "module", "function", "method" or "tensor" (a constant too large for the graph).
        target: path of the sub-module, qualified name of the function, name of the method, or name of the tensor.
        size: shape of the output without the batch; of the first one, where there are several.
        arguments, keywords: of the call, as `search_spaces.tracing.foreign` writes them.
        layouts: for each input, (position of the batch, or -1 for none; how many times the batch its size is).
        results: the same for the output, or a tree of them.
        params: learned numbers of the sub-module.
        writes: the call changes its inputs, so it gets copies.
    """

    kind: str
    target: str
    size: tuple[int, ...]
    arguments: tuple[Any, ...] = ()
    keywords: tuple[Any, ...] = ()
    layouts: tuple[tuple[int, int], ...] = ()
    results: tuple[Any, ...] = ()
    params: int = 0
    writes: bool = False

    def shape(self, *inputs: Shape) -> Shape:
        return self.size

    def cost(self, inputs: tuple[Shape, ...], output: Shape) -> Cost:
        return Cost(params=self.params, counted=False)
