"""A network whose units and blocks can be dimmed: what criteria and masks look through.

Each place that reads units multiplies them by their gates. At 1 nothing happens, at 0 the network is exactly the one
that is left after cutting, and the derivative by a gate is the unit's first-order importance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from ..network import Network, Step, plan
from .units import Coupling, Edge


class Gated:
    """Runs a network with gates.

    Args:
        network: of the coupling's graph; it stays as it is, and in the mode that it is in.
    """

    def __init__(self, network: Network, coupling: Coupling) -> None:
        self.network, self.coupling = network, coupling
        self._plan = plan(coupling.graph, network._call)
        self._edges: dict[str, list[Edge]] = defaultdict(list)
        for edge in coupling.edges:
            self._edges[edge.node].append(edge)
        self._sums = {block.sum: (block.branch, i) for i, block in enumerate(coupling.blocks)}
        self._index: dict[tuple[int, torch.device], Tensor] = {}

    def __call__(self, inputs: Tensor, gates: Tensor | None = None, blocks: Tensor | None = None) -> Tensor:
        """Outputs for inputs `(B, ...)`.

        Args:
            gates: `(units,)`, or `(B, units)` for gates of each example; all 1 if left out.
            blocks: `(blocks,)` or `(B, blocks)` for the removable branches.
        """
        values: list[Any] = [None] * (len(self._plan.steps) + len(self._plan.inputs))
        values[self._plan.inputs[0]] = inputs
        for step in self._plan.steps:
            values[step.output] = self._step(step, values, _extended(gates), blocks)
            for register in step.free:
                values[register] = None
        return values[self._plan.outputs[0]]

    def values(
        self, inputs: Tensor, names: Collection[str], gates: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Outputs, and the values `(B, *node.shape)` of the nodes of these names, in the autograd graph."""
        values: list[Any] = [None] * (len(self._plan.steps) + len(self._plan.inputs))
        values[self._plan.inputs[0]] = inputs
        wanted = set(names)
        found: dict[str, Tensor] = {n.name: inputs for n in self.coupling.graph.inputs if n.name in wanted}
        for step in self._plan.steps:
            values[step.output] = self._step(step, values, _extended(gates), None)
            if step.node.name in wanted:
                found[step.node.name] = values[step.output]
            for register in step.free:
                values[register] = None
        return values[self._plan.outputs[0]], found

    def tail(self, inputs: Tensor, group: int, gates: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """The network after the places that read a group, as a function of gates.

        What lies before the first of them is run once, here, with `gates` `(units,)`. The function takes `(units,)`, or
        `(R * B, units)` for R copies of the batch, copy by copy, and gives outputs `(B, ...)` or `(R * B, ...)`.
        """
        members = torch.from_numpy(self.coupling.groups[group].units)
        touched: set[int] = set()
        follows = set(self._plan.inputs)  # of examples; other values (weights) are the same for all of them
        for step in self._plan.steps:
            if follows & set(step.inputs):
                follows.add(step.output)
            reads = any(torch.isin(torch.from_numpy(e.units), members).any() for e in self._edges[step.node.name])
            if reads or touched & set(step.inputs):
                touched.add(step.output)
        values: list[Any] = [None] * (len(self._plan.steps) + len(self._plan.inputs))
        values[self._plan.inputs[0]] = inputs
        rest = [step for step in self._plan.steps if step.output in touched]
        needed = {register for step in rest for register in step.inputs} - touched
        for step in self._plan.steps:
            if step.output not in touched:
                values[step.output] = self._step(step, values, _extended(gates), None)
        held = {register: values[register] for register in needed}
        size = len(inputs)

        def run(gates: Tensor) -> Tensor:
            copies = len(gates) // size if gates.dim() == 2 else 1
            state = (
                dict(held) if copies == 1 else {r: _copies(v, copies) if r in follows else v for r, v in held.items()}
            )
            extended = _extended(gates)
            for step in rest:
                state[step.output] = self._step(step, state, extended, None)
            return state[self._plan.outputs[0]]

        return run

    def _step(self, step: Step, values: Any, gates: Tensor | None, blocks: Tensor | None) -> Any:
        given = [values[i] for i in step.inputs]
        if gates is not None:
            for edge in self._edges.get(step.node.name, ()):
                given[edge.position] = given[edge.position] * self._dimmer(edge, gates, given[edge.position])
        if blocks is not None and step.node.name in self._sums:
            branch, i = self._sums[step.node.name]
            gate = blocks[..., i]
            shape = (-1, *(1,) * (given[branch].dim() - 1)) if gate.dim() else ()
            given[branch] = given[branch] * gate.reshape(shape)
        return step.call(*given)

    def _dimmer(self, edge: Edge, gates: Tensor, value: Tensor) -> Tensor:
        """The gates of an edge, shaped to multiply the value that it reads."""
        key = id(edge), gates.device
        if key not in self._index:
            self._index[key] = torch.tensor(edge.units, device=gates.device) % gates.shape[-1]
        shape = [1] * value.dim()
        shape[edge.axis + 1] = len(edge.units)
        if gates.dim() == 2:
            shape[0] = len(gates)
        return gates.index_select(-1, self._index[key]).reshape(shape)


def _extended(gates: Tensor | None) -> Tensor | None:
    """Gates with a 1 at the end, which is what channels that are in no unit are multiplied by."""
    if gates is None:
        return None
    return torch.cat([gates, gates.new_ones((*gates.shape[:-1], 1))], -1)


def _copies(value: Any, copies: int) -> Any:
    """A value `(B, ...)` repeated for copies of the batch."""
    return value.repeat(copies, *(1,) * (value.dim() - 1))
