"""`model.onnx`: one file, a dynamic batch or graphs of any size, inputs by their names, output `logits`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.errors import ExportError

from .base import Exporter, register_exporter
from .inputs import ports
from .torch_export import export_program, unfollowed

if TYPE_CHECKING:
    from torch import Tensor

    from search_spaces import Graph, Network

    from .card import Card
    from .inputs import Given


@register_exporter("onnx")
class Onnx(Exporter):
    """ONNX, checked by onnx and run by onnxruntime."""

    file = "model.onnx"

    def write(self, network: Network, samples: Given, card: Card, directory: Path) -> None:
        import onnx
        import torch

        taken = ports(network.graph)
        program = torch.onnx.export(
            export_program(network, samples),
            dynamo=True,
            input_names=[port.name for port in taken],
            output_names=["logits"],
            dynamic_shapes={"tensors": tuple(dict(port.free) for port in taken)},
            verbose=False,
        )
        if program is None:
            raise ExportError("torch.onnx.export gave no program; torch 2.11 or newer is needed")
        model = program.model_proto
        _strip(model.graph)
        onnx.checker.check_model(model, full_check=True)
        (directory / self.file).write_bytes(model.SerializeToString())

    def run(self, directory: Path, batches: Sequence[Given]) -> list[Tensor]:
        import onnxruntime
        import torch

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(directory / self.file, options, providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]
        fed = ({name: t.numpy() for name, t in zip(names, batch, strict=True)} for batch in batches)
        return [torch.from_numpy(session.run(None, feed)[0]) for feed in fed]

    @classmethod
    def refuses(cls, graph: Graph) -> str:
        return unfollowed(graph)

    @classmethod
    def reader(cls, names: Sequence[str]) -> str:
        feed = ", ".join(f'"{name}": {name}.numpy()' for name in names)
        return (
            'import onnxruntime\nsession = onnxruntime.InferenceSession("model.onnx")\n'
            f"(logits,) = session.run(None, {{{feed}}})"
        )


def _strip(graph: Any) -> None:
    """Drop how torch came to each node: half of a small file, and names of the exporter's own files."""
    for thing in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del thing.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    _strip(inner)
