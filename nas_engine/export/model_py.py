"""`model.py`: plain source, checked in a process that cannot import this project."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.errors import ExportError

from .base import Exporter, register_exporter

if TYPE_CHECKING:
    from torch import Tensor

    from search_spaces import Network

    from .card import Card
    from .inputs import Given

_STRANGER = Path(__file__).with_name("stranger.py")
_PATIENCE = 600  # seconds; a busy machine takes half a minute to import torch


@register_exporter("model.py")
class ModelPy(Exporter):
    """PyTorch source that needs torch alone, and for graphs PyTorch Geometric."""

    file = "model.py"

    def write(self, network: Network, samples: Given, card: Card, directory: Path) -> None:
        from .source import model_source  # imports torch

        (directory / self.file).write_text(model_source(network.graph, card), encoding="utf-8")

    def run(self, directory: Path, batches: Sequence[Given]) -> list[Tensor]:
        import torch

        with tempfile.TemporaryDirectory() as folder:
            given, got = Path(folder) / "inputs.pt", Path(folder) / "logits.pt"
            torch.save(list(batches), given)
            paths = [str(path.resolve()) for path in (_STRANGER, directory, given, got)]
            ended = subprocess.run(
                [sys.executable, "-I", *paths],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=False,
            )
            if ended.returncode:
                lines = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
                raise ExportError(f"form 'model.py' does not run by itself: {lines[-1]}")
            logits: list[Tensor] = torch.load(got, weights_only=True)
            return logits

    @classmethod
    def reader(cls, names: Sequence[str]) -> str:
        return f"from model import load\nnetwork = load()\nlogits = network({', '.join(names)})"
