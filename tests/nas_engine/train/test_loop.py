"""The training loop: it learns, resumes exactly, and tells a divergence."""

from __future__ import annotations

from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_engine.config import Optimizer
from nas_engine.data import DataSplits, load_data
from nas_engine.evaluate import accuracy
from nas_engine.train import Epoch, NetworkProgram, Stepped, finished_epochs, train
from nas_engine.train.loop import DivergedError, learning_rate, make_optimizer
from search_spaces import GraphBuilder, Network


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_data("digits", limit=400)


def small() -> Network:
    torch.manual_seed(1)
    g = GraphBuilder((1, 8, 8))
    x = g.add("conv_bn_act", g.input, name="a", out_channels=8)
    x = g.add("conv_bn_act", x, name="b", out_channels=16, stride=2)
    return Network(g.build(g.add("classifier", x, name="head", classes=10)))


def fit(
    network: Network,
    data: DataSplits,
    epochs: int,
    checkpoint: Path | None = None,
    of: int = 4,
    optimizer: Optimizer | None = None,
) -> list[Epoch]:
    walk = train(
        NetworkProgram(network),
        data,
        optimizer or Optimizer(batch_size=32),
        epochs=of,
        seed=3,
        augment=data.augment,
        checkpoint=checkpoint,
    )
    return list(islice(walk, epochs))


def test_it_learns(digits: DataSplits) -> None:
    network = small()
    before = accuracy(network, digits.validation, digits.normaliser)
    epochs = fit(network, digits, 20, of=20)
    after = accuracy(network, digits.validation, digits.normaliser)
    assert [e.epoch for e in epochs] == list(range(1, 21))
    assert epochs[-1].loss < epochs[0].loss
    assert after.accuracy > max(0.6, before.accuracy)
    assert after.images == len(digits.validation)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_resumed_training_ends_as_an_undisturbed_one(digits: DataSplits, tmp_path: Path, name: str) -> None:
    settings = Optimizer.model_validate({"name": name, "batch_size": 32})
    whole = small()
    fit(whole, digits, 4, optimizer=settings)
    broken = small()
    fit(broken, digits, 2, tmp_path / "c.pt", optimizer=settings)  # killed after two of four epochs
    resumed = small()
    later = fit(resumed, digits, 4, tmp_path / "c.pt", optimizer=settings)
    assert [e.epoch for e in later] == [3, 4]
    assert [e.epoch for e in finished_epochs(tmp_path / "c.pt")] == [1, 2, 3, 4]
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_finished_training_is_not_repeated(digits: DataSplits, tmp_path: Path) -> None:
    fit(small(), digits, 2, tmp_path / "c.pt", of=2)
    again = small()
    assert fit(again, digits, 2, tmp_path / "c.pt", of=2) == []
    state = torch.load(tmp_path / "c.pt", weights_only=True)["module"]
    assert all(torch.equal(v, state[k]) for k, v in again.state_dict().items())


class Counting(NetworkProgram):
    """Counts steps, and shrinks one weight by a number that grows with them."""

    steps = 0

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__(module)
        self.calls: list[tuple[str, int, int]] = []
        self.level = torch.zeros(3)

    def before_step(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
        self.calls.append(("before", epoch, step))
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        assert gradients
        self.held = next(self.module.parameters()).detach().clone()

    def after_step(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
        self.calls.append(("after", epoch, step))
        first = next(self.module.parameters())
        assert not torch.equal(first, self.held)
        self.steps += 1
        self.level += 0.1
        with torch.no_grad():
            first.mul_(1 - 0.01 * self.level[0])

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "level": self.level}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.level = state["steps"], state["level"]


def test_a_program_may_act_around_steps_and_keep_a_state(digits: DataSplits, tmp_path: Path) -> None:
    def going(epochs: int, checkpoint: Path | None) -> Counting:
        program = Counting(small())
        assert isinstance(program, Stepped)
        walk = train(program, digits, Optimizer(batch_size=64), epochs=3, seed=3, checkpoint=checkpoint)
        list(islice(walk, epochs))
        return program

    whole = going(3, None)
    going(1, tmp_path / "c.pt")
    resumed = going(3, tmp_path / "c.pt")
    each = whole.steps // 3
    assert whole.calls[:3] == [("before", 0, 0), ("after", 0, 0), ("before", 0, 1)]
    assert resumed.calls == whole.calls[2 * each :]
    assert resumed.steps == whole.steps == 3 * each
    assert torch.equal(resumed.level, whole.level)
    for a, b in zip(whole.module.parameters(), resumed.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_other_programs_are_left_alone(digits: DataSplits, tmp_path: Path) -> None:
    assert not isinstance(NetworkProgram(small()), Stepped)
    fit(small(), digits, 1, tmp_path / "c.pt")
    assert "program" not in torch.load(tmp_path / "c.pt", weights_only=True)


def test_another_seed_trains_another_network(digits: DataSplits) -> None:
    a, b = small(), small()
    list(train(NetworkProgram(a), digits, Optimizer(), epochs=1, seed=0))
    list(train(NetworkProgram(b), digits, Optimizer(), epochs=1, seed=1))
    assert not torch.equal(a.get_submodule("a.conv").weight, b.get_submodule("a.conv").weight)


def test_divergence_is_told(digits: DataSplits) -> None:
    wild = Optimizer(learning_rate=1e30, clip_norm=None, warmup_epochs=0)
    with pytest.raises(DivergedError, match="learning rate"):
        list(train(NetworkProgram(small()), digits, wild, epochs=3, seed=0))


def test_norms_and_biases_do_not_decay() -> None:
    decayed, free = make_optimizer(small(), Optimizer(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in free["params"])


def test_the_rate_warms_up_and_anneals_to_zero() -> None:
    settings = Optimizer(learning_rate=1.0, warmup_epochs=1.0)
    rates = [learning_rate(settings, e / 10, 10) for e in range(101)]
    assert rates[0] < 0.05
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates.index(max(rates)) == pytest.approx(10, abs=1)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    assert all(a >= b for a, b in pairwise(rates[11:]))


def test_adam_is_that_of_torch_with_momentum_as_its_first_moment() -> None:
    settings = Optimizer.model_validate({"name": "adam", "momentum": 0.8, "weight_decay": 0.1})
    optimizer = make_optimizer(small(), settings)
    assert isinstance(optimizer, torch.optim.Adam)
    assert not isinstance(optimizer, torch.optim.AdamW)
    decayed, free = optimizer.param_groups
    assert (settings.learning_rate, decayed["lr"], decayed["betas"]) == (1e-3, 1e-3, (0.8, 0.999))
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_a_rate_that_is_given_counts_for_adam_too() -> None:
    assert Optimizer.model_validate({"name": "adam", "learning_rate": 0.1}).learning_rate == 0.1
    assert Optimizer().learning_rate == 0.1
