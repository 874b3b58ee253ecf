"""Learning from a teacher: the loss by hand, its ends, what is left alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nas_engine.config import Optimizer
from nas_engine.data import load_data
from nas_engine.train import DistilledProgram, NetworkProgram, train
from nas_engine.train.programs import softened
from search_spaces.errors import ConfigError


def test_the_loss_by_hand() -> None:
    """Teacher odds of e^2 : 1 and ours of 1 : 1 at T = 2, so softened odds of e : 1 against 1 : 1."""
    p = math.e / (1 + math.e)
    divergence = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    ours, theirs = torch.zeros(3, 2), torch.tensor([[2.0, 0.0]]).expand(3, 2)
    assert float(softened(ours, theirs, 2.0)) == pytest.approx(4 * divergence, rel=1e-5)
    assert float(softened(theirs, theirs, 2.0)) == pytest.approx(0, abs=1e-6)
    texts = softened(ours.reshape(1, 3, 2), theirs.reshape(1, 3, 2), 2.0)
    assert float(texts) == pytest.approx(4 * divergence, rel=1e-5)


def student(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def gradient(program: NetworkProgram) -> tuple[float, torch.Tensor]:
    x, y = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8)
    loss = program.backward(x, y, 0, 0)
    found = next(program.module.parameters()).grad
    assert found is not None
    return float(loss), found


def test_a_share_of_nothing_is_learning_by_labels() -> None:
    loss, slope = gradient(DistilledProgram(student(0), student(1), alpha=0.0, label_smoothing=0.1))
    plain, wanted = gradient(NetworkProgram(student(0), 0.1))
    assert loss == pytest.approx(plain)
    assert torch.allclose(slope, wanted)


def test_a_share_of_all_follows_the_teacher_alone() -> None:
    loss, slope = gradient(DistilledProgram(student(1), student(1), alpha=1.0))
    assert loss == pytest.approx(0, abs=1e-5)
    assert slope.abs().max() < 1e-6
    assert gradient(DistilledProgram(student(0), student(1), alpha=1.0))[1].abs().max() > 1e-3


def test_a_student_comes_near_its_teacher() -> None:
    data = load_data("digits", limit=300)
    teacher = nn.Sequential(student(1), nn.Dropout(0.5), nn.BatchNorm1d(10))
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    module = student(0)
    x = data.samples(64)

    def distance() -> float:
        with torch.no_grad():
            return float(softened(module(x), teacher.eval()(x), 4.0))

    first = distance()
    program = DistilledProgram(module, teacher.train(), alpha=1.0)
    list(train(program, data, Optimizer(batch_size=32), epochs=5, seed=0))
    assert not teacher.training
    assert distance() < 0.5 * first
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())


def test_shares_and_temperatures_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="from 0 to 1; got 1.5"):
        DistilledProgram(student(0), student(1), alpha=1.5)
    with pytest.raises(ConfigError, match="above 0; got 0"):
        DistilledProgram(student(0), student(1), temperature=0)
