"""The cell space against the published one: all cells, their isomorphism, their costs, and known networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nas_engine.testing import SpaceContract
from nas_engine.testing.measure import counted_macs
from search_spaces import Architecture, Network, SpaceError, make_space
from search_spaces.nasbench201 import EDGES, OPERATIONS, NasBench201

SKELETONS = {"cifar10": (32, 10), "cifar100": (32, 100), "imagenet16": (16, 120)}
CODES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")  # the table's coding


OPERATIONS_OF_CODE = {code: OPERATIONS.index(name) for code, name in enumerate(CODES)}


@pytest.fixture(scope="module")
def space() -> NasBench201:
    return NasBench201()


@pytest.fixture(scope="module")
def table(shared_file: Callable[[str], Path]) -> pd.DataFrame:
    return pd.read_parquet(shared_file("nasbench201/nasbench201.parquet"))


@pytest.fixture(scope="module")
def cells(space: NasBench201, table: pd.DataFrame) -> list[Architecture]:
    """The table's cells, row by row."""
    columns = [table[f"op_{s}_{t}"].map(OPERATIONS_OF_CODE) for s, t in EDGES]
    return [space.from_indices(row) for row in zip(*columns, strict=True)]


class TestContract(SpaceContract):
    space = NasBench201()


class TestContractOfAnotherSkeleton(SpaceContract):
    """One channel, odd sides, four stages of two cells."""

    space = NasBench201(input_shape=(1, 27, 31), classes=3, channels=4, cells=2, stages=4)
    members = 12


def cell(space: NasBench201, *operations: str) -> Architecture:
    return space.architecture({f"edge{s}{t}": o for (s, t), o in zip(EDGES, operations, strict=True)})


# ---- against the published table --------------------------------------------------------------------------


def test_the_table_holds_every_member_once(space: NasBench201, cells: list[Architecture]) -> None:
    assert space.size == 15_625
    assert set(cells) == set(space.enumerate())


def test_keys_are_the_published_ones(space: NasBench201, table: pd.DataFrame, cells: list[Architecture]) -> None:
    keys = [space.key(a) for a in cells]
    assert len(set(keys)) == 6_466
    assert keys == table.unique_str.tolist()


@pytest.mark.parametrize("data", ["cifar10", "cifar100", pytest.param("imagenet16", marks=pytest.mark.slow)])
def test_costs_are_the_published_ones(data: str, table: pd.DataFrame, cells: list[Architecture]) -> None:
    """Dead edges are counted, as the benchmark does. Its MACs hold the linear bias; ours count it as additions."""
    side, classes = SKELETONS[data]
    skeleton = NasBench201(input_shape=(3, side, side), classes=classes)
    costs = [skeleton.graph(a).cost for a in cells]
    np.testing.assert_array_equal([c.params for c in costs], table[f"params_{data}_computed"])
    np.testing.assert_array_equal([c.macs for c in costs], table[f"flops_{data}_computed"] - classes)


# ---- isomorphism ------------------------------------------------------------------------------------------


def test_canonical_members_are_one_a_key(space: NasBench201) -> None:
    members = list(space.enumerate())
    canonical = [space.canonical(a) for a in members]
    assert len(set(canonical)) == 6_466
    assert all(space.key(c) == space.key(a) for a, c in zip(members, canonical, strict=True))
    assert all(space.canonical(c) == c for c in set(canonical))


def test_canonical_members_are_the_cheapest_of_their_key(space: NasBench201) -> None:
    """By the cost with dead edges: the representative carries no dead weights where a copy does without."""
    least: dict[str, int] = {}
    for a in space.enumerate():
        key, params = space.key(a), space.graph(a).cost.params
        least[key] = min(params, least.get(key, params))
    for key, a in ((space.key(a), a) for a in set(map(space.canonical, space.enumerate()))):
        assert space.graph(a).cost.params == least[key]


def test_copies_compute_the_same(space: NasBench201) -> None:
    """A cell and its representative, with weights put in the order of their edges, give the same output."""
    small = NasBench201(input_shape=(3, 8, 8), channels=4, cells=1, stages=1)
    a = cell(small, "skip_connect", "none", "nor_conv_3x3", "none", "none", "skip_connect")
    b = small.canonical(a)
    assert a != b
    networks = [Network(small.graph(x)).eval() for x in (a, b)]
    state = networks[0].state_dict()
    networks[1].load_state_dict(dict(zip(networks[1].state_dict(), state.values(), strict=True)))
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(networks[0](image), networks[1](image))


def test_sketches_of_copies_are_equal(space: NasBench201) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        a = space.sample(rng)
        sketch = space.sketch(a)
        assert sketch == space.sketch(space.canonical(a))
        assert sketch.live() == sketch
        assert sketch.inputs[0].shape == sketch[sketch.outputs[0]].shape == (16, 32, 32)


@pytest.mark.parametrize(
    ("operations", "key"),
    [
        (("none",) * 6, "#+#+#"),
        (("none", "none", "none", "skip_connect", "none", "none"), "#+#+0"),
        (("nor_conv_3x3", "none", "skip_connect", "none", "none", "skip_connect"), "#+#+#+(0)@nor_conv_3x3"),
        (
            ("avg_pool_3x3", "none", "none", "none", "nor_conv_1x1", "nor_conv_3x3"),
            "#+(#+#)@nor_conv_3x3+((0)@avg_pool_3x3)@nor_conv_1x1",  # a sum of nothing is no dead edge, by their rule
        ),
    ],
)
def test_keys_by_hand(space: NasBench201, operations: tuple[str, ...], key: str) -> None:
    assert space.key(cell(space, *operations)) == key


# ---- the published notation -------------------------------------------------------------------------------


def test_the_published_notation(space: NasBench201) -> None:
    text = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|"
    found = space.from_text(text)
    operations = ("nor_conv_3x3", "none", "avg_pool_3x3", "skip_connect", "nor_conv_1x1", "skip_connect")
    assert found == cell(space, *operations)
    assert space.to_text(found) == text
    rng = np.random.default_rng(0)
    assert all(space.from_text(space.to_text(a)) == a for a in (space.sample(rng) for _ in range(50)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a cell"),
        ("013412", "is not a cell"),
        ("|none~0|+|none~0|none~1|", "is not a cell"),
        ("|none~0|+|none~1|none~0|+|none~0|none~1|none~2|", "is not a cell"),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|nor_conv_7x7~2|", "edge23.*no option 'nor_conv_7x7': did you mean"),
    ],
)
def test_other_notations_are_refused(space: NasBench201, text: str, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        space.from_text(text)


def test_published_names_are_read(space: NasBench201, table: pd.DataFrame, cells: list[Architecture]) -> None:
    assert [space.from_text(text) for text in table["arch_str"]] == cells
    assert list(map(space.to_text, cells)) == table["arch_str"].tolist()


# ---- what runs --------------------------------------------------------------------------------------------


def test_the_empty_cell_gives_zeros_and_costs_its_skeleton(space: NasBench201) -> None:
    graph = space.graph(cell(space, *["none"] * 6))
    inner = graph["stage0.cell0"].signature.body
    assert inner is not None
    result = Network(inner.inline())(torch.ones(2, 16, 32, 32))
    assert not result.any()
    stem, reductions, head = 3 * 16 * 9 + 32, 0, 128 + 64 * 10 + 10
    for wide in (32, 64):
        reductions += wide * (wide // 2) * 9 + wide * wide * 9 + 4 * wide + wide * (wide // 2)
    assert graph.cost.params == stem + reductions + head == 73_306


def test_two_additions_of_the_same_edge_are_not_merged(space: NasBench201) -> None:
    """x + x is an addition of one value twice, although the identity is looked through."""
    graph = space.graph(cell(space, "skip_connect", "none", "none", "skip_connect", "skip_connect", "none"))
    cell_body = graph["stage0.cell0"].signature.body
    assert cell_body is not None
    image = torch.randn(1, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Network(cell_body)(image), 2 * image)


@pytest.mark.slow
def test_macs_of_many_members_are_those_torch_counts(space: NasBench201) -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        graph = space.graph(space.sample(rng))
        assert graph.simplify().cost.macs == counted_macs(graph)


def test_envelope_is_one_member_an_operation(space: NasBench201) -> None:
    assert [space.operations(a) for a in space.envelope()] == [(o,) * 6 for o in OPERATIONS]


def test_made_by_name() -> None:
    assert isinstance(make_space("nasbench201", {"channels": 8}), NasBench201)
