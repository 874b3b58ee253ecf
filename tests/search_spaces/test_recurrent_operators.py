"""Operators over the steps of a text: contracts, the cell against its definition, state, dropouts of one mask."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from nas_engine.testing import OperatorContract, example
from nas_engine.testing.operators import Example
from search_spaces import GraphBuilder, GraphError, Network, Stateful, carrying, reset_state
from search_spaces.modules import Recurrence

NODES = ((0, "tanh"), (0, "relu"), (1, "sigmoid"), (1, "identity"), (3, "tanh"))


EXAMPLES = (
    example("uniform_parameter", size=(1, 4, 3), bound=0.5),
    example("variational_dropout", (5, 3), p=0.4),
    Example("word_dropout", ((5,), (5, 3)), {"rows": 7, "p": 0.4}, whole={0: 7}),
    example("highway", (3,), features=3),
    example("highway", (2,), (3,), features=3, activation="identity"),
    example("recurrent_cell", (5, 2), hidden=3, nodes=()),
    example("recurrent_cell", (5, 3), hidden=3, nodes=NODES),
    example("recurrent_cell", (5, 2), hidden=4, nodes=NODES, output="all", dropout=0.3, weights="pair"),
    Example(
        "recurrence",
        ((5, 2), (6, 2), (6, 3), (6, 3)),
        {"nodes": ((0, "relu"),)},
        shared=frozenset({1, 2, 3}),
    ),
    example("lstm", (5, 2), hidden=3),
    example("lstm", (5, 3), hidden=3, dropout=0.3),
    example("gru", (5, 2), hidden=3),
    example("gru", (5, 3), hidden=3, dropout=0.3),
)


class TestContract(OperatorContract):
    examples = EXAMPLES


def cell(nodes: tuple[tuple[int, str], ...] = NODES, **settings: object) -> Network:
    """A cell of width 4 on windows `(6, 3)`, in double precision."""
    torch.manual_seed(0)
    g = GraphBuilder((6, 3))
    x = g.add("recurrent_cell", g.input, name="cell", hidden=4, nodes=nodes, **settings)
    return Network(g.build(x)).double()


def windows(steps: int = 6, batch: int = 2) -> Tensor:
    return torch.randn(batch, steps, 3, generator=torch.Generator().manual_seed(1), dtype=torch.double)


def by_definition(network: Network, x: Tensor, nodes: tuple[tuple[int, str], ...], output: str, mask: Tensor) -> Tensor:
    """The cell as DARTS and ENAS write it down, node by node and step by step."""
    weights = dict(network.cell.named_parameters())
    functions = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda z: z}
    h, results = x.new_zeros(len(x), 4), []
    for t in range(x.shape[1]):
        c, z = (x[:, t] @ weights["from_input"].T + (h * mask) @ weights["from_state"].T).split(4, -1)
        states = [h + torch.sigmoid(c) * (torch.tanh(z) - h)]
        for j, (read, kind) in enumerate(nodes, 1):
            s = states[read]
            c, z = ((s * mask) @ weights[f"node{j}"].T).split(4, -1)
            states.append(s + torch.sigmoid(c) * (functions[kind](z) - s))
        read_by_others = {read for read, _ in nodes}
        ends = states[1:] if output == "all" else [s for i, s in enumerate(states) if i not in read_by_others]
        h = sum(ends) / len(ends)  # type: ignore[assignment]
        results.append(h)
    return torch.stack(results, 1)


CHAIN = ((0, "relu"), (1, "tanh"), (2, "identity"))
STAR = ((0, "tanh"), (0, "relu"), (0, "tanh"), (0, "sigmoid"))
TANGLED = ((0, "tanh"), (0, "relu"), (2, "tanh"), (1, "relu"), (2, "sigmoid"), (1, "tanh"), (4, "relu"))


@pytest.mark.parametrize("output", ["leaves", "all"])
@pytest.mark.parametrize("nodes", [NODES, CHAIN, STAR, TANGLED])
def test_cells_do_what_they_are_defined_to_do(nodes: tuple[tuple[int, str], ...], output: str) -> None:
    """Outputs and gradients of weights and of inputs; nodes are computed in another order and together."""
    network, x = cell(nodes, output=output), windows().requires_grad_()
    tensors = [x, *network.parameters()]
    weight = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    ours, theirs = network(x), by_definition(network, x, nodes, output, x.new_ones(2, 4))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    pairs = zip(*(torch.autograd.grad((y * weight).sum(), tensors) for y in (ours, theirs)), strict=True)
    for own, wanted in pairs:
        torch.testing.assert_close(own, wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("nodes", [NODES, TANGLED])
def test_hidden_dropout_is_one_mask_for_all_nodes_and_steps(nodes: tuple[tuple[int, str], ...]) -> None:
    network, x = cell(nodes, dropout=0.5).train(), windows()
    torch.manual_seed(3)
    ours = network(x)
    torch.manual_seed(3)
    mask = nn.functional.dropout(x.new_ones(2, 4), 0.5)
    assert 0 < int((mask == 0).sum()) < mask.numel()
    torch.testing.assert_close(ours, by_definition(network, x, nodes, "leaves", mask), rtol=1e-12, atol=1e-14)
    network.eval()
    torch.testing.assert_close(network(x), cell(nodes)(x), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_torchs_layers_are_torchs(kind: str) -> None:
    g = GraphBuilder((6, 3))
    network = Network(g.build(g.add(kind, g.input, name="layer", hidden=4)))
    torchs = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](3, 4, batch_first=True)
    torchs.load_state_dict(network.layer.state_dict())
    x = windows().float()
    torch.testing.assert_close(network(x), torchs(x)[0], rtol=0, atol=0)


def test_dropped_hidden_weights_are_the_same_for_a_window() -> None:
    g = GraphBuilder((6, 3))
    network = Network(g.build(g.add("lstm", g.input, name="layer", hidden=4, dropout=0.5)))
    plain = nn.LSTM(3, 4, batch_first=True)
    plain.load_state_dict(network.layer.state_dict())
    x = windows().float()
    torch.manual_seed(3)
    dropped = network(x)
    torch.manual_seed(3)
    with torch.no_grad():
        plain.weight_hh_l0.copy_(nn.functional.dropout(plain.weight_hh_l0, 0.5))
    torch.testing.assert_close(dropped, plain(x)[0])
    dropped.sum().backward()
    assert network.layer.weight_hh_l0.grad.count_nonzero() > 0


# ---- state -----------------------------------------------------------------------------------------------


def layers() -> dict[str, Network]:
    made = {"cell": cell(), "all": cell(TANGLED, output="all")}
    for kind in ("lstm", "gru"):
        g = GraphBuilder((6, 3))
        torch.manual_seed(0)
        made[kind] = Network(g.build(g.add(kind, g.input, name="cell", hidden=4))).double()
    return made


@pytest.mark.parametrize("kind", layers())
def test_windows_that_follow_one_another_are_one_long_window(kind: str) -> None:
    network, x = layers()[kind], windows(steps=12)
    whole = network(x)
    with carrying(network):
        pieces = torch.cat([network(x[:, :5]), network(x[:, 5:6]), network(x[:, 6:])], 1)
    torch.testing.assert_close(pieces, whole, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(network(x), whole, rtol=0, atol=0)
    assert not torch.allclose(torch.cat([network(x[:, :6]), network(x[:, 6:])], 1), whole)


@pytest.mark.parametrize("kind", layers())
def test_states_are_detached_and_no_weights(kind: str) -> None:
    network, x = layers()[kind], windows().requires_grad_()
    names = set(network.state_dict())
    (part,) = [m for m in network.modules() if isinstance(m, Stateful)]
    assert part.state is None
    with carrying(network):
        assert part.carry
        network(x)
        kept = part.state
        assert kept is not None
        for tensor in kept if isinstance(kept, tuple) else (kept,):
            assert tensor.shape == (2, 4)
            assert not tensor.requires_grad
        again = windows().requires_grad_()
        network(again).sum().backward()
        assert x.grad is None
        assert set(network.state_dict()) == names
        reset_state(network)
        assert part.state is None
    assert not part.carry
    assert part.state is None


def test_a_batch_of_another_size_starts_from_zeros() -> None:
    network = cell()
    with carrying(network):
        network(windows(batch=3))
        torch.testing.assert_close(network(windows(batch=2)), cell()(windows(batch=2)), rtol=0, atol=0)


def test_carrying_ends_where_an_error_is_raised_and_may_be_nested() -> None:
    network = cell()
    (part,) = [m for m in network.modules() if isinstance(m, Stateful)]
    with pytest.raises(RuntimeError), carrying(network):
        network(windows()[..., :2])
    assert (part.carry, part.state) == (False, None)
    with carrying(network):
        with carrying(network):
            network(windows())
        assert (part.carry, part.state) == (True, None)


def test_copies_have_states_of_their_own() -> None:
    network = cell()
    with carrying(network):
        network(windows())
        other = copy.deepcopy(network)
        reset_state(other)
        (part,) = [m for m in network.modules() if isinstance(m, Stateful)]
        assert part.state is not None


# ---- dropouts --------------------------------------------------------------------------------------------


def test_variational_dropout_is_one_mask_for_all_steps() -> None:
    g = GraphBuilder((6, 50))
    network = Network(g.build(g.add("variational_dropout", g.input, name="drop", p=0.4)))
    x = torch.ones(3, 6, 50)
    torch.manual_seed(0)
    y = network(x)
    assert torch.equal(y, y[:, :1].expand_as(y))
    assert not torch.equal(y[0], y[1])
    assert sorted(y.unique().tolist()) == pytest.approx([0, 1 / 0.6])
    assert 0.2 < float((y[:, 0] == 0).float().mean()) < 0.6
    assert torch.equal(network.eval()(x), x)


def test_word_dropout_takes_words_out_everywhere() -> None:
    g = GraphBuilder()
    tokens, x = (
        g.add("input", name=n, size=s, dtype=d) for n, s, d in (("t", (8,), "int64"), ("x", (8, 2), "float32"))
    )
    network = Network(g.build(g.add("word_dropout", tokens, x, name="drop", rows=40, p=0.5)))
    words = torch.randint(40, (30, 8), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    y = network(words, torch.ones(30, 8, 2))
    for word in words.unique():
        assert len(y[words == word].unique()) == 1
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(network.eval()(words, torch.ones(30, 8, 2)), torch.ones(30, 8, 2))


# ---- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "shapes", "attributes", "told"),
    [
        ("recurrent_cell", [(5, 3)], {"nodes": ((1, "tanh"),)}, "node 1 of a recurrent cell reads node 1"),
        ("recurrent_cell", [(5, 3)], {"nodes": ((0, "tahn"),)}, "did you mean 'tanh'"),
        ("recurrent_cell", [(5, 3)], {"nodes": (), "output": "leafs"}, "did you mean 'leaves'"),
        ("recurrent_cell", [(5, 3)], {"nodes": (), "weights": "pairs"}, "did you mean 'pair'"),
        ("recurrent_cell", [(5, 3)], {"nodes": (), "dropout": 1.0}, "probability 1.0"),
        ("recurrent_cell", [(5,)], {"nodes": ()}, "2 axes"),
        ("lstm", [(5,)], {}, "2 axes"),
        ("gru", [(5, 3)], {"dropout": -0.1}, "probability -0.1"),
    ],
)
def test_mistakes_are_told(
    operator: str, shapes: list[tuple[int, ...]], attributes: dict[str, object], told: str
) -> None:
    g = GraphBuilder(*shapes)
    with pytest.raises(GraphError, match=told) as error:
        g.add(operator, *g.inputs, hidden=4, **attributes)
    assert "\n" not in str(error.value)


def test_weights_must_fit() -> None:
    g = GraphBuilder((5, 3), (8, 3), (8, 4), (8, 5))
    with pytest.raises(GraphError, match="no fit"):
        g.add("recurrence", *g.inputs, nodes=((0, "tanh"),))
    with pytest.raises(GraphError, match="no fit"):
        g.add("recurrence", *g.inputs[:3], nodes=((0, "tanh"),))


def test_levels_hold_every_node_once() -> None:
    levels = Recurrence(TANGLED).levels
    assert sorted(j for level in levels for j in level) == list(range(len(TANGLED) + 1))
    assert [len(level) for level in levels] == [1, 2, 4, 1]
