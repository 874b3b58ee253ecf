"""`model.pt2`: a torch.export program with a dynamic batch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .base import Exporter, register_exporter

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from search_spaces import Network

    from .card import Card


@register_exporter("torch_export")
class TorchExport(Exporter):
    """A torch.export program, for AOTInductor, ExecuTorch and C++."""

    file = "model.pt2"
    reader = 'import torch\nnetwork = torch.export.load("model.pt2").module()\nlogits = network(images)'

    def write(self, network: Network, samples: Tensor, card: Card, directory: Path) -> None:
        import torch

        memory = io.BytesIO()  # torch tells a full disk as a failed write of its own; a plain file tells it as such
        torch.export.save(export_program(network, samples), memory)
        (directory / self.file).write_bytes(memory.getvalue())

    def run(self, directory: Path, batches: Sequence[Tensor]) -> list[Tensor]:
        import torch

        network = torch.export.load(directory / self.file).module()
        with torch.inference_mode():
            return [network(batch) for batch in batches]


def export_program(network: Network, samples: Tensor) -> ExportedProgram:
    """The network as a program for batches of any size from 1.

    The example has two images, because torch.export takes a size of one for a constant. Stack traces are taken
    out: they hold paths of the machine that exported.
    """
    import torch

    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (samples[:2].contiguous(),), dynamic_shapes={"tensors": ({0: batch},)})
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program
