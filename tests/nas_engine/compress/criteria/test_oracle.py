"""The oracle against networks that are really cut, and its averages on made-up changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from nas_engine.compress.criteria import Oracle, score
from nas_engine.compress.criteria.losses import hits, losses
from nas_engine.compress.criteria.oracle import block_changes, importance, unit_changes
from nas_engine.testing.criteria import small_batches, small_gated
from search_spaces import Network, trace
from search_spaces.coupling import Gated, couple, operate
from search_spaces.errors import ConfigError, DataError


@torch.no_grad()
def test_changes_are_those_of_networks_that_are_cut() -> None:
    gated, (inputs, targets) = small_gated(), small_batches(1)[0]
    before, coupling = losses(gated.network(inputs), targets).numpy(), gated.coupling
    units = unit_changes(gated, inputs, targets, np.arange(coupling.count))
    blocks = block_changes(gated, inputs, targets)
    for unit in range(coupling.count):
        keep = coupling.all()
        keep[unit] = False
        cut = operate(gated.network, coupling, keep).network.eval()
        np.testing.assert_allclose(units[:, unit], losses(cut(inputs), targets).numpy() - before, atol=2e-6)
    assert len(coupling.blocks) == 1
    for i, block in enumerate(coupling.blocks):
        cut = operate(gated.network, coupling, coupling.all(), without=[block.name]).network.eval()
        np.testing.assert_allclose(blocks[:, i], losses(cut(inputs), targets).numpy() - before, atol=2e-6)
    assert np.abs(units).max() > 1e-2
    assert np.abs(blocks).max() > 1e-2


def test_some_units_can_be_asked_for_in_any_order() -> None:
    gated, (inputs, targets) = small_gated(), small_batches(1)[0]
    every = unit_changes(gated, inputs, targets, np.arange(gated.coupling.count))
    some = np.array([9, 2, 17, 3])
    np.testing.assert_allclose(unit_changes(gated, inputs, targets, some), every[:, some], atol=1e-6)


def test_how_many_rows_run_at_once_does_not_matter() -> None:
    found = [score(Oracle(rows=rows), small_gated(), small_batches()).units for rows in (1, 25, 10_000)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-8)
    np.testing.assert_allclose(found[0], found[2], rtol=1e-3, atol=1e-8)


class Concatenated(nn.Module):
    """What lies before a group and what lies behind it meet again, in a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.last, self.head = nn.Conv2d(9, 6, 1), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        x = self.last(torch.cat([x, self.second(x).relu()], 1)).relu()
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_batches_of_one_give_the_same_as_all_at_once() -> None:
    torch.manual_seed(0)
    module = Concatenated().eval()
    graph = trace(module, torch.zeros(1, 3, 6, 6))
    network = Network(graph)
    network.load_state_dict(module.state_dict())
    gated = Gated(network.eval(), couple(graph))
    inputs, targets = torch.randn(4, 3, 6, 6), torch.tensor([0, 1, 2, 0])
    together = score(Oracle("example", power=1), gated, [(inputs, targets)]).units
    alone = score(Oracle("example", power=1), gated, list(zip(inputs.split(1), targets.split(1), strict=True))).units
    assert together is not None
    np.testing.assert_allclose(alone, together, rtol=1e-3, atol=1e-6)
    assert together.max() > 1e-4


def test_means_over_set_batches_and_examples() -> None:
    """Batches of two and of one image, one unit: changes 1 and -3, and 5."""
    changes = [np.array([[1.0], [-3.0]]), np.array([[5.0]])]
    assert importance(changes, "set", 2) == pytest.approx([1.0])
    assert importance(changes, "batch", 2) == pytest.approx([(1 + 25) / 2])
    assert importance(changes, "batch", 1) == pytest.approx([3.0])
    assert importance(changes, "example", 2) == pytest.approx([35 / 3])
    assert importance(changes, "example", 1) == pytest.approx([3.0])


def test_scores_of_units_and_blocks_come_apart() -> None:
    gated = small_gated()
    scores = score(Oracle(), gated, small_batches())
    changes = [unit_changes(gated, x, y, np.arange(gated.coupling.count)) for x, y in small_batches()]
    np.testing.assert_allclose(scores.units, np.concatenate(changes).mean(0) ** 2, rtol=1e-9)
    blocks = [block_changes(gated, x, y) for x, y in small_batches()]
    np.testing.assert_allclose(scores.blocks, np.concatenate(blocks).mean(0) ** 2, rtol=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"), [({"over": "sets"}, "'set'"), ({"power": 0}, "power"), ({"rows": 0}, "rows")]
)
def test_settings_that_do_not_work_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Oracle(**settings)  # type: ignore[arg-type]


def test_losses_of_dense_outputs_are_means_over_places() -> None:
    """Classes on the second axis (images) and on the last (texts); places that do not count are left out."""
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 3, 4, 5, generator=generator), torch.randint(0, 3, (2, 4, 5), generator=generator)
    targets[0, 0] = -100
    every = -logits.log_softmax(1).gather(1, targets.clamp(min=0)[:, None])[:, 0]
    expected = torch.stack([every[0, 1:].mean(), every[1].mean()])
    torch.testing.assert_close(losses(logits, targets), expected)
    rows, tokens = logits.flatten(2), targets.flatten(1)
    torch.testing.assert_close(losses(rows.movedim(1, 2), tokens), expected)
    right = (logits.argmax(1) == targets).float()
    torch.testing.assert_close(hits(logits, targets), torch.stack([right[0, 1:].mean(), right[1].mean()]))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.zeros(4, 2, dtype=torch.long), r"\(4, 2\)"),
        (torch.tensor([0, 1, 2, 3]), "labels go up to 3 .* 0 to 2"),
        (torch.zeros(4), "needs labels"),
        (None, "needs labels"),
    ],
)
def test_targets_that_do_not_fit_are_refused(targets: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        losses(torch.zeros(4, 3), targets)
