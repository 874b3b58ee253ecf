"""The contract of exporters and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from search_spaces.errors import ExportError
from search_spaces.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from search_spaces import Graph, Network

    from .card import Card


class Exporter(ABC):
    """One form of a network.

    A bundle makes one exporter a form, calls `write` once and then `run` once, and compares what `run` gives with
    the network. Whatever they raise is told as an `ExportError` that names the form; files need no cleaning up.

    Class attributes:
        name: registered name, as `export.formats` lists it.
        file: what it writes inside the bundle.
        reader: at most three lines that load it inside the bundle's directory and run it on `images`, for the card,
            which calls them `tokens` where whole numbers are taken.
    """

    name: ClassVar[str] = ""
    file: ClassVar[str] = ""
    reader: ClassVar[str] = ""

    @abstractmethod
    def write(self, network: Network, samples: Tensor, card: Card, directory: Path) -> None:
        """Write `file` into the directory.

        The network is on the CPU and in evaluation mode; `weights.safetensors` and `architecture.json` are there
        already; `samples` are `(N, C, H, W)`, N >= 2, float32, or whatever the network takes.
        """

    @abstractmethod
    def run(self, directory: Path, batches: Sequence[Tensor]) -> list[Tensor]:
        """Load the form as a stranger would, once, and give its output for each batch of images `(N, C, H, W)`."""


def input_dtype(graph: Graph) -> str:
    """torch's name of the type of numbers that a bundle takes: the graph's whole numbers, or float32."""
    dtype = str(graph.inputs[0].attributes["dtype"])
    return dtype if "int" in dtype else "float32"


def input_name(graph: Graph) -> str:
    """What the input of a bundle is called: `images`, or `tokens` where it takes whole numbers."""
    return "images" if input_dtype(graph) == "float32" else "tokens"


exporters: Registry[type[Exporter]] = Registry("export format", ExportError)
register_exporter = exporters.named
"""Class decorator: files an `Exporter` under `name`."""
