"""The recurrent space: contracts, published sizes, isomorphism, weight sharing, sketches, plain baselines."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from nas_engine.testing import SpaceContract
from nas_engine.testing.measure import counted_params
from predictors.encoding import Encoder
from predictors.tokens import Tokens
from search_spaces import Graph, Network, SpaceError, Stateful, Supernet, carrying, make_space
from search_spaces.mobile import Mobile
from search_spaces.recurrent import PUBLISHED, Nodes, Recurrent, plain

SMALL: dict[str, Any] = {"input_shape": (5,), "classes": 11, "nodes": 4, "hidden": 6}
NO_DROPOUT = {"input_dropout": 0.0, "hidden_dropout": 0.0, "output_dropout": 0.0}


class TestContract(SpaceContract):
    space = Recurrent(**SMALL)
    output_shape = (5, 11)


class TestContractOfPairs(SpaceContract):
    """Weights of pairs, not tied, other dropouts and the other output."""

    space = Recurrent(
        **SMALL,
        embedding=3,
        tied=False,
        output="all",
        weights="pair",
        word_dropout=0.2,
        input_dropout=0.0,
        hidden_dropout=0.3,
    )
    output_shape = (5, 11)
    members = 24


class TestContractOfOneNode(SpaceContract):
    space = Recurrent(input_shape=(2,), classes=3, nodes=1, hidden=2, **NO_DROPOUT)
    output_shape = (2, 3)
    members = 5


@pytest.fixture(scope="module")
def space() -> Recurrent:
    return Recurrent(**SMALL)


def relabelled(nodes: Nodes, rng: np.random.Generator) -> tuple[Nodes, list[int]]:
    """The same tree with its nodes in another order that numbers readers after what they read; and that order."""
    order: list[int] = [0]
    while len(order) <= len(nodes):
        ready = [j for j in range(1, len(nodes) + 1) if j not in order and nodes[j - 1][0] in order]
        order.append(int(rng.choice(ready)))
    return tuple((order.index(nodes[j - 1][0]), nodes[j - 1][1]) for j in order[1:]), order


# ---- sizes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "output", "cell", "published"),
    [
        (8, "all", 1700 * 1700 + 8 * 850 * 1700, 23),  # DARTS: 23 M (Liu et al. 2019, table 3)
        (11, "leaves", 1700 * 1700 + 11 * 850 * 1700, 27),  # NAO: 27 M (Luo et al. 2018, table 3)
    ],
)
def test_published_models_have_their_published_sizes(nodes: int, output: str, cell: int, published: int) -> None:
    space = Recurrent(nodes=nodes, hidden=850, output=output)
    graph = space.graph(space.architecture())
    assert graph["cell"].signature.cost.params == cell
    assert graph.cost.params == cell + 10_000 * 850 + 10_000 == counted_params(graph)
    assert round(graph.cost.params / 1e6) == published


def test_costs_by_hand() -> None:
    space = Recurrent(input_shape=(7,), classes=11, nodes=2, hidden=4, embedding=3, tied=False)
    cost = space.graph(space.architecture({"node2.input": 1})).simplify().cost
    weights = 8 * 3 + 8 * 4 + 2 * 8 * 4
    assert cost.params == 11 * 3 + weights + (4 * 11 + 11)
    assert cost.macs == 7 * (weights + 4 * 11)
    assert cost.adds == 7 * (8 + 3 * 2 * 4 + 11)  # input to state, three nodes, one end, the decoder's bias
    assert cost.counted


def test_steps_change_the_work_and_no_weight(space: Recurrent) -> None:
    longer = Recurrent(**{**SMALL, "input_shape": (15,)})
    a = space.architecture()
    short, long = space.graph(a).cost, longer.graph(a).cost
    assert (long.params, long.macs) == (short.params, 3 * short.macs)
    network, other = Network(space.graph(a)).eval(), Network(longer.graph(a)).eval()
    other.load_state_dict(network.state_dict())
    tokens = torch.randint(11, (2, 15), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(tokens), other(tokens), rtol=0, atol=0)


def test_number_of_members() -> None:
    assert Recurrent().size == 4**8 * 40_320
    assert Recurrent(nodes=12).size == 4**12 * 479_001_600


# ---- isomorphism -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "trees"),
    [
        (1, 4),
        (2, 16 + 10),  # a chain of two; two readers of the first in any order
        (3, 64 + 4 * 10 + 16 * 4 + 20),  # a chain; one with two readers; a chain beside one; three beside another
    ],
)
def test_canonical_members_are_as_many_as_trees(nodes: int, trees: int) -> None:
    space = Recurrent(**{**SMALL, "nodes": nodes})
    assert len({space.canonical(a) for a in space.enumerate()}) == trees


def test_relabelled_cells_are_one_network() -> None:
    """With the nodes' weights relabelled too, outputs are equal; canonical members do not depend on labels."""
    space = Recurrent(**{**SMALL, "nodes": 7}, **NO_DROPOUT)
    rng = np.random.default_rng(0)
    tokens = torch.randint(11, (2, 5), generator=torch.Generator().manual_seed(0))
    moved = 0
    for _ in range(20):
        architecture = space.sample(rng)
        nodes, order = relabelled(space.cell(architecture), rng)
        other = space.from_cell(nodes)
        assert space.canonical(other) == space.canonical(architecture)
        moved += other != architecture
        one, two = (Network(space.graph(a)).double() for a in (architecture, other))
        state = one.state_dict()
        names = {f"cell.node{new}": f"cell.node{old}" for new, old in enumerate(order) if old}
        two.load_state_dict({k: state[names.get(k, k)] for k in two.state_dict()})
        torch.testing.assert_close(two(tokens), one(tokens), rtol=1e-10, atol=1e-12)
    assert moved > 10


@pytest.mark.parametrize(
    "cell",
    [
        [(0, "tanh"), (0, "relu"), (1, "tanh"), (1, "tanh")],
        [(0, "relu"), (1, "tanh"), (2, "tanh"), (3, "relu")],
        [(0, "relu"), (0, "relu"), (2, "tanh"), (0, "sigmoid")],
    ],
)
def test_symmetric_members_are_all_that_are_the_same_cell(space: Recurrent, cell: Nodes) -> None:
    """Each of them as often as any other."""
    architecture, rng = space.from_cell(cell), np.random.default_rng(0)
    canonical = space.canonical(architecture)
    same = {a for a in space.enumerate() if space.canonical(a) == canonical}
    drawn = Counter(space.symmetric(architecture, rng) for _ in range(400 * len(same)))
    assert set(drawn) == same
    assert max(abs(n - 400) for n in drawn.values()) < 5 * 400**0.5


# ---- cells, tokens, sketches -----------------------------------------------------------------------------


def test_cells_come_back(space: Recurrent) -> None:
    rng = np.random.default_rng(0)
    for a in (space.sample(rng) for _ in range(50)):
        assert space.from_cell(space.cell(a)) == a
    for name, nodes in PUBLISHED.items():
        made = Recurrent(nodes=len(nodes))
        assert made.cell(made.from_cell(nodes)) == nodes, name


def test_the_ends_of_the_enas_cell_are_those_published() -> None:
    space = Recurrent(nodes=11)
    sketch = space.sketch(space.from_cell(PUBLISHED["enas"]))
    assert sketch["sum"].inputs == tuple(f"node{j}" for j in (2, 5, 6, 9, 10, 11))


@pytest.mark.parametrize("output", ["leaves", "all"])
def test_a_sketch_is_one_step_of_the_cell(output: str) -> None:
    space = Recurrent(**SMALL, output=output, **NO_DROPOUT)
    rng = np.random.default_rng(1)
    for architecture in (space.sample(rng) for _ in range(8)):
        network, step = Network(space.graph(architecture)).double(), Network(space.sketch(architecture)).double()
        with torch.no_grad():
            network.bias.zero_()
            network.embedding.copy_(torch.eye(11, 6))
            weights = dict(network.cell.named_parameters())
            for part, half in (("gate", slice(0, 6)), ("value", slice(6, 12))):
                step.node0.get_submodule(f"{part}_input").weight.copy_(weights["from_input"][half])
                step.node0.get_submodule(f"{part}_hidden").weight.copy_(weights["from_state"][half])
                for j in range(1, 5):
                    step.get_submodule(f"node{j}.{part}").weight.copy_(weights[f"node{j}"][half])
        h = torch.zeros(1, 6, dtype=torch.double)
        tokens = torch.tensor([[3, 0, 5, 5, 1]])
        logits = network(tokens)[..., :6]  # the decoder is the identity there
        for t in range(5):
            h = step(network.embedding[tokens[:, t]], h)
            torch.testing.assert_close(logits[:, t], h, rtol=1e-12, atol=1e-14)


def test_predictors_tell_cells_apart(space: Recurrent) -> None:
    encoder = Encoder(space)
    assert sum("activation" in column for column in encoder.columns) >= 4
    rng = np.random.default_rng(2)
    members = list({space.canonical(space.sample(rng)) for _ in range(200)})
    batch = encoder.encode(space.sketch(a) for a in members)
    seen = {(batch.rows[i].tobytes(), batch.adjacency[i].tobytes()) for i in range(len(members))}
    assert len(seen) == len(members)


def test_tokens_come_back(space: Recurrent) -> None:
    tokens, rng = Tokens(space), np.random.default_rng(0)
    members = [space.sample(rng) for _ in range(200)]
    assert list(tokens.decode(tokens.encode(members))) == members


# ---- weight sharing --------------------------------------------------------------------------------------


def test_pairs_have_weights_of_their_own() -> None:
    by_node, by_pair = (Supernet(Recurrent(**SMALL, weights=w)) for w in ("node", "pair"))
    assert {n for n, _ in by_node.named_parameters() if "node" in n} == {f"cell.node{j}" for j in range(1, 5)}
    pairs = {f"cell.node{j}.from{i}" for j in range(1, 5) for i in range(j)}
    assert {n for n, _ in by_pair.named_parameters() if "node" in n} == pairs


def test_supernets_carry_states_from_window_to_window(space: Recurrent) -> None:
    torch.manual_seed(0)
    supernet = Supernet(space).eval()
    rng = np.random.default_rng(0)
    tokens = torch.randint(11, (2, 10), generator=torch.Generator().manual_seed(0))
    for architecture in (space.sample(rng) for _ in range(3)):
        whole = supernet(tokens, architecture)
        with carrying(supernet):
            pieces = [supernet(window, architecture) for window in tokens.split(5, 1)]
            assert all(m.state is not None for m in supernet.modules() if isinstance(m, Stateful))
        torch.testing.assert_close(torch.cat(pieces, 1), whole)
        torch.testing.assert_close(supernet.extract(architecture)(tokens), whole)


def test_a_member_learns_to_repeat() -> None:
    """The token of two steps ago can only be known from the state."""
    torch.manual_seed(4)
    space = Recurrent(**{**SMALL, "hidden": 32}, **NO_DROPOUT)
    cell = space.from_cell([(0, "tanh"), (0, "relu"), (0, "tanh"), (0, "identity")])
    network = Network(space.graph(cell))
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(250):
        tokens = torch.randint(3, (32, 5))
        loss = torch.nn.functional.cross_entropy(network(tokens)[:, 2:].flatten(0, 1), tokens[:, :-2].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.6 < np.log(3)


# ---- plain layers ----------------------------------------------------------------------------------------


def width(graph: Graph, kind: str) -> int:
    return int(graph[kind].attributes["hidden"])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_plain_layers_are_as_large_as_allowed(kind: str, tied: bool) -> None:
    space = Recurrent(classes=100, hidden=30, nodes=5, tied=tied, embedding=None if tied else 20)
    budget = space.graph(space.architecture()).cost.params
    graph = plain(space, kind)
    assert graph.cost.params <= budget
    assert graph == plain(space, kind, budget)
    above = plain(space, kind, 10**6)
    assert width(above, kind) > width(graph, kind)
    hidden, e = width(graph, kind), width(graph, kind) if tied else 20
    gates = {"lstm": 4, "gru": 3}[kind]

    def params(h: int, e: int) -> int:
        return 100 * e + gates * (h * (e + h) + 2 * h) + (100 if tied else 100 * h + 100)

    assert graph.cost.params == params(hidden, e) == counted_params(graph)
    assert params(hidden + 1, e + tied) > budget


def test_plain_layers_have_the_skeleton_of_the_space(space: Recurrent) -> None:
    ours = [n.name for n in space.graph(space.architecture())]
    theirs = [n.name for n in plain(space, "lstm")]
    assert [n if n != "cell" else "lstm" for n in ours] == theirs
    assert plain(space, "lstm")["lstm"].attributes["dropout"] == space.dropouts["hidden"]


# ---- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"input_shape": (3, 32, 32)}, r"needs input_shape \(steps\) and classes >= 1; got \(3, 32, 32\)"),
        ({"input_shape": (0,)}, "needs input_shape"),
        ({"nodes": 0}, "nodes, hidden and embedding >= 1"),
        ({"embedding": 8, "hidden": 9}, "give tied=False"),
        ({"output": "leaf"}, "did you mean 'leaves'"),
        ({"weights": "nodes"}, "did you mean 'node'"),
        ({"hidden_dropout": 1.0}, "hidden_dropout from 0"),
        ({"dropout": 0.1}, "takes no 'dropout'"),
    ],
)
def test_mistakes_are_told(parameters: dict[str, Any], told: str) -> None:
    with pytest.raises(SpaceError, match=told) as error:
        make_space("recurrent", parameters)
    assert "\n" not in str(error.value)


def test_spaces_of_images_still_need_images() -> None:
    with pytest.raises(SpaceError, match=r"needs input_shape \(channels, height, width\)"):
        Mobile(input_shape=(3, 32), resolutions=(32,))


def test_cells_of_other_spaces_and_kinds_are_refused(space: Recurrent) -> None:
    with pytest.raises(SpaceError, match="has 4 nodes"):
        space.from_cell(PUBLISHED["darts"])
    with pytest.raises(SpaceError, match="did you mean 'tanh'"):
        space.from_cell([(0, "tahn"), (0, "relu"), (1, "relu"), (2, "relu")])
    with pytest.raises(SpaceError, match="did you mean 'lstm'"):
        plain(space, "lsmt")
    with pytest.raises(SpaceError, match="at least"):
        plain(space, "gru", 10)
