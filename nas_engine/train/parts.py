"""Micro-batches: a step's gradient formed part by part, where the whole batch does not fit into memory.

The parts are weighted by their size, so that the sum is the gradient of the batch's mean loss; only batch norms see
the difference, whose statistics are those of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Stateful
from search_spaces.errors import ConfigError
from search_spaces.inputs import GraphInput


class Parts:
    """Cuts batches into micro-batches, each of which goes on from the state that its own streams left.

    Made anew for every epoch, which begins without a state.

    Args:
        module: what is trained.
        count: parts of a batch; one of fewer examples has as many parts as examples.
    """

    def __init__(self, module: nn.Module, count: int) -> None:
        self._count = count
        self._stateful = [part for part in module.modules() if isinstance(part, Stateful)]
        self._states = [[part.state for part in self._stateful] for _ in range(count)]

    def of(self, inputs: Any, targets: Tensor) -> Iterator[tuple[Any, Tensor]]:
        """The parts of a batch `(B, ...)`, of sizes that differ by one at most; none where it is empty.

        Raises:
            ConfigError: there are to be parts of a graph, which is one.
        """
        if self._count == 1:
            if len(inputs):
                yield inputs, targets
            return
        if isinstance(inputs, GraphInput):
            raise ConfigError(f"accumulate {self._count} is for batches of many; train a graph in data.parts instead")
        pairs = zip(inputs.tensor_split(self._count), targets.tensor_split(self._count), strict=True)
        for index, (x, y) in enumerate(pairs):
            if not len(x):
                continue
            for part, state in zip(self._stateful, self._states[index], strict=True):
                part.state = state
            yield x, y
            self._states[index] = [part.state for part in self._stateful]


def accumulated(
    backward: Callable[[Any, Tensor], Tensor],
    parts: Iterable[tuple[Any, Tensor]],
    parameters: Callable[[], Iterable[Tensor]],
    batch: int,
) -> Tensor | None:
    """Add the gradients of `sum_i (n_i / batch) * loss_i` over parts i of n_i examples; returns that sum, detached.

    Args:
        backward: adds a part's gradients of its mean loss, which it returns.
        parameters: gives what the gradients are added to; all of them are cleared.
        batch: examples of the whole batch, of which the parts may be a share.
    """
    total, rows = None, 0
    for inputs, targets in parts:
        if rows and rows != len(inputs):
            _scale(parameters(), rows / len(inputs))
        rows = len(inputs)
        loss = backward(inputs, targets) * (rows / batch)
        total = loss if total is None else total + loss
    if rows and rows != batch:
        _scale(parameters(), rows / batch)
    return total


def _scale(parameters: Iterable[Tensor], factor: float) -> None:
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
