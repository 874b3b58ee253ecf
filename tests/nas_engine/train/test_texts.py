"""Training on texts: states carried and forgotten, resumed exactly, supernets by each strategy."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from nas_engine.config import Optimizer
from nas_engine.config import Supernet as Settings
from nas_engine.data import TextSplits, load_text
from nas_engine.evaluate import judge
from nas_engine.train import NetworkProgram, supernet_program, train
from search_spaces import Network, SearchSpace, Stateful, Supernet, carrying, make_space

FAST = Optimizer(batch_size=8, learning_rate=1.0, weight_decay=0, clip_norm=0.25)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextSplits:
    """Every second word repeats the one before it, so half of the text can be known."""
    rng = np.random.default_rng(1)
    words = [" ".join(f"{w} {w}" for w in rng.choice(list("abcdef"), 3)) for _ in range(300)]
    path = tmp_path_factory.mktemp("text") / "t.txt"
    path.write_text("\n".join(words) + "\n")
    return load_text(f"text:{path}", steps=7)


@pytest.fixture(scope="module")
def space(text: TextSplits) -> SearchSpace:
    shape = {"input_shape": text.input_shape, "classes": len(text.classes)}
    return make_space("recurrent", {**shape, "nodes": 2, "hidden": 12})


def fresh(space: SearchSpace) -> Network:
    torch.manual_seed(0)
    return Network(space.graph(space.from_indices([3, 0, 1])))


def fit(network: Network, text: TextSplits, epochs: int, checkpoint: Path | None = None, of: int = 3) -> list[float]:
    walk = train(NetworkProgram(network), text, FAST, epochs=of, seed=3, checkpoint=checkpoint)
    return [epoch.loss for epoch in islice(walk, epochs)]


def states(module: torch.nn.Module) -> list[object]:
    return [part.state for part in module.modules() if isinstance(part, Stateful)]


def test_it_learns_what_can_be_known(space: SearchSpace, text: TextSplits) -> None:
    network = fresh(space)
    losses = fit(network, text, 8, of=8)
    assert losses[-1] < losses[0]
    # three words of six at random in each line of seven tokens: 6 ** (3 / 7) = 2.2 at best, 5.9 by frequency alone
    assert 2.15 < 1 / judge(network, text, text.validation).accuracy < 3.5
    assert states(network) == [None]


def test_a_resumed_training_ends_as_an_undisturbed_one(space: SearchSpace, text: TextSplits, tmp_path: Path) -> None:
    whole, broken = fresh(space), fresh(space)
    fit(whole, text, 3)
    fit(broken, text, 1, tmp_path / "c.pt")
    resumed = fresh(space)
    fit(resumed, text, 3, tmp_path / "c.pt")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_state_goes_on_from_window_to_window(space: SearchSpace, text: TextSplits) -> None:
    seen: list[object] = []

    class Watched(NetworkProgram):
        def backward(self, inputs: torch.Tensor, targets: torch.Tensor, epoch: int, step: int) -> torch.Tensor:
            seen.extend(states(self.module))
            return super().backward(inputs, targets, epoch, step)

    network = fresh(space)
    list(train(Watched(network), text, FAST, epochs=2, seed=0))
    steps = len(text.epoch(8, seed=0, epoch=0))
    assert len(seen) == 2 * steps
    assert seen[0] is None
    assert seen[steps] is None  # each epoch begins afresh
    kept = [s for i, s in enumerate(seen) if i % steps]
    assert all(isinstance(s, torch.Tensor) and s.shape == (8, 12) and not s.requires_grad for s in kept)


@pytest.mark.parametrize("strategy", ["uniform", "fair", "sandwich"])
def test_supernets_learn(space: SearchSpace, text: TextSplits, strategy: str) -> None:
    torch.manual_seed(0)
    settings = Settings.model_validate({"strategy": strategy, "optimizer": FAST.model_dump()})
    program = supernet_program(Supernet(space), 0, settings)
    losses = [epoch.loss for epoch in train(program, text, FAST, epochs=3, seed=0)]
    assert losses[-1] < losses[0]


def test_members_of_a_step_start_from_one_state(space: SearchSpace, text: TextSplits) -> None:
    """Otherwise the second member of a step would go on where the first one ended: a window too far."""
    supernet = Supernet(space).eval()
    program = supernet_program(supernet, 0, Settings())
    member = space.from_indices([3, 0, 1])
    (x, _), (y, _) = islice(text.epoch(4, seed=0, epoch=0), 2)
    with carrying(supernet), torch.no_grad():
        supernet(x, member)
        a, b = program.outputs(y, [member, member])
        assert torch.equal(a, b)
        alone = supernet.extract(member).eval()
        with carrying(alone):
            alone(x)
            assert torch.allclose(alone(y), a, atol=1e-6)
