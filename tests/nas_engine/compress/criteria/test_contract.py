"""Every registered criterion keeps the contract, and the contract catches criteria that do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from nas_engine.compress.criteria import Criterion, Scores, criteria, register_criterion
from nas_engine.testing import CriterionContract

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in criteria.names()),
    ("magnitude", {"p": 1, "normalise": "none"}),
    ("oracle", {"over": "batch", "power": 1}),
    ("taylor", {"examples": True, "power": 1}),
    ("taylor", {"form": "weight"}),
    ("taylor", {"form": "second"}),
    ("taylor", {"form": "second", "examples": True}),
]

for _name, _settings in VARIANTS:
    _title = "".join(word.title() for word in [*_name.split("_"), *(f"{k}_{v}" for k, v in _settings.items())])
    globals()[f"Test{_title}"] = type(
        f"Test{_title}", (CriterionContract,), {"criterion": _name, "settings": _settings}
    )


class Faulty(Criterion):
    """A sum over images of the values behind each unit, with one fault."""

    needs = frozenset({"activations"})
    fault: ClassVar[str] = ""

    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        network = self.gated.network
        if self.fault == "weights":
            with torch.no_grad():
                network.get_parameter("stem.weight").mul_(0.5)
        if self.fault == "statistics":
            network.train()
        if self.fault == "inputs":
            inputs.zero_()
        if self.fault == "gradients":
            self.gated(inputs).sum().backward()
        total = self.gated(inputs).detach().double().abs().sum()
        self.total = (getattr(self, "total", 0.0) if self.fault == "remembers" else 0.0) + float(total)
        if self.fault == "labels":
            self.total += float(targets[0])

    def finish(self) -> Scores:
        count = self.gated.coupling.count - (self.fault == "shape")
        scores = np.full(count, self.total)
        if self.fault == "finite":
            scores[0] = np.nan
        if self.fault == "chance":
            scores += torch.rand(count).numpy()
        if self.fault == "order":
            scores += scores * np.arange(count)
        return Scores(units=scores)


@pytest.fixture
def faulty(request: pytest.FixtureRequest) -> Iterator[CriterionContract]:
    """The contract of a criterion with the fault that the test asks for."""
    name = f"faulty_{request.param}"
    register_criterion(name)(type("Made", (Faulty,), {"fault": request.param}))
    yield type("Contract", (CriterionContract,), {"criterion": name})()
    del criteria._entries[name]


CAUGHT = {
    "weights": "test_the_network_stays_as_it_was",
    "statistics": "test_the_network_stays_as_it_was",
    "gradients": "test_the_network_stays_as_it_was",
    "inputs": "test_images_and_classes_stay_as_they_were",
    "remembers": "test_a_criterion_starts_anew_each_time",
    "labels": "test_labels_are_used_only_where_they_are_needed",
    "shape": "test_scores_fit_the_network_and_are_finite",
    "finite": "test_scores_fit_the_network_and_are_finite",
    "chance": "test_scores_do_not_depend_on_chance",
    "order": "test_scores_go_with_their_channels",
}


@pytest.mark.parametrize(("faulty", "check"), CAUGHT.items(), indirect=["faulty"])
def test_the_contract_catches(faulty: CriterionContract, check: str) -> None:
    with pytest.raises(AssertionError):
        getattr(faulty, check)()


@pytest.mark.parametrize("faulty", [""], indirect=True)
def test_the_sound_one_passes(faulty: CriterionContract) -> None:
    for name in dir(faulty):
        if name.startswith("test_"):
            getattr(faulty, name)()
