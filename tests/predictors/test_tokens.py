"""Tokens: nothing is lost on the way to a sequence and back, and the grammar lets through members only."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.tokens import START, Tokens
from search_spaces import Architecture, Choice, Graph, GraphBuilder, SearchSpace, make_space
from search_spaces.errors import SpaceError


class Backwards(SearchSpace):
    """A space that names the block's choice before the depth it depends on."""

    name = "backwards"

    def __init__(self) -> None:
        super().__init__(
            [Choice("kernel", (1, 3), ("depth", (2, 3))), Choice("se", (False, True)), Choice("depth", (1, 2, 3))]
        )

    def graph(self, architecture: Architecture) -> Graph:
        g = GraphBuilder(self.input_shape)
        return g.build(g.add("classifier", g.input, name="head", classes=self.classes))


def test_every_cell_there_and_back() -> None:
    space = make_space("nasbench201")
    members = list(space.enumerate())
    tokens = Tokens(space)
    rows = tokens.encode(members)
    assert rows.shape == (15625, 6)
    assert rows.dtype == np.int64
    assert tokens.size == 31
    assert tokens.decode(rows) == members
    assert len(np.unique(rows, axis=0)) == len(members)


def test_mobile_there_and_back() -> None:
    space = make_space("mobile")
    rng = np.random.default_rng(0)
    members = [space.sample(rng) for _ in range(10_000)]
    tokens = Tokens(space)
    rows = tokens.encode(members)
    assert tokens.decode(rows) == members
    assert tokens.allowed[np.arange(len(tokens)), rows].all()
    assert rows.min() > START


def test_ids_by_hand() -> None:
    """The kernel waits for the depth, se keeps its place."""
    space = Backwards()
    tokens = Tokens(space)
    assert [space.choices[i].name for i in tokens.order] == ["depth", "kernel", "se"]
    assert tokens.encode([space.architecture(depth=3, kernel=3, se=True)]).tolist() == [[3, 5, 7]]
    assert tokens.parents.tolist() == [-1, 0, -1]
    assert np.flatnonzero(tokens.wakes[1]).tolist() == [2, 3]
    assert [np.flatnonzero(row).tolist() for row in tokens.allowed] == [[1, 2, 3], [4, 5], [6, 7]]
    assert tokens.values.tolist() == list(range(8))  # no two choices have equal options


def test_equal_options_share_their_values() -> None:
    tokens = Tokens(make_space("nasbench201"))
    assert tokens.values.tolist() == [0, *[1, 2, 3, 4, 5] * 6]
    mobile = Tokens(make_space("mobile"))
    assert mobile.values.max() < mobile.size / 3


@pytest.mark.parametrize("make", [Backwards, lambda: make_space("mobile"), lambda: make_space("nasbench201")])
def test_the_grammar_lets_through_every_member(make: type[SearchSpace]) -> None:
    space = make()
    tokens, rng = Tokens(space), np.random.default_rng(0)
    rows = tokens.encode([space.sample(rng) for _ in range(200)])
    for step in range(len(tokens)):
        assert tokens.next_allowed(rows[:, :step])[np.arange(200), rows[:, step]].all()
    assert np.flatnonzero(tokens.next_allowed(rows)[0]).tolist() == [START]


@pytest.mark.parametrize("make", [Backwards, lambda: make_space("mobile"), lambda: make_space("nasbench201")])
def test_the_grammar_lets_through_members_only(make: type[SearchSpace]) -> None:
    """What follows the mask blindly decodes to members whose own tokens it wrote, resting choices included."""
    space = make()
    tokens, rng = Tokens(space), np.random.default_rng(0)
    rows = np.zeros((300, 0), dtype=np.int64)
    for _ in range(len(tokens)):
        drawn = np.where(tokens.next_allowed(rows), rng.random((300, tokens.size)), -1).argmax(1)
        rows = np.concatenate([rows, drawn[:, None]], axis=1)
    assert (tokens.encode(tokens.decode(rows)) == rows).all()


def test_resting_choices_have_one_token() -> None:
    tokens = Tokens(Backwards())
    after = tokens.next_allowed(np.array([[1], [2]]))  # depth 1, depth 2
    assert [np.flatnonzero(row).tolist() for row in after] == [[4], [4, 5]]
    assert tokens.decode(np.array([[1, 5, 6]]))[0]["kernel"] == 1  # it cannot speak while it rests


def test_no_members() -> None:
    tokens = Tokens(make_space("nasbench201"))
    assert tokens.encode([]).shape == (0, 6)
    assert tokens.decode(np.zeros((0, 6), dtype=np.int64)) == []


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[1, 6, 11, 16, 21]], r"shape \(B, 6\)"),
        ([1, 6, 11, 16, 21, 26], r"shape \(B, 6\)"),
        ([[1.0, 6, 11, 16, 21, 26]], "whole numbers"),
        (
            [[1, 6, 11, 16, 21, 26], [1, 6, 16, 16, 21, 26]],
            "sequence 1 has token 16 at step 2; choice 'edge12' .* 11 to",
        ),
        ([[0, 6, 11, 16, 21, 26]], "token 0 at step 0"),
    ],
)
def test_what_is_not_a_member_is_refused(rows: list[list[float]], words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        Tokens(make_space("nasbench201")).decode(np.array(rows))
