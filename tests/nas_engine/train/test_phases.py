"""Progressive shrinking: which options are open in which epoch."""

from __future__ import annotations

import numpy as np
import pytest

from nas_engine.config import make_config
from nas_engine.config.elastic import Phase
from nas_engine.train.phases import Opened, Phases, matching
from search_spaces import SearchSpace, make_space
from search_spaces.errors import ConfigError

ORDER = [Phase(share=2), Phase(open=("kernel",)), Phase(open=("depth",), options=2), Phase(open=("depth", "width"))]


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return make_space("mobile", {"input_shape": (1, 8, 8), "widths": (8, 16), "strides": (1, 2)})


def options(opened: Opened, name: str) -> set[object]:
    """What members drawn from what is open have of a choice."""
    rng = np.random.default_rng(0)
    return {opened.sample(rng)[name] for _ in range(60)}


def test_no_phases_leave_all_open(space: SearchSpace) -> None:
    phases = Phases(space, (), 40)
    assert phases.starts == (0,)
    assert phases.at(39).whole
    rng, again = np.random.default_rng(0), np.random.default_rng(0)
    assert [phases.at(0).sample(rng) for _ in range(9)] == [space.sample(again) for _ in range(9)]


def test_choices_open_in_turn(space: SearchSpace) -> None:
    phases = Phases(space, ORDER, 10)
    assert phases.starts == (0, 4, 6, 8)
    seen = [
        [options(phases.at(e), f"stage0.{name}") for name in ("block0.kernel", "depth", "width")] for e in (0, 5, 7)
    ]
    assert seen[0] == [{7}, {3}, {1.0}]
    assert seen[1] == [{3, 5, 7}, {3}, {1.0}]
    assert seen[2] == [{3, 5, 7}, {2, 3}, {1.0}]
    assert phases.at(8).whole
    assert phases.at(99).whole


def test_what_no_phase_names_is_open_all_the_time(space: SearchSpace) -> None:
    first = Phases(space, ORDER, 10).at(0)
    assert options(first, "activation") == {"relu", "hardswish"}
    assert options(first, "stage1.block0.expansion") == {3, 4, 6}


def test_a_phase_tells_which_choices_it_opens(space: SearchSpace) -> None:
    phases = Phases(space, ORDER, 10)
    names = [{space.choices[i].name for i in phases.opens(p)} for p in range(4)]
    assert names[0] == set()
    assert names[1] == {f"stage{i}.block{j}.kernel" for i in (0, 1) for j in (0, 1, 2)}
    assert names[2] == {"stage0.depth", "stage1.depth"}
    assert names[3] == {f"stage{i}.{n}" for i in (0, 1) for n in ("depth", "width")}


@pytest.mark.parametrize(("epochs", "starts"), [(4, (0, 1, 2, 3)), (5, (0, 2, 3, 4)), (100, (0, 40, 60, 80))])
def test_every_phase_has_an_epoch(space: SearchSpace, epochs: int, starts: tuple[int, ...]) -> None:
    assert Phases(space, ORDER, epochs).starts == starts


def test_ends_are_those_of_what_is_open(space: SearchSpace) -> None:
    opened = Phases(space, ORDER, 10).at(5)
    assert opened.largest == space.from_indices([len(c.options) - 1 for c in space.choices])
    smallest = opened.smallest
    assert (smallest["stage0.block2.kernel"], smallest["stage0.depth"], smallest["stage0.width"]) == (3, 3, 1.0)
    assert opened.counts[0] == 1 + opened.space.choices[0].options.index(8)


def test_patterns_name_whole_names_or_their_ends(space: SearchSpace) -> None:
    def named(pattern: str) -> list[str]:
        return [space.choices[i].name for i in matching(space, pattern)]

    assert named("se") == ["stage0.se", "stage1.se"]
    assert named("stage1.depth") == ["stage1.depth"]
    assert named("stage1.block?.kernel") == [f"stage1.block{i}.kernel" for i in (0, 1, 2)]
    with pytest.raises(ConfigError, match=r"opens 'kernal'.*did you mean 'kernel'\?"):
        named("kernal")


def test_more_phases_than_epochs_are_refused(space: SearchSpace) -> None:
    with pytest.raises(ConfigError, match=r"4 phases .* do not fit into 3 epochs"):
        Phases(space, ORDER, 3)


def test_phases_are_written_short() -> None:
    config = make_config({"supernet": {"shrinking": [{"share": 0.5}, "kernel", ["depth", "width"]]}})
    assert config.supernet.shrinking == (Phase(share=0.5), Phase(open=("kernel",)), Phase(open=("depth", "width")))
    with pytest.raises(ConfigError, match=r"shrinking\.0\.share: .*greater than 0"):
        make_config({"supernet": {"shrinking": [{"share": 0}]}})
