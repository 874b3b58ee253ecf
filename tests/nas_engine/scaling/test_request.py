"""What can be asked for, and how it is refused."""

from pathlib import Path

import pytest

from nas_engine.scaling.request import directory, make_request
from search_spaces.errors import ConfigError
from search_spaces.scaling import Compound, FastCompound, Rounding, Single


def test_a_request_is_read() -> None:
    request = make_request(
        {"model": "resnet20", "to": ["macs=2x", "params <= 1e6"], "input": "3x28X28".lower(), "rule": "dwr"},
        ["a=0.5", "rounding.divisor=4"],
    )
    assert request.to == ("macs=2x", "params=1e+06")
    assert request.input == (3, 28, 28)
    assert [goal.relative for goal in request.goals] == [True, False]
    assert next(iter(request.rules.items())) == ("dwr", FastCompound(0.5))
    assert request.rounding.over(Rounding(2, 0.8, "round")) == Rounding(4, 0.8, "round")
    assert make_request({"model": "resnet20", "phi": 1}).rounding.given == {}


def test_rules_share_the_arithmetic_of_phi() -> None:
    request = make_request({"model": "resnet20", "phi": 3, "alpha": 1.1, "beta": 1.2, "gamma": 1.1})
    assert request.phis == (1, 2, 3)
    assert make_request({"model": "resnet20", "phi": -2}).phis == (-1, -2)
    assert list(request.rules) == ["compound", "dwr", "depth", "width", "resolution"]
    assert request.rules["compound"] == Compound(1.1, 1.2, 1.1)
    assert request.rules["width"] == Single("width")
    for rule in request.rules.values():
        assert rule.at(request.factor(2)).macs == pytest.approx((1.1 * 1.2**2 * 1.1**2) ** 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give either --to"),
        ({"phi": 2, "to": ["macs=2x"]}, "give either --to"),
        ({"phi": 0}, "phi is from 1 to 12"),
        ({"phi": 2, "rule": "compund"}, "did you mean 'compound'"),
        ({"to": ["latency=4"]}, "did you mean 'latency_ms'"),
        ({"to": ["accuracy=0.9"]}, "changes with the size"),
        ({"to": ["macs=0x"]}, "must be above 0"),
        ({"phi": 2, "input": "224"}, "such as 3x224x224"),
        ({"phi": 2, "input": "0x8x8"}, "at least one channel"),
        ({"phi": 2, "alpha": 0.9}, "alpha, beta and gamma are at least 1"),
        ({"phi": 2, "a": 1.5}, "share of the width"),
        ({"phi": 2, "grit": 3}, "did you mean 'grid'"),
    ],
)
def test_what_makes_no_sense_is_one_line(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as e:
        make_request({"model": "resnet20", **given})
    assert "\n" not in str(e.value)


def test_a_directory_of_its_own() -> None:
    request = make_request({"model": "nets/mine.py:make net", "to": ["latency_ms=4", "macs=2x"]})
    assert directory(request, None) == Path("results/scaled/make-net-compound-latency_ms=4-macs=2x")
    request = make_request({"model": "efficientnet_b0", "phi": 3, "rule": "dwr"})
    assert directory(request, None) == Path("results/scaled/efficientnet_b0-dwr-phi=3")
    assert directory(request, Path("there")) == Path("there")
