"""What is said of modules that torch.fx cannot follow: the line, and what to do."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from search_spaces import GraphError, trace
from search_spaces.tracing.recorder import record

HERE = Path(__file__).name
IMAGES = torch.zeros(2, 3, 8, 8)


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Selecting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0]


class Misfit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.first = Undecided(), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(self.inner(x))


@pytest.mark.parametrize(
    ("module", "code", "advice"),
    [
        (Undecided(), "return x if x.sum\\(\\) > 0 else -x", "torch.where"),
        (Selecting(), "return x\\[x > 0\\]", "torch.where"),
        (Misfit(), "return self.last\\(x\\)", "inputs of the shape that the module takes"),
    ],
)
def test_the_line_that_stops_it_is_named(module: nn.Module, code: str, advice: str) -> None:
    with pytest.raises(GraphError, match=rf"cannot follow {type(module).__name__} .*{HERE}:\d+ `{code}`\); .*{advice}"):
        trace(module, IMAGES)


def test_calls_that_are_kept_whole_say_why() -> None:
    kept = record(Outer(), [((2, 3, 8, 8), torch.float32, torch.device("cpu"))]).kept
    assert list(kept) == ["inner"]
    assert f"{HERE}:" in kept["inner"]
    assert [node.operator for node in trace(Outer(), IMAGES)] == ["input", "other", "conv2d"]


def test_torch_prints_no_traceback_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.level
    with pytest.raises(GraphError):
        trace(Misfit(), IMAGES)
    assert not caplog.records
    assert logger.level == before
