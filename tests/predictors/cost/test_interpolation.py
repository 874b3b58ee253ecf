"""Interpolation of units against laws that the test knows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from predictors.cost.interpolation import Interpolator, Roofline, Row, choose
from search_spaces import Signature


def block(rng: np.random.Generator) -> Signature:
    channels, size = int(8 * rng.integers(1, 9)), int(rng.integers(4, 29))
    attributes = {
        "out_channels": int(8 * rng.integers(1, 9)),
        "kernel_size": int(rng.choice([3, 5, 7])),
        "stride": int(rng.choice([1, 2])),
        "expansion": int(rng.choice([3, 4, 6])),
        "se_ratio": float(rng.choice([0.0, 0.25])),
        "activation": str(rng.choice(["relu", "hardswish"])),
    }
    return Signature.named("inverted_residual", attributes, ((channels, size, size),))


def rows(number: int, seed: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [Row.of(block(rng)) for _ in range(number)]


def additive(row: Row) -> float:
    """Milliseconds on a device whose kinds of operators have rates of their own."""
    t = row.terms
    macs = 0.05 * t["conv2d/pointwise megamacs"] + 0.4 * t["conv2d/depthwise megamacs"]
    return 0.005 * t["* calls"] + macs + 0.1 * t["* megabytes"]


def cached(row: Row) -> float:
    """The same device with a cache: tensors beyond its size take half as long again."""
    return additive(row) * (1.5 if row.sizes["log largest tensor"] > 10 else 1.0)


def times(law, some: list[Row]) -> np.ndarray:  # type: ignore[no-untyped-def, type-arg]
    return np.array([law(row) for row in some])


def test_an_additive_law_is_found_and_extrapolated() -> None:
    train, test = rows(60), rows(200, seed=1)
    model = Interpolator("roofline", train, times(additive, train))
    assert np.median(np.abs(model.predict(test) / times(additive, test) - 1)) < 0.01
    large = [Row.of(Signature.named("inverted_residual", {"out_channels": 160}, ((160, 56, 56),)))]
    assert model.predict(large) == pytest.approx(times(additive, large), rel=0.05)


def test_disturbed_measurements_do_not_bend_the_roofline() -> None:
    train, test = rows(80), rows(100, seed=1)
    y = times(additive, train)
    y[::10] *= 4
    assert np.median(np.abs(Roofline.fit(train, y).predict(test) / times(additive, test) - 1)) < 0.03


def test_rates_are_never_negative() -> None:
    noisy = times(additive, rows(40)) * np.random.default_rng(0).lognormal(0, 0.5, 40)
    assert min(Roofline.fit(rows(40), noisy).rates) >= 0


def test_a_kind_that_was_never_measured_has_the_shared_rates() -> None:
    train = rows(60)
    model = Interpolator("roofline", train, times(additive, train))
    small, large = (
        Row.of(Signature.named("conv2d", {"out_channels": c, "kernel_size": 3, "padding": 1}, ((c, 28, 28),)))
        for c in (8, 128)
    )
    low, high = model.predict([small, large])
    assert 0 < low < high


def test_trees_are_chosen_where_they_help() -> None:
    train, test = rows(300), rows(200, seed=1)
    _, error = choose(train, times(additive, train), np.random.default_rng(0))
    assert error is not None
    assert error.median_ape < 0.01
    bent, error = choose(train, times(cached, train), np.random.default_rng(0))
    assert bent.kind == "roofline+trees"
    assert error is not None
    assert error.spearman > 0.98
    held_out = np.median(np.abs(bent.predict(test) / times(cached, test) - 1))
    assert held_out == pytest.approx(error.median_ape, abs=0.02)  # the error told is the error met


def test_few_measurements_give_a_model_and_no_error() -> None:
    train = rows(3)
    model, error = choose(train, times(additive, train), np.random.default_rng(0))
    assert error is None
    assert (model.predict(rows(20, seed=2)) > 0).all()


@pytest.mark.parametrize("law", [additive, cached])
def test_json_gives_the_same_times(law) -> None:  # type: ignore[no-untyped-def]
    train, test = rows(120), rows(50, seed=1)
    model, _ = choose(train, times(law, train), np.random.default_rng(0))
    again = Interpolator.from_dict(json.loads(json.dumps(model.to_dict())))
    assert again.kind == model.kind
    assert np.concatenate([again.predict([row]) for row in test]).tolist() == model.predict(test).tolist()
