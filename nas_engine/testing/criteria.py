"""What every pruning criterion must do, as a test class to inherit; a small trained-looking network comes with it.

class TestMine(CriterionContract):
    criterion = "mine"
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from search_spaces import Graph, Network, trace
from search_spaces.coupling import Coupling, Gated, couple
from search_spaces.errors import ConfigError

from ..compress.criteria import Criterion, Scores, criteria, score
from ..compress.criteria.base import NEEDS
from .measure import shake_statistics

CLASSES = 5


class SmallResidual(nn.Module):
    """A residual network of two stages on 3 x 8 x 8 images: one group inside a block, two streams of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.inner, self.inner_norm = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.outer, self.outer_norm = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.last, self.last_norm = nn.Conv2d(6, 10, 3, stride=2, padding=1), nn.BatchNorm2d(10)
        self.head = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        inside = torch.relu(self.inner_norm(self.inner(x)))
        x = torch.relu(x + self.outer_norm(self.outer(inside)))
        x = torch.relu(self.last_norm(self.last(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


@cache
def _parts() -> tuple[Graph, Coupling, dict[str, Tensor]]:
    """Graph, coupling and state of the small network, with statistics that are not those of a fresh one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = SmallResidual()
        shake_statistics(module, torch.Generator().manual_seed(0))
    graph = trace(module, torch.zeros(1, 3, 8, 8))
    return graph, couple(graph), module.state_dict()


def small_gated(change: Callable[[dict[str, Tensor]], None] | None = None) -> Gated:
    """The small network behind gates, in evaluation mode.

    Args:
        change: is given the state, a copy, to alter it before it is loaded.
    """
    graph, coupling, state = _parts()
    state = {name: tensor.clone() for name, tensor in state.items()}
    if change is not None:
        change(state)
    network = Network(graph)
    network.load_state_dict(state)
    return Gated(network.eval(), coupling)


def small_batches(count: int = 3, size: int = 10, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Batches of random images `(size, 3, 8, 8)` and classes `(size,)`, in which each class occurs."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 3, 8, 8, generator=generator), torch.arange(size).roll(i) % CLASSES) for i in range(count)
    ]


class CriterionContract:
    """Checks of a criterion.

    Attributes:
        criterion: its registered name.
        settings: of its constructor.
        tolerance: by how much scores may differ, relative to the largest, where the order of sums differs.
    """

    criterion: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}
    tolerance: ClassVar[float] = 1e-4

    def make(self) -> Criterion:
        return criteria[self.criterion](**self.settings)

    def run(self, gated: Gated | None = None, batches: list[tuple[Tensor, Tensor]] | None = None) -> Scores:
        """Scores of a new criterion on the small network."""
        return score(self.make(), gated or small_gated(), small_batches() if batches is None else batches)

    def test_it_says_what_it_needs(self) -> None:
        made = self.make()
        assert made.name == self.criterion
        assert made.needs <= set(NEEDS)
        assert isinstance(made.comparable, bool)

    def test_scores_fit_the_network_and_are_finite(self) -> None:
        gated = small_gated()
        scores, coupling = self.run(gated), gated.coupling
        assert parts(scores), "no scores at all"
        assert all(np.isfinite(part).all() for part in parts(scores).values())
        if scores.units is not None:
            assert scores.units.shape == (coupling.count,)
        if scores.examples is not None:
            assert scores.examples.shape[1:] == (coupling.count,)
        if scores.blocks is not None:
            assert scores.blocks.shape == (len(coupling.blocks),)
        for name, kernels in scores.kernels.items():
            assert kernels.shape == gated.network.get_parameter(f"{name}.weight").shape[:2], name

    def test_the_network_stays_as_it_was(self) -> None:
        for training in (False, True):
            gated = small_gated()
            gated.network.train(training)
            gated.network.get_parameter("inner.weight").requires_grad_(False)
            before = {name: tensor.clone() for name, tensor in gated.network.state_dict().items()}
            learned = {name: p.requires_grad for name, p in gated.network.named_parameters()}
            self.run(gated)
            after = gated.network.state_dict()
            assert list(after) == list(before)
            assert all(torch.equal(after[name], before[name]) for name in before)
            assert all(module.training is training for module in gated.network.modules())
            assert {name: p.requires_grad for name, p in gated.network.named_parameters()} == learned
            assert all(p.grad is None for p in gated.network.parameters())
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in gated.network.modules())

    def test_images_and_classes_stay_as_they_were(self) -> None:
        batches, kept = small_batches(), small_batches()
        self.run(batches=batches)
        assert all(torch.equal(x, z) for a, b in zip(batches, kept, strict=True) for x, z in zip(a, b, strict=True))

    def test_scores_do_not_depend_on_chance(self) -> None:
        """Random numbers come from the criterion's own seed, and nobody else's are used up."""
        found = []
        for seed in (1, 2):
            gated = small_gated()  # making a network draws its first weights
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                before = torch.get_rng_state()
                found.append(self.run(gated))
                assert torch.equal(before, torch.get_rng_state()), "torch's own generator was used"
        same(found[0], found[1])

    def test_scores_do_not_depend_on_the_mode_before(self) -> None:
        gated = small_gated()
        gated.network.train()
        same(self.run(gated), self.run(), self.tolerance)

    def test_scores_do_not_depend_on_gradients_being_on(self) -> None:
        with torch.no_grad():
            off = self.run()
        same(off, self.run(), self.tolerance)

    def test_a_criterion_starts_anew_each_time(self) -> None:
        made, gated = self.make(), small_gated()
        first, second = (score(made, gated, small_batches()) for _ in range(2))
        same(first, second)

    def test_data_is_asked_for_only_where_it_is_used(self) -> None:
        if self.make().uses_data:
            with pytest.raises(ConfigError, match=self.criterion):
                self.run(batches=[])
        else:
            same(self.run(batches=[]), self.run())

    def test_labels_are_used_only_where_they_are_needed(self) -> None:
        if "labels" in self.make().needs:
            return
        swapped = [(inputs, targets.flip(0)) for inputs, targets in small_batches()]
        same(self.run(batches=swapped), self.run())

    def test_scores_go_with_their_channels(self) -> None:
        """Channels in another order have the same scores in that order, unless chance deals them out."""
        if "seed" in inspect.signature(criteria[self.criterion]).parameters:
            return
        gated, permutation = small_gated(), torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
        moved = self.run(small_gated(lambda state: _permute(state, permutation)))
        scores = self.run(gated)
        if scores.units is None or moved.units is None:
            return
        group = next(g for g in gated.coupling.groups if g.name == "inner")
        expected = scores.units.copy()
        expected[group.units] = expected[group.units][permutation.numpy()]
        same(Scores(units=moved.units), Scores(units=expected), self.tolerance)


def _permute(state: dict[str, Tensor], permutation: Tensor) -> None:
    """The same function with the channels inside the block in another order."""
    for name in state:
        if name.startswith(("inner.", "inner_norm.")) and state[name].dim():
            state[name] = state[name][permutation]
    state["outer.weight"] = state["outer.weight"][:, permutation]


def parts(scores: Scores) -> dict[str, np.ndarray]:
    """All arrays of some scores by name."""
    arrays = {"units": scores.units, "examples": scores.examples, "blocks": scores.blocks}
    named = {name: array for name, array in arrays.items() if array is not None}
    return named | {f"kernels of {name}": array for name, array in scores.kernels.items()}


def same(found: Scores, expected: Scores, tolerance: float = 1e-6) -> None:
    """Raise AssertionError where scores differ by more than `tolerance` of the largest."""
    ours, theirs = parts(found), parts(expected)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        scale = float(np.abs(array).max(initial=0))
        np.testing.assert_allclose(ours[name], array, rtol=tolerance, atol=tolerance * scale, err_msg=name)
