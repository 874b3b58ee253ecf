"""Networks brought to a latency, on made-up clocks: what predictions are worth, what is kept, what cannot be had."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nas_engine.baselines import Sizing
from search_spaces.errors import SpaceError, UnsatisfiableError
from search_spaces.graph import Graph, GraphBuilder
from search_spaces.scaling import Compound, Scaling, Single


def chain(scaling: Scaling) -> Graph:
    """Convolutions of 512 channels and a classifier, scaled exactly."""
    g = GraphBuilder((1, 4, 4))
    x = g.input
    for _ in range(max(1, round(3 * scaling.depth))):
        x = g.add("conv2d", x, out_channels=max(1, round(512 * scaling.width)), kernel_size=3, padding=1)
    return g.build(g.add("linear", g.add("flatten", x), out_features=10))


def macs_ms(graph: Graph) -> float:
    return graph.cost.macs / 1e8


@pytest.mark.parametrize("off", [0.2, 1.0, 7.0])
@pytest.mark.parametrize("target", [0.05, 0.4, 3.0])
def test_measurements_mend_predictions(off: float, target: float) -> None:
    """A model that is wrong by a factor, and misses a constant overhead, still leads to the target."""

    def truth(graph: Graph) -> float:
        return 0.02 + macs_ms(graph)

    sized = Sizing(Single("width"), chain, lambda g: off * macs_ms(g), truth).to(target)
    assert sized.measured_ms == truth(sized.graph) == pytest.approx(target, rel=0.06)
    assert sized.measured_ms <= 1.03 * target
    assert sized.predicted_ms == pytest.approx(off * macs_ms(sized.graph))
    assert sized.graph == chain(sized.scaling)
    assert sized.scaling.depth == sized.scaling.resolution == 1


def test_a_network_that_takes_the_target_stays_as_it_is() -> None:
    base = chain(Scaling())
    sized = Sizing(Compound(), chain, macs_ms, macs_ms).to(1.01 * macs_ms(base))
    assert (sized.graph, sized.scaling) == (base, Scaling())


def test_each_network_is_made_and_measured_once() -> None:
    made: list[Scaling] = []
    measured: list[Graph] = []

    def counted(name: list, what: Callable) -> Callable:
        return lambda arg: (name.append(arg), what(arg))[1]

    Sizing(Single("width"), counted(made, chain), macs_ms, counted(measured, lambda g: 3 * macs_ms(g))).to(0.3)
    assert len(made) == len(set(made)) < 40
    assert len(measured) == len(set(measured)) < 6


def test_a_floor_of_latency_is_told_with_what_was_measured() -> None:
    def truth(graph: Graph) -> float:
        return 1.0 + macs_ms(graph)

    with pytest.raises(UnsatisfiableError, match=r"takes 0\.500 ms: at .*width 0\.0.* it still takes 1\.0"):
        Sizing(Single("width"), chain, macs_ms, truth).to(0.5)


def test_sizes_that_cannot_be_made_bound_the_search() -> None:
    def picky(scaling: Scaling) -> Graph:
        if scaling.width < 0.4:
            raise SpaceError("too thin")
        return chain(scaling)

    sizing = Sizing(Single("width"), picky, macs_ms, macs_ms)
    smallest = macs_ms(chain(Scaling(width=0.5)))
    assert sizing.to(1.2 * smallest).scaling.width == pytest.approx(0.55, abs=0.03)
    with pytest.raises(UnsatisfiableError):
        sizing.to(smallest / 10)


def test_a_base_that_cannot_be_made_is_told_as_it_is() -> None:
    def none(scaling: Scaling) -> Graph:
        raise SpaceError("no such network")

    with pytest.raises(SpaceError, match="no such network"):
        Sizing(Single("width"), none, macs_ms, macs_ms).to(1.0)


def test_a_step_that_is_wrongly_predicted_to_miss_is_measured() -> None:
    """Depth comes in whole blocks; the model thinks too much of the fourth."""

    def predict(graph: Graph) -> float:
        return macs_ms(graph) * (2 if len(graph) > 6 else 1)

    base = macs_ms(chain(Scaling()))
    sized = Sizing(Single("depth"), chain, predict, macs_ms).to(1.6 * base)
    assert len(sized.graph) == 7
    assert base < sized.measured_ms <= 1.6 * base


def test_predictions_that_promise_too_much_are_followed_step_by_step() -> None:
    made: list[Scaling] = []

    def noted(scaling: Scaling) -> Graph:
        made.append(scaling)
        return chain(scaling)

    sized = Sizing(Single("width"), noted, lambda g: 1.0, macs_ms).to(10 * macs_ms(chain(Scaling())))
    assert sized.measured_ms <= 10.3 * macs_ms(chain(Scaling()))
    assert max(scaling.macs for scaling in made) <= 2**7
