"""Rounds of timing: ratios are taken within a round."""

import numpy as np

from benchmarks.timing import ClockedTimer, Ratios, in_rounds
from predictors.cost import DeviceProfile
from search_spaces import GraphBuilder


def test_a_slow_round_does_not_move_ratios() -> None:
    rows = np.array([[1.0, 2.0], [10.0, 20.0], [1.0, 2.2], [1.0, 1.8]])
    found = Ratios.of(rows)
    np.testing.assert_allclose(found.median, [1, 2])
    assert found.told(2) == {"ratio": [1.0, 2.0], "quartiles": [[1.0, 1.0], [1.95, 2.05]]}


def test_the_larger_network_takes_longer() -> None:
    g = [GraphBuilder((c, 16, 16)) for c in (8, 64)]
    graphs = [b.build(b.add("conv2d", b.input, out_channels=64, kernel_size=3, padding="same")) for b in g]
    profile = DeviceProfile.detect()
    rows = in_rounds({"pair": graphs, "one": graphs[:1]}, profile, rounds=3, seconds=0.01, clock="cpu")
    assert rows["pair"].shape == (3, 2)
    assert rows["one"].shape == (3, 1)
    assert rows["pair"][:, 1].min() > rows["pair"][:, 0].min() > 0
    first, second = ClockedTimer(profile, "wall")(graphs, 0.01)
    assert second.low_ms > first.low_ms
