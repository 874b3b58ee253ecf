"""Which baseline a chosen network is held against, by how much, and in what words."""

from __future__ import annotations

import pytest

from nas_engine.baselines import compared


def network(trial: int = 3, accuracy: float = 0.9, test: float = 0.89, latency: float = 1.0) -> dict:
    return {"trial": trial, "accuracy": accuracy, "test_accuracy": test, "latency_ms": latency}


def baseline(name: str, accuracy: float, test: float | None, latency: float) -> dict:
    return {"id": name, "name": name, "accuracy": accuracy, "test_accuracy": test, "latency_ms": latency}


def test_the_best_one_that_is_at_most_as_slow_counts() -> None:
    """Ranked on the validation part, told by the test part; a slower one does not count, a twentieth is no slower."""
    beside = [
        baseline("slow", 0.95, 0.95, 1.06),
        baseline("same", 0.88, 0.86, 1.04),
        baseline("fast", 0.80, 0.87, 0.2),
    ]
    (found,) = compared([network()], beside, 10_000)
    assert (found.trial, found.rival) == (3, "same")
    assert found.points == pytest.approx(3.0)
    assert found.error == pytest.approx(100 * ((0.89 * 0.11 + 0.86 * 0.14) / 10_000) ** 0.5)
    assert found.words == (
        "Trial 3 (1.00 ms) is 3.0 points better than the best baseline at most as slow, same (1.04 ms): "
        "89.0 % against 86.0 % of the test images."
    )


def test_a_small_difference_is_put_down_to_chance() -> None:
    (found,) = compared([network()], [baseline("near", 0.9, 0.90, 1.0)], 1000)
    assert "1.0 points worse than" in found.words
    assert found.words.endswith("of the test images, which chance explains.")
    (equal,) = compared([network()], [baseline("equal", 0.9, 0.89, 1.0)], 1000)
    assert "is as accurate as the best" in equal.words


def test_where_none_is_as_fast_the_fastest_is_told() -> None:
    (found,) = compared([network()], [baseline("a", 0.9, 0.85, 3.0), baseline("b", 0.8, 0.8, 2.0)], 10_000)
    assert (found.rival, found.points) == (None, None)
    assert found.words.startswith("No baseline is as fast as trial 3 (1.00 ms); it is 9.0 points better than the fast")
    assert "est, b (2.00 ms): 89.0 % against 80.0 %" in found.words


def test_failed_ones_do_not_count_and_networks_come_by_accuracy() -> None:
    found = compared([network(1, 0.8), network(2, 0.9)], [baseline("failed", 0.99, None, 0.1)], 100)
    assert [c.trial for c in found] == [2, 1]
    assert found[0].words == "No baseline was trained to stand beside trial 2 (1.00 ms)."
