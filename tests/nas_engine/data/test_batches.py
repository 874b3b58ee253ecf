"""Batches: order, normalisation, augmentation worked by hand."""

from __future__ import annotations

import itertools

import pytest
import torch

from nas_engine.data import Augment, ImageSet, Normaliser, batch_count, batches, resize
from nas_engine.data.augment import EpochAugmentation, default_augment
from search_spaces.errors import ConfigError

PLAIN = Normaliser((0.0,), (1.0,))


def numbered(count: int = 23, shape: tuple[int, int, int] = (1, 4, 6)) -> ImageSet:
    """Image k is filled with k / 255, and its label is k."""
    labels = torch.arange(count)
    return ImageSet(labels.to(torch.uint8).view(-1, 1, 1, 1).repeat(1, *shape), labels)


def noise(count: int = 64, shape: tuple[int, int, int] = (3, 8, 7)) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (count, *shape), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(count))


def order(**options) -> list[int]:
    return torch.cat([y for _, y in batches(numbered(), 5, normaliser=PLAIN, **options)]).tolist()


def test_without_a_seed_the_stored_order_is_kept():
    assert order() == list(range(23))


def test_images_and_labels_stay_together():
    for x, y in batches(numbered(), 5, normaliser=PLAIN, seed=3):
        assert torch.allclose(x[:, 0, 0, 0] * 255, y.float())
        assert x.dtype == torch.float32
        assert y.dtype == torch.int64


def test_the_order_follows_from_seed_and_epoch_alone():
    assert order(seed=1, epoch=4) == order(seed=1, epoch=4)
    assert sorted(order(seed=1, epoch=4)) == list(range(23))
    orders = [tuple(order(seed=seed, epoch=epoch)) for seed, epoch in itertools.product(range(3), range(3))]
    assert len(set(orders)) == 9


def test_resuming_at_an_epoch_gives_bit_equal_batches():
    options = {"normaliser": Normaliser((0.4,) * 3, (0.2,) * 3), "seed": 7, "augment": Augment(2, True, 3)}
    through = [list(batches(noise(), 10, epoch=epoch, **options)) for epoch in range(3)]
    resumed = list(batches(noise(), 10, epoch=2, **options))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(through[2], resumed, strict=True))


def test_augmentation_does_not_depend_on_the_batch_size():
    options = {"normaliser": Normaliser((0.4,) * 3, (0.2,) * 3), "seed": 7, "augment": Augment(2, True, 3, "reflect")}
    small, large = (torch.cat([x for x, _ in batches(noise(), size, **options)]) for size in (9, 64))
    assert torch.equal(small, large)
    assert order(seed=5) == order(seed=5, augment=Augment(shift=1))  # nor the order on the augmentation


def test_the_last_batch_is_kept_or_dropped():
    kept, dropped = ([len(y) for _, y in batches(numbered(), 5, normaliser=PLAIN, drop_last=d)] for d in (False, True))
    assert kept == [5, 5, 5, 5, 3]
    assert dropped == [5, 5, 5, 5]
    assert (batch_count(23, 5), batch_count(23, 5, True), batch_count(20, 5)) == (5, 4, 4)


def test_normalised_batches_have_mean_zero_and_deviation_one():
    part = noise()
    pixels = part.images.double() / 255
    normaliser = Normaliser(tuple(pixels.mean((0, 2, 3)).tolist()), tuple(pixels.std((0, 2, 3), correction=0).tolist()))
    x = torch.cat([x for x, _ in batches(part, 9, normaliser=normaliser, seed=0)])
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-6)
    assert torch.allclose(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-6)


def test_normalising_floats_leaves_the_source_alone():
    part = ImageSet(torch.full((2, 1, 2, 2), 3.0), torch.tensor([0, 1]))
    for x, y in batches(part, 2, normaliser=Normaliser((1.0,), (4.0,))):
        assert torch.equal(x, torch.full((2, 1, 2, 2), 0.5))
        y.add_(1)
    assert part.images.min() == 3
    assert part.labels.tolist() == [0, 1]


@pytest.mark.parametrize("resolution", [None, 5])
def test_memory_order_is_as_asked(resolution):
    options = {"normaliser": Normaliser((0.0,) * 3, (1.0,) * 3), "seed": 0, "augment": Augment(1, True, 2)}
    for layout, asked in ((torch.channels_last, True), (torch.contiguous_format, False)):
        x, _ = next(batches(noise(), 9, channels_last=asked, resolution=resolution, **options))
        assert x.is_contiguous(memory_format=layout)


def test_resolution_resizes_to_a_square():
    x, _ = next(batches(noise(), 9, normaliser=Normaliser((0.0,) * 3, (1.0,) * 3), resolution=5))
    assert x.shape == (9, 3, 5, 5)
    constant = torch.full((1, 1, 12, 12), 0.25)
    assert torch.allclose(resize(constant, 5), torch.tensor(0.25))
    assert resize(constant, 12) is constant
    checkers = ((torch.arange(16)[:, None] + torch.arange(16)) % 2).float()[None, None]
    assert (resize(checkers, 4) - 0.5).abs().max() < 0.05  # antialiased: no pixel of either colour survives


def apply(images: torch.Tensor, augment: Augment, dy: int = 0, dx: int = 0, flip: bool = False) -> torch.Tensor:
    """One image moved by the given amounts instead of random ones."""
    shape = (images.shape[1], images.shape[2], images.shape[3])
    changes = EpochAugmentation(augment, 1, shape, torch.Generator(), torch.device("cpu"))
    changes._moves, changes._flips = torch.tensor([[dy], [dx]]), torch.tensor([flip])
    return changes.move(images, 0)


SMALL = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)


@pytest.mark.parametrize(
    ("augment", "dy", "dx", "flip", "expected"),
    [
        (Augment(1), 0, 1, False, [[2, 3, 0], [5, 6, 0], [8, 9, 0]]),
        (Augment(1), -1, 0, False, [[0, 0, 0], [1, 2, 3], [4, 5, 6]]),
        (Augment(2), 1, -2, False, [[0, 0, 4], [0, 0, 7], [0, 0, 0]]),
        (Augment(1, padding="reflect"), 0, 1, False, [[2, 3, 2], [5, 6, 5], [8, 9, 8]]),
        (Augment(2, padding="reflect"), -2, 0, False, [[7, 8, 9], [4, 5, 6], [1, 2, 3]]),
        (Augment(flip=True), 0, 0, True, [[3, 2, 1], [6, 5, 4], [9, 8, 7]]),
        (Augment(1, True), 0, 1, True, [[0, 3, 2], [0, 6, 5], [0, 9, 8]]),
    ],
)
def test_moves_worked_by_hand(augment, dy, dx, flip, expected):
    assert apply(SMALL, augment, dy, dx, flip)[0, 0].tolist() == expected
    assert SMALL[0, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("padding", ["zero", "reflect"])
def test_a_shift_equals_padding_and_cropping(padding):
    images = noise(1, (3, 8, 7)).images
    mode = "constant" if padding == "zero" else "reflect"
    padded = torch.nn.functional.pad(images.float(), (3, 3, 3, 3), mode=mode)
    for dy, dx in itertools.product((-3, 0, 2), (-1, 3)):
        moved = apply(images, Augment(3, padding=padding), dy, dx)
        assert torch.equal(moved.float(), padded[:, :, 3 + dy : 11 + dy, 3 + dx : 10 + dx])


def test_all_shifts_occur_and_half_is_flipped():
    shape, generator = (1, 9, 9), torch.Generator().manual_seed(0)
    changes = EpochAugmentation(Augment(2, True), 5000, shape, generator, torch.device("cpu"))
    for axis in (0, 1):
        counts = torch.bincount(changes._moves[axis] + 2)
        assert len(counts) == 5
        assert (counts - 1000).abs().max() < 120
    assert abs(int(changes._flips.sum()) - 2500) < 150


def test_cutout_covers_a_square_with_the_mean():
    part = noise(400, (3, 8, 8))
    cut = next(batches(part, 400, normaliser=Normaliser((0.5,) * 3, (0.1,) * 3), seed=0, augment=Augment(cutout=4)))[0]
    plain = next(batches(part, 400, normaliser=Normaliser((0.5,) * 3, (0.1,) * 3), seed=0))[0]
    changed = cut != plain
    assert (cut[changed] == 0).all()
    assert torch.equal(changed.any(1), changed.all(1))  # all channels alike
    rows, columns = changed[:, 0].any(2).sum(1), changed[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, changed[:, 0].sum((1, 2)))  # a rectangle: a square, clipped
    assert (rows.max(), rows.min()) == (4, 2)
    assert changed[:, 0].any(0).all()  # anywhere


def test_the_default_augmentation_goes_by_colour_unless_told():
    assert default_augment((3, 32, 32)) == Augment(4, True)
    assert default_augment((1, 28, 28)) == Augment(3, False)
    assert default_augment((1, 28, 28), flip=True).flip
    assert not default_augment((3, 32, 32), flip=False).flip
    assert default_augment((3, 5, 40)).shift == 0


def test_taking_rows_makes_a_set_of_its_own():
    some = numbered().take(torch.tensor([4, 2]))
    assert some.labels.tolist() == [4, 2]
    assert some.images[:, 0, 0, 0].tolist() == [4, 2]
    assert len(some) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"batch_size": 24, "drop_last": True}, "leaves no whole batch of 23 images"),
        ({"resolution": 0}, "resolution must be"),
        ({"epoch": -1}, "seed and epoch"),
        ({"seed": -1}, "seed and epoch"),
        ({"augment": Augment(1)}, "needs a seed"),
    ],
)
def test_arguments_are_checked_at_the_call(arguments, words):
    with pytest.raises(ConfigError, match=words):
        batches(numbered(), **{"batch_size": 5, "normaliser": PLAIN, **arguments})


def test_augmentations_that_make_no_sense_are_refused():
    for wrong in ({"shift": -1}, {"cutout": 1.5}, {"shift": True}):
        with pytest.raises(ConfigError, match="must be a whole number of pixels"):
            Augment(**wrong)
    with pytest.raises(ConfigError, match="did you mean 'reflect'"):
        Augment(padding="reflekt")
    with pytest.raises(ConfigError, match="must be smaller than the image, 4 x 6"):
        next(batches(numbered(), 5, normaliser=PLAIN, seed=0, augment=Augment(4)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("moved_first", [True, False])
def test_batches_on_a_gpu_equal_those_on_the_cpu(moved_first):
    options = {
        "normaliser": Normaliser((0.4,) * 3, (0.2,) * 3),
        "seed": 7,
        "augment": Augment(2, True, 3),
        "resolution": 5,
    }
    part = noise().to("cuda") if moved_first else noise()
    there = list(batches(part, 10, device=None if moved_first else "cuda", **options))
    for (x, y), (x_cpu, y_cpu) in zip(there, batches(noise(), 10, **options), strict=True):
        assert x.is_cuda
        assert torch.allclose(x.cpu(), x_cpu, atol=1e-5)
        assert torch.equal(y.cpu(), y_cpu)
