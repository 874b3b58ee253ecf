"""The program of a supernet, composed: who is trained, from what the others learn, what is open when."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from nas_engine.config import Optimizer
from nas_engine.config import Supernet as Settings
from nas_engine.data import DataSplits, load_data
from nas_engine.train import Stepped, SupernetProgram, supernet_program, train
from nas_engine.train.candidate import initial_network
from search_spaces import SearchSpace, Supernet, make_space
from search_spaces.errors import ConfigError

FAST = Optimizer(batch_size=100, learning_rate=0.05)
SHRINKING = [{"share": 1}, ["kernel", "depth"], ["expansion", "width"]]


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_data("digits", limit=400)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return make_space(
        "mobile",
        {"input_shape": (1, 8, 8), "widths": (8, 16), "strides": (1, 2), "depths": (1, 2), "dropout": 0.2, "head": 32},
    )


def program(space: SearchSpace, **settings: Any) -> SupernetProgram:
    torch.manual_seed(0)
    asked = Settings.model_validate({"optimizer": FAST, **settings})
    return supernet_program(Supernet(space, kernel_transform=asked.kernel_transform).train(), 0, asked)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 1, 8, 8, generator=generator), torch.randint(0, 10, (8,), generator=generator)


# ---- from what the others learn ----------------------------------------------------------------------------


def test_any_sampling_can_learn_from_the_largest(space: SearchSpace) -> None:
    largest = next(space.envelope())
    plain, taught = program(space), program(space, distill=True)
    assert not plain.distils
    assert plain.members(0, 3) == taught.members(0, 3)[1:]
    assert taught.members(0, 3)[0] == largest


def test_distilled_members_see_no_labels(space: SearchSpace) -> None:
    """Their gradient is that of the cross-entropy with what the largest member says, and it alone drops out."""
    ours = program(space, strategy="sandwich")
    inputs, targets = batch()
    torch.manual_seed(5)
    ours.backward(inputs, targets, 0, 0)
    found = {n: p.grad.clone() for n, p in ours.module.named_parameters() if p.grad is not None}
    ours.module.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    largest, *others = ours.members(0, 0)
    logits = ours.module(inputs, largest)
    F.cross_entropy(logits, targets).backward()
    for member in others:
        said = ours.module(inputs, member, regularised=False).log_softmax(-1)
        (-(logits.detach().softmax(-1) * said).sum(1).mean()).backward()
    for name, parameter in ours.module.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad)


def test_a_sandwich_can_learn_from_labels_alone(space: SearchSpace) -> None:
    ours = program(space, strategy="sandwich", distill=False)
    inputs, targets = batch()
    torch.manual_seed(5)
    loss = ours.backward(inputs, targets, 0, 0)
    found = {n: p.grad.clone() for n, p in ours.module.named_parameters() if p.grad is not None}
    ours.module.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    losses = [F.cross_entropy(ours.module(inputs, member), targets) for member in ours.members(0, 0)]
    sum(losses).backward()  # type: ignore[union-attr]
    torch.testing.assert_close(loss, torch.stack(losses).mean().detach())
    for name, parameter in ours.module.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad)


# ---- what is open when -------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["uniform", "fair", "sandwich", "attentive"])
def test_members_come_from_what_is_open(space: SearchSpace, strategy: str) -> None:
    ours = program(space, strategy=strategy, epochs=3, shrinking=SHRINKING)
    kernels, widths = ([c.name for c in space.choices if c.name.endswith(end)] for end in ("kernel", "width"))
    for epoch in range(3):
        members = [m for step in range(12) for m in ours.members(epoch, step)]
        assert (epoch == 0) == all(
            m[name] == 7 for m in members for name in kernels if name.startswith("stage0.block0")
        )
        assert (epoch < 2) == all(m[name] == 1.0 for m in members for name in widths)


def test_a_step_with_nothing_open_trains_one_member(space: SearchSpace) -> None:
    everything = [c.name for c in space.choices]
    for strategy in ("sandwich", "fair"):
        ours = program(space, strategy=strategy, epochs=3, shrinking=[{}, everything])
        assert ours.members(0, 0) == [next(space.envelope())]


def test_programs_are_stepped_only_where_they_must(space: SearchSpace) -> None:
    """A checkpoint of a plain training holds nothing but weights and the optimiser."""
    assert not isinstance(program(space, strategy="sandwich"), Stepped)
    assert not isinstance(program(space, epochs=3, shrinking=SHRINKING, sort_channels=False), Stepped)
    assert isinstance(program(space, epochs=3, shrinking=SHRINKING), Stepped)
    assert isinstance(program(space, strategy="attentive"), Stepped)


def test_unknown_predictors_are_told_at_once(space: SearchSpace) -> None:
    with pytest.raises(ConfigError, match=r"unknown predictor 'rigde': did you mean 'ridge'\?"):
        program(space, strategy="attentive", attentive={"predictor": "rigde"})


# ---- in the loop -------------------------------------------------------------------------------------------

STRONG = {
    "strategy": "attentive",
    "epochs": 4,
    "kernel_transform": True,
    "shrinking": [{"share": 1}, ["kernel", "depth"], {"share": 2, "open": ["expansion", "width"]}],
    "random_members": 3,
}


def test_a_killed_training_ends_as_an_undisturbed_one(
    digits: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before and in the phase that sorts channels, with a predictor that is fitted to few losses."""
    monkeypatch.setattr("nas_engine.train.attentive._FEWEST", 12)
    monkeypatch.setattr("nas_engine.train.attentive._POOL", 24)
    space = make_space(
        "mobile", {"input_shape": (1, 8, 8), "widths": (8,), "strides": (2,), "depths": (1, 2), "head": 8, "stem": 8}
    )

    def run(epochs: int, checkpoint: Path | None) -> dict[str, torch.Tensor]:
        ours = program(space, **STRONG)
        list(islice(train(ours, digits, FAST, epochs=4, seed=0, checkpoint=checkpoint), epochs))
        return ours.module.state_dict()

    whole = run(4, None)
    for until in (2, 3):
        run(until, tmp_path / f"{until}.pt")
        resumed = run(4 - until, tmp_path / f"{until}.pt")
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    matrices = [t for n, t in whole.items() if ".kernel_transform." in n]
    assert matrices
    assert any(t.abs().sum() > 0 for t in matrices)


def test_candidates_inherit_through_kernel_transforms(space: SearchSpace, tmp_path: Path) -> None:
    supernet = Supernet(space, kernel_transform=True).eval()
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            if ".kernel_transform." in name:
                parameter.normal_(std=0.1)
    save_file(supernet.state_dict(), tmp_path / "weights.safetensors")
    small, (inputs, _) = space.architecture(), batch()
    network = initial_network(space, small.code, tmp_path / "weights.safetensors").eval()
    torch.testing.assert_close(network(inputs), supernet(inputs, small))
    plain = Supernet(space)
    plain.load_state_dict(supernet.state_dict(), strict=False)
    assert not torch.allclose(plain.eval()(inputs, small), supernet(inputs, small))
