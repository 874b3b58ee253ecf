"""Mixed precision: where it is used and refused, what it leaves in float32; tiny networks try it on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nas_engine.config import Optimizer, make_config
from nas_engine.data import load_data
from nas_engine.train import NetworkProgram, loop, supernet_program, train
from nas_engine.train.precision import mixed, working_type
from search_spaces import Supernet, make_space
from search_spaces.errors import ConfigError


class Watched(nn.Module):
    """Keeps the types that its layers compute in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        self.seen: list[torch.dtype] = []
        for layer in self.body:
            layer.register_forward_hook(lambda _, __, y: self.seen.append(y.dtype))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y


def test_cpus_work_in_float32() -> None:
    assert working_type("auto", "cpu") is None
    assert working_type("float32", "cpu") is None
    with pytest.raises(ConfigError, match="slower there than float32"):
        working_type("bfloat16", "cpu")


@pytest.mark.parametrize(("has", "expected"), [(True, torch.bfloat16), (False, None)])
def test_gpus_work_in_bfloat16_where_they_have_it(
    monkeypatch: pytest.MonkeyPatch, has: bool, expected: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has and not including_emulation)
    assert working_type("auto", "cuda") is expected
    assert working_type("float32", "cuda") is None
    if has:
        assert working_type("bfloat16", "cuda:0") is torch.bfloat16
    else:
        with pytest.raises(ConfigError, match="this GPU has no arithmetic for it"):
            working_type("bfloat16", "cuda")


def test_forward_passes_alone_are_in_the_type() -> None:
    net, x = Watched(), torch.randn(8, 1, 8, 8)
    with mixed(net, torch.bfloat16, "cpu"):
        logits = net(x)
        assert not torch.is_autocast_enabled("cpu")  # losses and backward passes are outside
        nn.functional.cross_entropy(logits, torch.arange(8)).backward()
    assert logits.dtype == torch.float32
    assert set(net.seen) == {torch.bfloat16}
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in net.parameters() if p.grad is not None)
    net.seen.clear()
    exact = net.eval()(x)
    assert set(net.seen) == {torch.float32}  # nothing is left of it afterwards
    assert (exact - logits).abs().max() < 0.5


def test_an_error_leaves_nothing_behind() -> None:
    net = Watched()
    with pytest.raises(RuntimeError), mixed(net, torch.bfloat16, "cpu"):
        net(torch.randn(8, 3, 8, 8))
    assert not torch.is_autocast_enabled("cpu")
    assert not net._forward_hooks
    assert not net._forward_pre_hooks


def test_outputs_of_all_kinds_become_float32() -> None:
    class Several(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor], Tensor, str]:
            half = x.bfloat16()
            return half, [half], x.long(), "a"

    net = Several()
    with mixed(net, torch.bfloat16, "cpu"):
        a, (b,), c, d = net(torch.ones(2))
    assert (a.dtype, b.dtype, c.dtype, d) == (torch.float32, torch.float32, torch.int64, "a")


def test_trainings_in_bfloat16_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole loop, with the type that a GPU would have; and with none the module is not touched."""
    digits = load_data("digits", limit=200)
    exact = [e.loss for e in train(NetworkProgram(Watched()), digits, Optimizer(batch_size=32), epochs=3, seed=0)]
    monkeypatch.setattr(loop, "working_type", lambda precision, device: torch.bfloat16)
    net = Watched()
    losses = [e.loss for e in train(NetworkProgram(net), digits, Optimizer(batch_size=32), epochs=3, seed=0)]
    assert set(net.seen) == {torch.bfloat16}
    assert losses != exact
    assert losses == pytest.approx(exact, rel=0.05)
    assert all(v.dtype in (torch.float32, torch.int64) for v in net.state_dict().values())


def test_supernets_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members are slices of the shared weights, which stay in float32."""
    monkeypatch.setattr(loop, "working_type", lambda precision, device: torch.bfloat16)
    settings = make_config({"supernet": {"strategy": "sandwich", "epochs": 1}}).supernet
    torch.manual_seed(0)
    space = make_space("mobile", {"input_shape": (1, 8, 8), "widths": (8, 16), "strides": (1, 2), "depths": (1, 2)})
    net, digits = Supernet(space), load_data("digits", limit=100)
    before = {k: v.clone() for k, v in net.named_parameters()}
    (epoch,) = train(supernet_program(net, 0, settings), digits, Optimizer(batch_size=16), epochs=1, seed=0)
    assert epoch.loss < 10
    assert all(p.dtype == torch.float32 for p in net.parameters())
    assert any(not torch.equal(p, before[k]) for k, p in net.named_parameters())


def test_a_configuration_that_asks_for_it_on_a_cpu_is_refused() -> None:
    for section in ("supernet", "search"):
        with pytest.raises(ConfigError, match=f"{section}.optimizer.precision bfloat16 is for GPUs"):
            make_config({section: {"optimizer": {"precision": "bfloat16"}}})
    asked = make_config({"device": {"name": "cuda"}, "search": {"optimizer": {"precision": "bfloat16"}}})
    assert asked.search.optimizer.precision == "bfloat16"
    with pytest.raises(ConfigError, match="precision"):
        make_config({"search": {"optimizer": {"precision": "half"}}})
