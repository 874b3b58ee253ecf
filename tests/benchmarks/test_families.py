"""The comparison of published members with their libraries."""

import pytest
import torch
from torch import nn

from benchmarks import families
from benchmarks.families import rows, summary


def test_members_beside_their_libraries() -> None:
    pytest.importorskip("torchvision")
    table = [*rows("shufflenet_v2_x0_5"), *rows("shufflenet_v1_x1_0_g[34]"), *rows("shufflenet_v1_x0_5_g3")]
    found = summary(table)
    assert found.pop("logits_max_difference") <= 1e-5
    assert found == {"rows": 1, "equal": 1, "logits_compared": 1, "rows_of_papers": 2, "equal_to_papers": 2}
    assert table[0]["params"] == 1_366_792
    assert table[0]["guidelines_broken"] == []
    assert "equal" not in table[-1], "nobody says what it should be"


def test_other_networks_are_not_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library whose network is another one is found out by its costs."""
    monkeypatch.setattr(families, "library_module", lambda source: nn.Conv2d(3, 4, 3).eval())
    (row,) = rows("resnet18", largest=0)
    assert not row["equal"]
    assert row["library_params"] == 112
    assert summary([row])["logits_max_difference"] is None


def test_other_weights_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = families.published_state

    def shifted(name: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = original(name, state)
        return {**found, "classifier.linear.bias": found["classifier.linear.bias"] + 1}

    monkeypatch.setattr(families, "published_state", shifted)
    (row,) = rows("shufflenet_v2_x0_5", size=32)
    assert not row["equal"]
    assert row["logits_difference"] > 1e-3
