"""Criteria that need labels, where there are none."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nas_engine.compress.criteria import criteria, score
from nas_engine.compress.subject import make_subject
from search_spaces.coupling import Gated
from search_spaces.errors import ConfigError
from tests.nas_engine.commands import bad
from tests.nas_engine.compress.conftest import Made


def test_a_criterion_that_needs_labels(trained: Made) -> None:
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    subject = make_subject(trained.model, trained.weights, images, 10)
    gated = Gated(subject.network, subject.coupling)
    with pytest.raises(ConfigError, match="'taylor' needs labels, and the images have none.*chip"):
        score(criteria["taylor"](), gated, [(images, None)])
    units = score(criteria["chip"](), gated, [(images, None)]).units
    assert units is not None
    assert len(units) == subject.coupling.count


def test_data_without_labels(trained: Made, tmp_path: Path) -> None:
    file = tmp_path / "images.npz"
    np.savez(file, train_x=np.zeros((40, 1, 8, 8), dtype=np.uint8))
    bad(3, "train_y", "compress", trained.model, "--data", f"npz:{file}", "--target", "macs=0.5x")
