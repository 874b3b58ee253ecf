"""`model.onnx`: one file, dynamic batch, input `images` (or `tokens`), output `logits`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.errors import ExportError

from .base import Exporter, input_name, register_exporter
from .torch_export import export_program

if TYPE_CHECKING:
    from torch import Tensor

    from search_spaces import Network

    from .card import Card


@register_exporter("onnx")
class Onnx(Exporter):
    """ONNX, checked by onnx and run by onnxruntime."""

    file = "model.onnx"
    reader = (
        'import onnxruntime\nsession = onnxruntime.InferenceSession("model.onnx")\n'
        '(logits,) = session.run(None, {"images": images.numpy()})'
    )

    def write(self, network: Network, samples: Tensor, card: Card, directory: Path) -> None:
        import onnx
        import torch

        program = torch.onnx.export(
            export_program(network, samples),
            dynamo=True,
            input_names=[input_name(network.graph)],
            output_names=["logits"],
            dynamic_shapes={"tensors": ({0: "batch"},)},
            verbose=False,
        )
        if program is None:
            raise ExportError("torch.onnx.export gave no program; torch 2.11 or newer is needed")
        model = program.model_proto
        _strip(model.graph)
        onnx.checker.check_model(model, full_check=True)
        (directory / self.file).write_bytes(model.SerializeToString())

    def run(self, directory: Path, batches: Sequence[Tensor]) -> list[Tensor]:
        import onnxruntime
        import torch

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(directory / self.file, options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        return [torch.from_numpy(session.run(None, {given.name: batch.numpy()})[0]) for batch in batches]


def _strip(graph: Any) -> None:
    """Drop how torch came to each node: half of a small file, and names of the exporter's own files."""
    for thing in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del thing.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    _strip(inner)
