"""Memory of a step: what the allocator says agrees with what is known, and reversible layers keep it constant."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_engine.config import Optimizer
from nas_engine.gnn import Model, Sizes, model_graph
from nas_engine.gnn.memory import StepMemory, measured_step
from nas_engine.train import NetworkProgram
from search_spaces import Network
from search_spaces.inputs import GraphInput

ADAM = Optimizer(name="adam", batch_size=1, learning_rate=1e-3)
SIZES = Sizes(nodes=400, edges=1000, features=8, edge_features=0, classes=4)


class Squares(nn.Module):
    """Logits by one matrix, after squares that are kept for the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x * self.head.weight.mean()).exp())


def test_what_is_kept_and_held_is_counted_to_the_byte() -> None:
    x, y = torch.randn(1000, 64), torch.zeros(1000, dtype=torch.int64)
    found = measured_step(NetworkProgram(Squares()), ADAM, (x, y), "cpu")
    weights = 4 * 64 * 4
    assert found.kept == 3 * weights + 4  # with both moments and the number of steps
    assert found.held == 1000 * 64 * 4 + 1000 * 4 * 4 + 4  # exp(x), logits, the mean of the weights
    assert found.peak >= found.kept + found.held + weights
    assert found.peak < found.kept + 4 * found.held


def taken(depth: int, connection: str, memory: str) -> StepMemory:
    torch.manual_seed(0)
    network = Network(model_graph(Model(depth=depth, width=16, connection=connection), SIZES))
    network.memory = memory
    batch = GraphInput(torch.randn(1, 400, 8), torch.randint(400, (1, 2, 1000))), torch.zeros(1, 400).long()
    return measured_step(NetworkProgram(network), ADAM, batch, "cpu")


def test_reversible_layers_hold_as_much_at_any_depth() -> None:
    few, many = (taken(depth, "reversible", "reversible") for depth in (2, 12))
    assert many.held == few.held
    plain = [taken(depth, "reversible", "plain").held for depth in (2, 12)]
    assert plain[1] > 3 * plain[0] > 3 * few.held
    checkpointed = [taken(depth, "residual", "checkpoint").held for depth in (2, 12)]
    state = len(torch.get_rng_state())
    assert checkpointed[1] - checkpointed[0] == 10 * (400 * 16 * 4 + state)  # each layer's input
