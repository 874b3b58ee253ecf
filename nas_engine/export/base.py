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
    from .inputs import Given


class Exporter(ABC):
    """One form of a network.

    A bundle makes one exporter a form, calls `write` once and then `run` once, and compares what `run` gives with
    the network. Whatever they raise is told as an `ExportError` that names the form; files need no cleaning up.

    Class attributes:
        name: registered name, as `export.formats` lists it.
        file: what it writes inside the bundle.
    """

    name: ClassVar[str] = ""
    file: ClassVar[str] = ""

    @abstractmethod
    def write(self, network: Network, samples: Given, card: Card, directory: Path) -> None:
        """Write `file` into the directory.

        The network is on the CPU and in evaluation mode; `weights.safetensors` and `architecture.json` are there
        already; `samples` is what the network is called with: two or more images `(N, C, H, W)`, or a graph.
        """

    @abstractmethod
    def run(self, directory: Path, batches: Sequence[Given]) -> list[Tensor]:
        """Load the form as a stranger would, once, and give its output for each of what it is called with."""

    @classmethod
    def refuses(cls, graph: Graph) -> str:
        """Why this form cannot hold a network, in a few words; empty where it can."""
        return ""

    @classmethod
    def reader(cls, names: Sequence[str]) -> str:
        """At most three lines that load it inside the bundle's directory and run it on variables of these names."""
        return ""


exporters: Registry[type[Exporter]] = Registry("export format", ExportError)
register_exporter = exporters.named
"""Class decorator: files an `Exporter` under `name`."""


def refused(formats: Sequence[str], graph: Graph) -> dict[str, str]:
    """Those of some forms that cannot hold a network of this graph, each with the reason."""
    reasons = {name: exporters[name].refuses(graph) for name in formats}
    return {name: reason for name, reason in reasons.items() if reason}
