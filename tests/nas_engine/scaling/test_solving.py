"""The largest member within targets."""

import math

import pytest

from nas_engine.compress.targets import Target
from nas_engine.scaling.base import Base, make_base
from nas_engine.scaling.costing import Coster, Scaled, evaluated, factors
from nas_engine.scaling.solving import NEAR, Place, Seeker, limits_of, measured_to_fit
from search_spaces.errors import UnsatisfiableError
from search_spaces.scaling import Compound, FastCompound, Rule, Scaling, Single
from tests.nas_engine.scaling.conftest import quick

RULES = [Compound(), FastCompound(), Single("depth"), Single("width"), Single("resolution")]


@pytest.fixture(scope="module")
def base() -> Base:
    return make_base(quick("efficientnet_b0", phi=1, classes=10))


def largest(base: Base, rule: Rule, **limits: float) -> tuple[Place, dict[str, float]]:
    costs = Coster()
    place = Seeker(base, rule, costs, limits).largest()
    return place, costs(base.scaled(place.scaling))


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("share", [0.6, 1.0, 2.7])
def test_a_target_is_met_and_used(base: Base, rule: Rule, share: float) -> None:
    limit = share * base.graph.cost.macs
    place, found = largest(base, rule, macs=limit)
    assert found["macs"] <= limit
    if share != 1:  # stages step at once, and strides leave steps in sizes
        assert found["macs"] > (0.6 if place.scaling.depth != 1 else 0.8) * limit
        assert (place.factor > 1) == (share > 1)
    wider = base.scaled(rule.at(place.factor * 1.35)).cost.macs
    assert wider > limit


def test_what_depth_leaves_is_filled_with_width(base: Base) -> None:
    limit = 1.9 * base.graph.cost.macs
    place, found = largest(base, FastCompound(), macs=limit)
    given = FastCompound().at(place.factor)
    assert (place.scaling.depth, place.scaling.resolution) == (given.depth, given.resolution)
    assert place.scaling.width >= given.width
    assert found["macs"] > 0.95 * limit


def test_several_limits_are_all_met(base: Base) -> None:
    macs, params = 4.0 * base.graph.cost.macs, 1.5 * base.graph.cost.params
    place, found = largest(base, Single("width"), macs=macs, params=params)
    assert 0.95 * params < found["params"] <= params
    assert found["macs"] < macs
    assert place.scaling.width < 1.5


def test_targets_that_cannot_be_or_bind_nothing(base: Base) -> None:
    with pytest.raises(UnsatisfiableError, match=r"cannot be reached: macs <= 1,000 .the lowest"):
        largest(base, Compound(), macs=1000)
    with pytest.raises(UnsatisfiableError, match="the target binds no member"):
        largest(base, Single("resolution"), params=2 * base.graph.cost.params)


def test_limits_are_the_tightest() -> None:
    targets = [Target.parse(text, grows=True) for text in ("macs=3x", "macs=250", "params=2x")]
    assert limits_of(targets, {"macs": 100.0, "params": 7.0}) == {"macs": 250.0, "params": 14.0}


@pytest.mark.parametrize("truth", [0.6, 1.0, 1.4])
def test_a_latency_is_met_as_measured_though_the_model_errs(truth: float) -> None:
    """The model says `f` milliseconds of factor f, the device takes `truth` times as long, and 2 more."""

    def seek(limit: float) -> Place:
        return Place(limit, Scaling(width=math.sqrt(limit)))

    place, got = measured_to_fit(seek, lambda place: truth * place.factor + 2.0, 20.0)
    assert 18.0 < got <= 20.0 * NEAR
    assert got == truth * place.factor + 2.0


def test_where_no_measurement_meets_it_the_nearest_is_given() -> None:
    asked = []

    def seek(limit: float) -> Place:
        asked.append(limit)
        return Place(limit, Scaling(width=limit))

    place, got = measured_to_fit(seek, lambda place: 30.0 + place.factor, 20.0)
    assert got == 30.0 + place.factor
    assert place.factor == min(asked)


def test_the_space_of_scaled_networks_is_small_and_whole(base: Base) -> None:
    graphs = [base.scaled(Compound().at(f)) for f in factors(0.5, 4.0, 80)]
    space = Scaled(graphs)
    members = [space.graph(a) for a in space.envelope()]
    assert len(members) == 60
    macs = [g.cost.macs for g in members]
    assert macs == sorted(macs, reverse=True)
    assert {macs[0], macs[-1]} == {max(g.cost.macs for g in graphs), min(g.cost.macs for g in graphs)}


def test_costs_are_those_in_evaluation(base: Base) -> None:
    dropped = base.graph
    kept = evaluated(dropped)
    assert [n.name for n in kept] == [n.name for n in dropped]
    assert kept.cost.params == dropped.cost.params
    assert any(n.attributes.get("drop_path") for n in dropped)
    assert not any(n.attributes.get("drop_path") for n in kept)
    assert Coster()(dropped)["macs"] == dropped.cost.macs
