"""NAO's decoder: its arithmetic, the grammar it cannot leave, joint training, and symmetric copies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from predictors import load_predictor
from predictors.nao import JOINT, NAOPredictor, NAOSettings, Networks
from predictors.reading import Reader
from predictors.tokens import START, Tokens
from search_spaces import Architecture, Choice, Graph, GraphBuilder, SearchSpace, make_space
from search_spaces.errors import ConfigError
from search_spaces.tabular import TableSpace

QUICK = {**JOINT, "hidden": 32, "embedding": 16, "members": 2, "folds": 2, "max_steps": 60}


class Waiting(SearchSpace):
    """Choices that rest, one of them with a single option."""

    name = "waiting"

    def __init__(self) -> None:
        kernels = [Choice(f"kernel{i}", (1, 3, 5), when=("depth", tuple(range(i + 1, 4)))) for i in range(3)]
        super().__init__([*kernels, Choice("depth", (0, 1, 2, 3)), Choice("only", ("one",))])

    def graph(self, architecture: Architecture) -> Graph:
        g = GraphBuilder(self.input_shape)
        x = g.input
        for i in range(int(architecture["depth"])):
            x = g.add("conv2d", x, name=f"c{i}", out_channels=4, kernel_size=architecture[f"kernel{i}"], padding="same")
        return g.build(g.add("classifier", x, name="head", classes=self.classes))


SPACES: dict[str, Callable[[], SearchSpace]] = {
    "nasbench201": lambda: make_space("nasbench201"),
    "mobile": lambda: make_space("mobile"),
    "waiting": Waiting,
}


def networks(space: SearchSpace, count: int = 2, seed: int = 0) -> Networks:
    """Untrained networks with large random weights, biases included."""
    generator = torch.Generator().manual_seed(seed)
    settings = NAOSettings(hidden=12, embedding=6, balance=0.5, context="none")
    made = Networks(count, torch.from_numpy(Tokens(space).values), torch.zeros(2, 1), settings, generator)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    return made.requires_grad_(False)


def encoded(space: SearchSpace, count: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(Tokens(space).encode([space.sample(rng) for _ in range(count)]))


# ---- the grammar -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0, 50.0])
@pytest.mark.parametrize("name", SPACES)
def test_whatever_is_written_is_a_member(name: str, temperature: float) -> None:
    """Also from random weights and from points that no member is at."""
    space = SPACES[name]()
    tokens, made = Tokens(space), networks(space)
    dice = torch.Generator().manual_seed(1)
    outputs = made.encoder.on_sphere(torch.randn(2, 100, len(tokens), 12, generator=dice))
    rows = made.decoder.write(outputs, tokens, temperature, dice).reshape(200, -1)
    members = tokens.decode(rows)
    assert (tokens.encode(members) == rows).all()  # nothing was settled afterwards
    assert len(set(members)) > 5
    for member in members[:20]:
        assert space.graph(member)


@pytest.mark.parametrize("name", SPACES)
def test_the_mask_of_whole_sequences_is_that_of_each_step(name: str) -> None:
    space = SPACES[name]()
    tokens = Tokens(space)
    rows = encoded(space, 50).numpy()
    along = tokens.allowed_along(rows)
    for step in range(len(tokens)):
        assert (along[:, step] == tokens.next_allowed(rows[:, :step])).all()


# ---- arithmetic --------------------------------------------------------------------------------------------


def test_each_network_by_hand() -> None:
    """Luong attention after torch's own LSTM, whose gates are in another order and whose new content is tanh(x)."""
    space = make_space("nasbench201")
    made, tokens = networks(space), encoded(space, 7)
    decoder = made.decoder
    outputs, embedding = made.encoder(tokens.unsqueeze(0))
    logits = decoder(tokens.expand(2, -1, -1), outputs, embedding)
    for m in range(2):
        table = decoder.token[m] + decoder.value[m, decoder.values]
        lstm = torch.nn.LSTM(6, 12, batch_first=True).requires_grad_(False)
        for ours, theirs in ((decoder.enter, lstm.weight_ih_l0), (decoder.recur, lstm.weight_hh_l0)):
            enter, keep, leave, new = ours[m].split(12, dim=1)
            theirs.copy_(torch.cat([enter, keep, new / 2, leave], dim=1).T)
        enter, keep, leave, new = decoder.bias[m, 0].split(12)
        lstm.bias_ih_l0.copy_(torch.cat([enter, keep, new / 2, leave]))
        lstm.bias_hh_l0.zero_()
        before = torch.cat([torch.full((7, 1), START), tokens[:, :-1]], dim=1)
        state = embedding[m].unsqueeze(0)
        steps, _ = lstm(table[before], (state, state))
        query = steps @ decoder.query[m]
        attention = torch.softmax(torch.einsum("bth,blh->btl", query, outputs[m]), dim=-1)
        mixed = torch.einsum("btl,blh->bth", attention, outputs[m])
        spoken = torch.tanh(torch.cat([mixed, query], dim=-1) @ decoder.mix[m]) @ decoder.speak[m]
        assert torch.allclose(logits[m], spoken + decoder.speak_bias[m], atol=1e-4)


@pytest.mark.parametrize("name", SPACES)
def test_writing_agrees_with_teacher_forcing(name: str) -> None:
    """What is written greedily is the likeliest token of each step, given the ones before."""
    space = SPACES[name]()
    made, tokens = networks(space), Tokens(space)
    outputs, embedding = made.encoder(encoded(space, 20).unsqueeze(0))
    written = made.decoder.write(outputs, tokens)
    logits = made.decoder(torch.from_numpy(written), outputs, embedding)
    allowed = torch.from_numpy(tokens.allowed_along(written.reshape(40, -1))).view(logits.shape)
    assert (logits.masked_fill(~allowed, -torch.inf).argmax(-1).numpy() == written).all()


def test_the_loss_is_the_likelihood_of_the_free_tokens() -> None:
    space = Waiting()
    made, grammar, tokens = networks(space), Tokens(space), encoded(space, 9)
    outputs, embedding = made.encoder(tokens.unsqueeze(0))
    stacked = tokens.expand(2, -1, -1)
    allowed = torch.from_numpy(grammar.allowed_along(tokens.numpy())).expand(2, -1, -1, -1)
    logits = made.decoder(stacked, outputs, embedding)
    expected = 0.0
    for m in range(2):
        terms = []
        for b in range(9):
            for step in range(len(grammar)):
                choices = torch.from_numpy(np.flatnonzero(allowed[m, b, step].numpy()))
                if len(choices) > 1:
                    likely = logits[m, b, step, choices].log_softmax(0)
                    terms.append(-likely[(choices == tokens[b, step]).nonzero().item()])
        expected += torch.stack(terms).mean()
    assert made.decoder.loss(stacked, outputs, embedding, allowed).item() == pytest.approx(expected.item(), rel=1e-5)


def test_draws_follow_the_likelihoods() -> None:
    """The first token of one point, drawn 4,000 times at temperature 1."""
    space = make_space("nasbench201")
    made, grammar = networks(space, 1), Tokens(space)
    outputs, embedding = made.encoder(encoded(space, 1).unsqueeze(0))
    logits = made.decoder(encoded(space, 1).unsqueeze(0), outputs, embedding)[0, 0, 0]
    likely = logits[torch.from_numpy(grammar.allowed[0])].softmax(0).numpy()
    many = outputs.expand(1, 4000, -1, -1)
    rows = made.decoder.write(many, grammar, 1.0, torch.Generator().manual_seed(0))[0]
    shares = np.bincount(rows[:, 0] - 1, minlength=5) / 4000
    assert shares == pytest.approx(likely, abs=0.03)


# ---- joint training ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cells() -> tuple[SearchSpace, list[Architecture], np.ndarray]:
    space = make_space("nasbench201")
    rng = np.random.default_rng(0)
    members = list({space.canonical(space.sample(rng)): None for _ in range(700)})
    return space, members, np.array([float(sum(a.indices)) for a in members])


def distance(model: NAOPredictor, members: list[Architecture]) -> float:
    """Tokens that the decoder gets wrong of a member, on average."""
    tokens, _ = model.inputs(model.reader.read(members))
    outputs, _ = model.kept.encoder(tokens.unsqueeze(0))
    assert model.kept.decoder is not None
    return float((model.kept.decoder.write(outputs, model.tokens) != tokens.numpy()).sum(-1).mean())


def test_a_decoder_only_where_it_is_trained(cells: tuple[SearchSpace, list[Architecture], np.ndarray]) -> None:
    space, members, scores = cells
    alone = NAOPredictor(space, **{**QUICK, "balance": 1.0, "max_steps": 20}).fit(members[:20], scores[:20])
    assert alone.kept.decoder is None
    assert not any(name.startswith("decoder") for name in alone.kept.state_dict())


def test_decoders_are_kept(cells: tuple[SearchSpace, list[Architecture], np.ndarray], tmp_path: Path) -> None:
    space, members, scores = cells
    model = NAOPredictor(space, **{**QUICK, "max_steps": 20}).fit(members[:30], scores[:30])
    model.save(tmp_path)
    again = load_predictor(tmp_path, space)
    assert isinstance(again, NAOPredictor)
    assert again.id == model.id
    assert distance(again, members[30:60]) == distance(model, members[30:60])


@pytest.mark.slow
def test_members_it_has_not_seen_are_written_again(
    cells: tuple[SearchSpace, list[Architecture], np.ndarray],
) -> None:
    space, members, scores = cells
    model = NAOPredictor(space, **JOINT, members=2, folds=2).fit(members[:400], scores[:400])
    assert distance(model, members[400:]) < 0.05


def test_some_training_brings_the_decoder_near(cells: tuple[SearchSpace, list[Architecture], np.ndarray]) -> None:
    space, members, scores = cells
    short, longer = (
        NAOPredictor(space, **{**QUICK, "max_steps": steps}).fit(members[:100], scores[:100], groups=[0] * 100)
        for steps in (2, 120)
    )
    assert distance(longer, members[100:300]) < 0.7 * distance(short, members[100:300])


# ---- symmetric copies --------------------------------------------------------------------------------------


def test_symmetric_members_are_the_same_network_and_all_come_up() -> None:
    space = make_space("nasbench201")
    classes: dict[Architecture, set[Architecture]] = {}
    for member in space.enumerate():
        classes.setdefault(space.canonical(member), set()).add(member)
    rng = np.random.default_rng(0)
    cell = next(c for c, same in classes.items() if 3 <= len(same) <= 6)
    drawn = {space.symmetric(cell, rng) for _ in range(200)}
    assert drawn == classes[cell]
    assert all(space.symmetric(c, rng) in same for c, same in classes.items())


def test_spaces_without_symmetry_give_the_member_itself() -> None:
    space, rng = make_space("mobile"), np.random.default_rng(0)
    member = space.sample(rng)
    assert space.symmetric(member, rng) == member


def test_a_table_gives_members_that_it_has() -> None:
    inner, rng = make_space("nasbench201"), np.random.default_rng(0)
    drawn = list({inner.sample(rng): None for _ in range(3000)})
    rows = pd.DataFrame([{**a.values, "score": float(i)} for i, a in enumerate(drawn)])
    table = TableSpace(path=rows, target="score", graph="nasbench201")
    pairs = [(a, table.symmetric(a, rng)) for a in list(table.enumerate())[:500]]
    assert all(table.known(b) and table.canonical(a) == table.canonical(b) for a, b in pairs)
    assert any(a != b for a, b in pairs)


def test_training_shows_copies_in_the_share_asked_for() -> None:
    space = make_space("nasbench201")
    member = space.canonical(space.from_indices([0, 0, 1, 0, 2, 0]))  # the dead edges are free
    model = NAOPredictor(space, **QUICK)
    model.read_with(Reader.of(space))
    lessons = model.lessons(model.reader.read([member] * 50))
    assert lessons.copies.shape == (50, 8, 6)
    assert all(space.canonical(a) == member for a in model.tokens.decode(lessons.copies.flatten(0, 1).numpy()))
    shown = model._shown(lessons, torch.arange(50).repeat(4, 20), torch.Generator().manual_seed(0))
    other = (shown != lessons.tokens[0]).any(-1).float().mean().item()
    copies = (lessons.copies != lessons.tokens[0]).any(-1).float().mean().item()
    assert other == pytest.approx(0.5 * copies, abs=0.05)
    plain = NAOPredictor(space, **{**QUICK, "symmetric": 0.0})
    plain.read_with(model.reader)
    assert plain.lessons(model.reader.read([member])).copies.shape[1] == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"balance": 0.0}, "balance above 0"), ({"balance": 1.5}, "up to 1"), ({"symmetric": -0.1}, "from 0 to 1")],
)
def test_settings_are_checked(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NAOPredictor(make_space("nasbench201"), **settings)


@pytest.mark.filterwarnings("error")
def test_without_context_the_embedding_alone_is_scored() -> None:
    space, rng = make_space("nasbench201"), np.random.default_rng(0)
    members = [space.canonical(space.sample(rng)) for _ in range(12)]
    model = NAOPredictor(space, **{**QUICK, "context": "none", "max_steps": 20}).fit(
        members, range(12), groups=[0] * 12
    )
    assert model.kept.scorer.weights[0].shape[1] == QUICK["hidden"]
    assert np.isfinite(model.predict(members)[0]).all()
