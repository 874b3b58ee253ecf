"""Training a network that is given as a graph, such as a baseline, by the recipe that candidates of a search have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from search_spaces import Graph, Network
from search_spaces.errors import RunError

from ..files import read_torch
from .candidate import CandidateResult, Training, found_results, trained_on
from .programs import NetworkProgram


class Given(Training):
    """A request to train one network.

    Attributes:
        graph: file of its graph, as `Graph.to_json` writes it.
        initial: safetensors that it begins with; None for fresh weights of the engine.
    """

    graph: Path
    initial: Path | None = None


def train_given(request: Given) -> Iterator[CandidateResult]:
    """Train, yielding every epoch; those that the checkpoint holds come first, as `train_candidate` has them.

    Raises:
        DivergedError: the loss is no longer a number.
        DataError: the data cannot be read.
    """
    torch.set_num_threads(request.threads)
    found = found_results(request, lambda: load_given(request.graph, request.checkpoint))
    yield from found
    torch.manual_seed(request.trial_seed)
    network = given_network(request.graph)
    if request.initial is not None:
        from safetensors.torch import load_file

        network.load_state_dict(load_file(request.initial))
    yield from trained_on(request, NetworkProgram(network, request.optimizer.label_smoothing), found)


def given_network(graph: Path) -> Network:
    """A fresh network of a graph in a file."""
    try:
        text = graph.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunError(f"no network at {graph}; start the run again with its command") from None
    return Network(Graph.from_json(text))


def load_given(graph: Path, checkpoint: Path) -> Network:
    """The trained network of a request, in evaluation mode."""
    network = given_network(graph)
    try:
        network.load_state_dict(read_torch(checkpoint)["module"])
    except FileNotFoundError:
        raise RunError(f"no weights at {checkpoint}; start the run again with its command") from None
    return network.eval()
