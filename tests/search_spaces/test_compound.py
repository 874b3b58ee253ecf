"""The compound space: contracts of its forms over small spaces, its sizes by hand, and what scaling does to members."""

from __future__ import annotations

import numpy as np
import pytest

from nas_engine.testing import SpaceContract
from search_spaces import SpaceError, make_space
from search_spaces.compound import CompoundSpace
from search_spaces.scaling import Compound, Scaling

MOBILE = {
    "name": "mobile",
    "widths": (8, 16),
    "strides": (1, 2),
    "depths": (1, 2),
    "kernels": (3, 5),
    "expansions": (2,),
    "multipliers": (0.5, 1.0),
    "resolutions": (12,),
    "squeeze_excite": (False,),
    "activations": ("relu",),
    "stem": 8,
    "head": 16,
}


def made(**settings: object) -> CompoundSpace:
    return CompoundSpace(input_shape=(1, 16, 16), classes=3, base=MOBILE, **settings)  # type: ignore[arg-type]


class TestContractByPhi(SpaceContract):
    space = made(by="phi", phi=(0, 1.0, 2.0))
    members = 12


class TestContractByRules(SpaceContract):
    space = made(by="rules", rules=("compound", "depth", "width"), factors=(1.0, 2.0))
    members = 12


class TestContractFree(SpaceContract):
    space = made(by="free", depths=(1.0, 1.5), widths=(1.0, 2.0), resolutions=(0.75, 1.0))
    members = 12


class TestContractByExponents(SpaceContract):
    space = made(by="exponents", step=0.25)
    members = 6


class TestContractOfScaledCuts(SpaceContract):
    """Graphs that are grown as any network's are, not by a space that knows its stages."""

    space = CompoundSpace(
        input_shape=(3, 16, 16),
        classes=3,
        base={"name": "pruned", "model": "resnet20", "ratios": [0.5, 1.0]},
        by="free",
        depths=(1.0, 1.5),
        widths=(1.0, 1.25),
        resolutions=(0.75, 1.0),
    )
    members = 4
    slices = 2


def test_sizes_multiply() -> None:
    base = made().base
    assert made(by="phi", phi=(0, 1, 2)).size == 3 * base.size
    assert made(by="free", depths=(1, 2), widths=(1, 2, 3), resolutions=(1,)).size == 6 * base.size


def test_phi_0_is_the_other_space() -> None:
    space = made(by="phi", phi=(0, 1.0))
    rng = np.random.default_rng(0)
    for _ in range(5):
        member = space.base.sample(rng)
        same = space.architecture({**member.values, "scale.phi": 0})
        assert space.graph(same) == space.base.graph(member)
        assert space.unscaled(same) == member


def test_arithmetic_grows_as_the_rule_says() -> None:
    """On widths that need no rounding: 2^phi within what ceilings of depth and even pixels allow."""
    space = CompoundSpace(
        input_shape=(3, 64, 64),
        base={**MOBILE, "widths": (64, 128), "depths": (5,), "resolutions": (64,), "stem": 64, "head": 256},
        by="phi",
        phi=(0, 1.0, 2.0),
    )
    largest = space.base.from_indices([len(c.options) - 1 for c in space.base.choices])
    macs = [space.graph(space.architecture({**largest.values, "scale.phi": phi})).cost.macs for phi in (0, 1.0, 2.0)]
    for phi in (1, 2):
        assert 0.85 <= macs[phi] / macs[0] / Compound().product ** phi <= 1.25


def test_equal_scalings_are_one_member() -> None:
    rules = ("compound", "dwr", "depth")
    space = made(by="rules", rules=rules, factors=(1.0, 2.0))
    member = space.base.sample(np.random.default_rng(0))
    still = {space.canonical(space.architecture({**member.values, "scale.rule": r})) for r in rules}
    assert len(still) == 1
    grown = {
        space.canonical(space.architecture({**member.values, "scale.rule": r, "scale.factor": 2.0})) for r in rules
    }
    assert len(grown) == 3


def test_cut_then_scaled_is_one_space() -> None:
    """A network's cuts, scaled: less of each group and more of all."""
    space = CompoundSpace(
        input_shape=(3, 32, 32),
        base={"name": "pruned", "model": "resnet20", "ratios": [0.5, 1.0]},
        by="free",
        depths=(1.0, 2.0),
        widths=(1.0, 2.0),
        resolutions=(0.5, 1.0),
    )
    whole = space.reference
    assert whole is not None
    macs = space.graph(whole).cost.macs
    wide = space.architecture({**whole.values, "scale.width": 2.0})
    assert space.graph(wide).cost.macs == pytest.approx(4 * macs, rel=0.05)
    small = space.architecture({**whole.values, "scale.resolution": 0.5})
    graph = space.graph(small)
    assert graph.inputs[0].shape == (3, 32, 32)
    assert graph.cost.macs == pytest.approx(macs / 4, rel=0.05)
    halved = {name: 0.5 if isinstance(value, float) and not name.startswith("scale.") else value
              for name, value in whole.values.items()}  # fmt: skip
    both = space.architecture({**halved, "scale.width": 2.0})
    assert space.graph(both).cost.macs == pytest.approx(macs, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "phy"}, "scales by phi, exponents, rules, free"),
        ({"base": {"depths": [1]}}, "base names the space"),
        ({"base": {"name": "compound"}}, "base names the space"),
        ({"base": {"name": "moblie"}}, "did you mean 'mobile'"),
        ({"by": "rules", "rules": ["compund"]}, "did you mean 'compound'"),
        ({"by": "free", "widths": [0, 1]}, "width is a multiplier above 0"),
        ({"by": "phi", "alpha": 0.5}, "alpha, beta and gamma"),
    ],
)
def test_mistakes_are_told(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        list(make_space("compound", settings).envelope())


def test_scaling_of_a_member() -> None:
    space = made(by="phi", phi=(0, 1.0))
    member = space.architecture({"scale.phi": 1.0})
    assert space.scaling(member) == Scaling(1.2, 1.1, 1.15)
