"""Pixels as a trained network expects them."""

import numpy as np
import pytest

from nas_engine.config import Data
from nas_engine.data import load_data
from nas_engine.data.normalisation import normalisation
from search_spaces.errors import ConfigError


def test_a_trained_network_gets_its_own_normalisation(tmp_path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "some.npz", train_x=images, train_y=np.arange(60) % 3)
    own, imagenet = (load_data(f"npz:{tmp_path}/some.npz", normalise=n) for n in ("data", "imagenet"))
    assert own.mean == pytest.approx((0.5, 0.5, 0.5), abs=0.05)
    assert (imagenet.mean, imagenet.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pixel = float(imagenet.train.images[0, 1, 2, 3]) / 255
    assert float(imagenet.normaliser(imagenet.train.images[:1])[0, 1, 2, 3]) == pytest.approx((pixel - 0.456) / 0.224)
    assert own.fingerprint == imagenet.fingerprint


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("imagnet", "unknown normalisation 'imagnet': did you mean 'imagenet'"),
        ({"mean": 0.5}, "has mean and std and nothing else; got mean"),
        ({"mean": [0.1, 0.2], "std": 1.0}, "2 numbers of mean and images have 3 channels"),
        ({"mean": 0.0, "std": [1, 0, 1]}, "std of a normalisation must be above 0"),
        ({"mean": "a", "std": 1}, "mean of a normalisation is a number or a list of numbers; got 'a'"),
    ],
)
def test_what_cannot_be_meant_is_told(asked: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", "\\(")):
        normalisation(asked, 3, ((0.0,), (1.0,)))


def test_the_configuration_knows_the_names() -> None:
    assert Data(normalise="imagenet").normalise == "imagenet"
    with pytest.raises(ValueError, match="unknown normalisation"):
        Data(normalise="imagnet")
    with pytest.raises(ValueError, match="normalise is a setting of images"):
        Data(source="pydoc", normalise="imagenet")


def test_a_run_reads_data_with_settings_that_are_mappings() -> None:
    from nas_engine.train.candidate import shared_data

    section = Data(augment={"shift": 1}, normalise={"mean": 0.5, "std": 0.25})
    assert shared_data(section, 0).mean == (0.5,)
    assert shared_data(section, 0) is shared_data(section, 0)
