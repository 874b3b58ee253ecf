"""Labelled pixels of the benchmarks: the drawings, the batches, and intersection over union."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.pixels import IGNORED, SHAPES, PixelProgram, PixelSplits, circles, mean_iou
from search_spaces.errors import DataError


@pytest.fixture(scope="module")
def data() -> PixelSplits:
    return circles((6, 3, 4), size=32)


def test_drawings_are_the_same_again_and_show_every_class(data: PixelSplits) -> None:
    assert data.fingerprint == circles((6, 3, 4), size=32).fingerprint
    assert data.train.images.shape == (6, 1, 32, 32)
    assert set(np.unique(data.train.labels)) == set(range(len(SHAPES)))
    covered = (data.train.labels > 0).sum((1, 2))  # six shapes of 8 x 8 that do not overlap, discs with 52 pixels
    assert ((covered >= 6 * 52) & (covered <= 6 * 64)).all()


def test_mirrored_images_keep_their_labels(data: PixelSplits) -> None:
    marked = data.train.labels[:, None].float()  # images that show the class of each pixel
    seen = PixelSplits(
        **{**vars(data), "train": type(data.train)(marked, data.train.labels), "mean": (0,), "std": (1,)}
    )
    for epoch in range(3):
        for x, y in seen.epoch(3, seed=0, epoch=epoch):
            torch.testing.assert_close(x[:, 0], y.float())
    first, second = ([y for _, y in seen.epoch(3, seed=0, epoch=e)] for e in (0, 1))
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(marked, seen.train.images)


def test_mean_iou_by_hand(data: PixelSplits) -> None:
    labels = torch.tensor([[[0, 0], [1, IGNORED]]], dtype=torch.uint8)
    part = type(data.test)(torch.zeros(1, 1, 2, 2), labels)

    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(torch.tensor([[[0, 1], [1, 2]]]), 5).permute(0, 3, 1, 2).float()

    found = mean_iou(Fixed(), data, part)  # class 0: 1 of 2, class 1: 1 of 2; class 2 only where nothing counts
    assert found == {"miou": pytest.approx(0.5), "pixel_accuracy": pytest.approx(2 / 3)}


def test_a_step_of_training_leaves_out_what_does_not_count() -> None:
    network = nn.Conv2d(1, 5, 1)
    targets = torch.full((2, 4, 4), IGNORED, dtype=torch.uint8)
    targets[0, 0, 0] = 3
    loss = PixelProgram(network).backward(torch.randn(2, 1, 4, 4), targets, 0, 0)
    assert torch.isfinite(loss)
    assert network.weight.grad is not None


def test_shapes_that_do_not_fit_are_told() -> None:
    from benchmarks.pixels import _places

    with pytest.raises(DataError, match="do not fit"):
        _places(np.random.default_rng(0), 8, 4, 5)
