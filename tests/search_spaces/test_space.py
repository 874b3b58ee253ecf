"""Choices, architectures and the walks over any space, as properties of random spaces with conditional choices."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_engine.testing.strategies import RandomSpace, spaces
from search_spaces import Architecture, Choice, SearchSpace, SpaceError, make_space
from search_spaces import spaces as registry


def member(data: st.DataObject, space: SearchSpace) -> Architecture:
    """Any member, drawn by its indices."""
    return space.from_indices([data.draw(st.integers(0, len(c.options) - 1)) for c in space.choices])


# ---- properties -------------------------------------------------------------------------------------------


@given(spaces())
def test_size_is_the_number_of_members(space: RandomSpace) -> None:
    codes = [a.code for a in space.enumerate()]
    assert len(codes) == space.size
    assert codes == sorted(set(codes))


@given(spaces())
def test_enumeration_is_what_all_indices_settle_to(space: RandomSpace) -> None:
    """The enumeration against its definition: settle every assignment and drop the repetitions."""
    settled = {space.from_indices(indices) for indices in product(*(range(len(c.options)) for c in space.choices))}
    assert set(space.enumerate()) == settled


@given(spaces(), st.data())
def test_equal_networks_are_equal_members(space: RandomSpace, data: st.DataObject) -> None:
    """Choices that do not count show neither in the member nor in its graph."""
    one, other = member(data, space), member(data, space)
    assert (one == other) == (space.graph(one) == space.graph(other))
    assert (one.id == other.id) == (one == other)


@given(spaces(), st.data())
def test_members_come_back_from_every_form(space: RandomSpace, data: st.DataObject) -> None:
    architecture = member(data, space)
    assert space.decode(architecture.code) == architecture
    assert space.from_json(architecture.to_json()) == architecture
    assert space.architecture(architecture.values) == architecture
    assert {name: architecture[name] for name in architecture.values} == architecture.values


@given(spaces(), st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_mutation_redraws_choices_that_count(space: RandomSpace, seed: int, changes: int) -> None:
    rng = np.random.default_rng(seed)
    architecture = space.sample(rng)
    movable = [i for i in space.counting(architecture) if len(space.choices[i].options) > 1]
    if not movable:
        with pytest.raises(SpaceError, match="nothing to mutate"):
            space.mutate(architecture, rng, changes)
        return
    mutant = space.mutate(architecture, rng, changes)
    assert mutant in set(space.enumerate())
    assert mutant != architecture
    moved = [i for i in movable if mutant.indices[i] != architecture.indices[i]]
    settled = set(movable) - set(space.counting(mutant))  # put to rest by the change of the choice above them
    assert len(set(moved) - settled) <= min(changes, len(movable)) <= len(set(moved) | settled)


@given(spaces(), st.data())
def test_neighbours_are_all_members_one_choice_away(space: RandomSpace, data: st.DataObject) -> None:
    architecture = member(data, space)
    expected = set()
    for position in space.counting(architecture):
        for option in range(len(space.choices[position].options)):
            indices = [*architecture.indices[:position], option, *architecture.indices[position + 1 :]]
            expected.add(space.from_indices(indices))
    near = list(space.neighbours(architecture))
    assert len(near) == len(set(near))
    assert set(near) == expected - {architecture}


def test_codes_sort_as_members_do_up_to_62_options() -> None:
    space = RandomSpace([Choice("many", tuple(range(62)))])
    codes = [a.code for a in space.enumerate()]
    assert codes == sorted(codes)
    assert [space.decode(code).indices for code in codes] == [(i,) for i in range(62)]


# ---- sampling ---------------------------------------------------------------------------------------------


def test_every_option_is_drawn_equally_often() -> None:
    space = RandomSpace([Choice("a", (1, 2, 3, 4)), Choice("b", (False, True))])
    rng = np.random.default_rng(0)
    counts = np.zeros(8)
    for _ in range(4000):
        a, b = space.sample(rng).indices
        counts[2 * a + b] += 1
    assert counts.min() > 400  # 500 expected, standard deviation 21
    assert counts.max() < 600


# ---- forms that others keep -------------------------------------------------------------------------------


def test_ids_are_the_same_on_every_machine() -> None:
    """Tables and run directories hold ids: a change of this figure breaks them."""
    space = RandomSpace([Choice("kernel", (3, 5)), Choice("act", ("relu", "silu")), Choice("se", (False, True))])
    architecture = space.architecture(kernel=5, act="relu", se=True)
    assert architecture.to_json() == '{"choices":{"act":"relu","kernel":5,"se":true},"space":"random"}'
    assert architecture.id == "e7ece01dc8cc695e"
    assert architecture.code == "101"


def test_ids_do_not_hang_on_the_process() -> None:
    program = (
        "from search_spaces import make_space; import numpy\n"
        "for name in ('mobile', 'nasbench201'):\n"
        "    space = make_space(name)\n"
        "    member = space.sample(numpy.random.default_rng(3))\n"
        "    print(member.id, space.graph(member).id)"
    )
    root = Path(__file__).resolve().parents[2]
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert len(runs[0].split()) == 4


# ---- mistakes ---------------------------------------------------------------------------------------------


@pytest.fixture
def space() -> RandomSpace:
    return RandomSpace([Choice("depth", (1, 2, 3)), Choice("kernel", (3, 5), when=("depth", (2, 3)))])


@pytest.mark.parametrize("options", [(), (3, 3), (1, 1.0), ("a", "a"), tuple(range(63))])
def test_options_must_be_distinct_and_not_too_many(options: tuple[int, ...]) -> None:
    with pytest.raises(SpaceError, match="choice 'k'"):
        Choice("k", options)


def test_true_is_not_one() -> None:
    choice = Choice("k", (1, True))
    assert choice.index(1) == 0
    assert choice.index(True) == 1


def test_conditions_must_name_a_choice_an_option_and_one_level() -> None:
    depth = Choice("depth", (1, 2))
    with pytest.raises(SpaceError, match="did you mean 'depth'"):
        RandomSpace([depth, Choice("k", (3, 5), when=("dept", (2,)))])
    with pytest.raises(SpaceError, match="no option 7"):
        RandomSpace([depth, Choice("k", (3, 5), when=("depth", (7,)))])
    with pytest.raises(SpaceError, match="one level only"):
        RandomSpace([depth, Choice("k", (3, 5), ("depth", (2,))), Choice("m", (3, 5), ("k", (3,)))])
    with pytest.raises(SpaceError, match="names a choice twice"):
        RandomSpace([depth, depth])


@pytest.mark.parametrize(("shape", "classes"), [((3, 32), 10), ((3, 0, 32), 10), ((3, 32, 32), 0)])
def test_data_of_impossible_shape_are_refused(shape: tuple[int, ...], classes: int) -> None:
    with pytest.raises(SpaceError, match="needs input_shape"):
        RandomSpace([Choice("a", (1, 2))], input_shape=shape, classes=classes)


def test_unknown_names_are_told_with_the_nearest(space: RandomSpace) -> None:
    with pytest.raises(SpaceError, match="did you mean 'kernel'"):
        space.architecture(kernal=3)
    with pytest.raises(SpaceError, match="no option 4"):
        space.architecture(depth=4)
    with pytest.raises(SpaceError, match="did you mean 'depth'"):
        space.architecture()["deph"]
    with pytest.raises(SpaceError, match="2 choices; got 3 indices"):
        space.from_indices([0, 0, 0])
    with pytest.raises(SpaceError, match="got index 3"):
        space.from_indices([3, 0])


@pytest.mark.parametrize("code", ["0", "000", "0!", "19", ""])
def test_broken_codes_are_refused(space: RandomSpace, code: str) -> None:
    with pytest.raises(SpaceError):
        space.decode(code)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "null",
        "[]",
        "{}",
        '{"space": "random"}',
        '{"space": "random", "choices": 3}',
        '{"space": "random", "choices": ["depth"]}',
        '{"space": "random", "choices": {"depth": [1]}}',
        '{"space": "other", "choices": {}}',
    ],
)
def test_broken_json_is_refused(space: RandomSpace, text: str) -> None:
    with pytest.raises(SpaceError):
        space.from_json(text)


def test_architectures_cannot_be_changed(space: RandomSpace) -> None:
    architecture = space.architecture()
    with pytest.raises(AttributeError):
        architecture.indices = (1, 1)  # type: ignore[misc]
    assert json.loads(architecture.to_json())["choices"] == {"depth": 1, "kernel": 3}


# ---- spaces by name and from a user's file ----------------------------------------------------------------


@pytest.fixture
def users_file(tmp_path: Path) -> Iterator[Path]:
    """A file as a user writes it, and the registry without its space afterwards."""
    path = tmp_path / "mine.py"
    path.write_text(
        """
from search_spaces import Choice, GraphBuilder, SearchSpace, register_space

@register_space("users_own")
class Mine(SearchSpace):
    def __init__(self, *, input_shape=(3, 32, 32), classes=10, width=8):
        self.width = width
        super().__init__([Choice("kernel", (1, 3, 5))], input_shape=input_shape, classes=classes)

    def graph(self, architecture):
        g = GraphBuilder(self.input_shape)
        x = g.add("conv_bn_act", g.input, name="stem", out_channels=self.width, kernel_size=architecture["kernel"])
        return g.build(g.add("classifier", x, name="head", classes=self.classes))
"""
    )
    yield path
    registry._entries.pop("users_own", None)


def test_a_users_file_gives_a_space(users_file: Path) -> None:
    space = make_space(f"{users_file}:users_own", {"width": 4, "classes": 3})
    graph = space.graph(space.architecture(kernel=5))
    assert (space.name, space.size, space.classes) == ("users_own", 3, 3)
    assert graph.cost.params == 4 * 3 * 25 + 2 * 4 + 4 * 3 + 3


def test_making_a_space_tells_what_is_wrong(users_file: Path) -> None:
    with pytest.raises(SpaceError, match="did you mean 'mobile'"):
        make_space("mobil")
    with pytest.raises(SpaceError, match="did you mean 'kernels'"):
        make_space("mobile", {"kernel": (3,)})
    with pytest.raises(SpaceError, match="no file"):
        make_space("absent.py:users_own")
    with pytest.raises(SpaceError, match="unknown space 'users_wrong'"):
        make_space(f"{users_file}:users_wrong")
