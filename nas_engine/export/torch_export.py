"""`model.pt2`: a torch.export program with a dynamic batch, or for graphs of any size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .base import Exporter, register_exporter
from .inputs import example, ports, sizes

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from search_spaces import Graph, Network

    from .card import Card
    from .inputs import Given


_SOUGHT = frozenset({"graph_equilibrium"})
"""Operators whose work depends on the numbers."""


@register_exporter("torch_export")
class TorchExport(Exporter):
    """A torch.export program, for AOTInductor, ExecuTorch and C++."""

    file = "model.pt2"

    def write(self, network: Network, samples: Given, card: Card, directory: Path) -> None:
        import torch

        memory = io.BytesIO()  # torch tells a full disk as a failed write of its own; a plain file tells it as such
        torch.export.save(export_program(network, samples), memory)
        (directory / self.file).write_bytes(memory.getvalue())

    def run(self, directory: Path, batches: Sequence[Given]) -> list[Tensor]:
        import torch

        network = torch.export.load(directory / self.file).module()
        with torch.inference_mode():
            return [network(*batch) for batch in batches]

    @classmethod
    def refuses(cls, graph: Graph) -> str:
        return unfollowed(graph)

    @classmethod
    def reader(cls, names: Sequence[str]) -> str:
        return f'import torch\nnetwork = torch.export.load("model.pt2").module()\nlogits = network({", ".join(names)})'


def unfollowed(graph: Graph) -> str:
    """Why a program cannot do what a network of this graph does, empty where it can."""
    found = next((node for node in graph.simplify() if node.operator in _SOUGHT), None)
    if found is None:
        return ""
    return f"node {found.name!r} iterates until its result is near enough, and a program has as many steps as it has"


def export_program(network: Network, samples: Given) -> ExportedProgram:
    """The network as a program for batches of any size from 1, or for graphs of any number of nodes and edges.

    It is exported on a small example, none of whose sizes is 0 or 1, which torch.export takes for constants. Stack
    traces are taken out: they hold paths of the machine that exported.
    """
    import torch

    taken = ports(network.graph)
    dims = {name: torch.export.Dim(name, min=1) for name in sizes(taken)}
    shapes = tuple({axis: dims[name] for axis, name in port.free.items()} for port in taken)
    program = torch.export.export(network, example(samples, taken), dynamic_shapes={"tensors": shapes})
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program
