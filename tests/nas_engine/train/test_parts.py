"""Micro-batches: the gradient of the whole batch, states of their own streams, whole batches for who looks at them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas_engine.compress.schedules import ScheduledProgram
from nas_engine.config import Optimizer, make_config
from nas_engine.data import load_data
from nas_engine.train import NetworkProgram, train
from nas_engine.train.loop import Observing
from nas_engine.train.parts import Parts, accumulated
from search_spaces import Stateful
from search_spaces.errors import ConfigError


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10)).double()


@pytest.mark.parametrize(("batch", "count"), [(12, 1), (12, 3), (13, 4), (5, 8)])
def test_the_gradient_is_that_of_the_whole_batch(batch: int, count: int) -> None:
    net = network()
    x, y = torch.randn(batch, 1, 8, 8, dtype=torch.float64), torch.randint(0, 10, (batch,))
    program, sizes = NetworkProgram(net), []

    def backward(inputs: Tensor, targets: Tensor) -> Tensor:
        sizes.append(len(inputs))
        return program.backward(inputs, targets, 0, 0)

    loss = accumulated(backward, Parts(net, count).of(x, y), net.parameters, batch)
    found = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    assert sum(sizes) == batch
    assert len(sizes) == min(count, batch)
    assert max(sizes) - min(sizes) <= 1
    net.zero_grad()
    expected = program.backward(x, y, 0, 0)
    assert loss is not None
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    for ours, theirs in zip(found, (p.grad for p in net.parameters()), strict=True):
        assert theirs is not None
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-14)


def test_a_share_weighs_as_it_is_large() -> None:
    """The parts may be a share of the batch: of two halves the sum is the whole."""
    net = network()
    x, y = torch.randn(10, 1, 8, 8, dtype=torch.float64), torch.randint(0, 10, (10,))
    program, grads, losses = NetworkProgram(net), [], []
    for share in (slice(0, 3), slice(3, 10), slice(0, 10)):
        net.zero_grad()
        pairs = Parts(net, 2).of(x[share], y[share])
        losses.append(accumulated(lambda a, b: program.backward(a, b, 0, 0), pairs, net.parameters, 10))
        grads.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    assert torch.allclose(grads[0] + grads[1], grads[2], rtol=1e-10, atol=1e-14)
    assert float(losses[0] + losses[1]) == pytest.approx(float(losses[2]), rel=1e-12)  # type: ignore[operator]


def test_no_share_is_no_loss() -> None:
    net = network()
    pairs = Parts(net, 1).of(torch.ones(0, 1, 8, 8), torch.ones(0).long())
    assert accumulated(lambda a, b: pytest.fail("there is nothing to train on"), pairs, net.parameters, 4) is None
    assert all(p.grad is None for p in net.parameters())


def test_streams_keep_their_states() -> None:
    class Counter(Stateful):
        """Adds up what each stream has seen."""

        def forward(self, x: Tensor) -> Tensor:
            (seen,) = self.begin(x, 1)
            self.end(seen + x.sum(1, keepdim=True))
            return seen

    counter = Counter()
    counter.carry = True
    windows = [torch.arange(5.0)[:, None] * 10**step for step in range(3)]  # of five streams
    parts = Parts(counter, 2)
    seen = [torch.cat([counter(x) for x, _ in parts.of(w, w)]).flatten().tolist() for w in windows]
    assert seen == [[0.0] * 5, [0, 1, 2, 3, 4], [0, 11, 22, 33, 44]]


def test_programs_see_batches_whole_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Onlooker(NetworkProgram):
        def __init__(self, module: nn.Module) -> None:
            super().__init__(module)
            self.said: list[tuple[str, int, int]] = []

        def observe(self, inputs: Tensor, targets: Tensor, epoch: int, step: int) -> None:
            assert all(p.grad is None for p in self.module.parameters())
            self.said.append(("seen", step, len(inputs)))

        def backward(self, inputs: Tensor, targets: Tensor, epoch: int, step: int) -> Tensor:
            self.said.append(("backward", step, len(inputs)))
            return super().backward(inputs, targets, epoch, step)

    program = Onlooker(network().float())
    assert isinstance(program, Observing)
    assert issubclass(ScheduledProgram, Observing)
    list(train(program, load_data("digits", limit=100), Optimizer(batch_size=32, accumulate=2), epochs=1, seed=0))
    assert program.said[:6] == [
        ("seen", 0, 32),
        ("backward", 0, 16),
        ("backward", 0, 16),
        ("seen", 1, 32),
        ("backward", 1, 16),
        ("backward", 1, 16),
    ]


def test_batch_norms_alone_tell_parts_from_the_whole(tmp_path: Path) -> None:
    digits = load_data("digits", limit=200)

    def ends(accumulate: int, *norm: nn.Module) -> dict[str, Tensor]:
        torch.manual_seed(1)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), *norm, nn.ReLU(), nn.Linear(12, 10))
        settings = Optimizer(batch_size=32, accumulate=accumulate)
        list(train(NetworkProgram(net), digits, settings, epochs=1, seed=0))
        return net.state_dict()

    def apart(norm: type[nn.Module] | None) -> float:
        whole, parts = (ends(k, *([norm(12)] if norm else [])) for k in (1, 4))
        return max(float((whole[k].double() - v.double()).abs().max()) for k, v in parts.items() if "tracked" not in k)

    assert apart(None) < 1e-5
    assert apart(nn.BatchNorm1d) > 1e-3


def test_more_parts_than_examples_are_refused() -> None:
    with pytest.raises(ConfigError, match="does not make 65 parts"):
        make_config({"search": {"optimizer": {"accumulate": 65}}})
    with pytest.raises(ConfigError, match=r"does not make 80 parts, for supernet.processes times"):
        make_config({"supernet": {"processes": 4, "optimizer": {"accumulate": 20}}})
