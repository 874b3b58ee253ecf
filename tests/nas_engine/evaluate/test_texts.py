"""Perplexity: exact whatever the window, near to that in streams, and the same for supernet members."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas_engine.data import TextSplits, load_text
from nas_engine.evaluate import MemberScorer, judge
from search_spaces import Architecture, Network, SearchSpace, Supernet, carrying, make_space


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextSplits:
    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("text") / "t.txt"
    path.write_text("".join(" ".join(rng.choice(list("abcdef"), 6)) + "\n" for _ in range(400)))
    return load_text(f"text:{path}", steps=7)


@pytest.fixture(scope="module")
def space(text: TextSplits) -> SearchSpace:
    shape = {"input_shape": text.input_shape, "classes": len(text.classes)}
    return make_space("recurrent", {**shape, "nodes": 3, "hidden": 8})


@pytest.fixture(scope="module")
def member(space: SearchSpace) -> Architecture:
    return space.canonical(space.sample(np.random.default_rng(0)))


@pytest.fixture(scope="module")
def network(space: SearchSpace, member: Architecture) -> Network:
    torch.manual_seed(0)
    made = Network(space.graph(member))
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(3)  # so that the state matters
    return made


def by_hand(network: Network, text: TextSplits) -> float:
    """Mean loss over the test text in one forward pass without any state kept."""
    tokens = text.test.tokens[None]
    network.eval()
    with torch.no_grad():
        logits = network(tokens[:, :-1])[0]
    return float(F.cross_entropy(logits.double(), tokens[0, 1:]))


@pytest.mark.parametrize("steps", [1, 2, 7, 31, 1000])
def test_the_value_is_that_of_the_whole_text_whatever_the_window(
    network: Network, text: TextSplits, steps: int
) -> None:
    parts = {name: replace(getattr(text, name), steps=steps) for name in ("train", "validation", "test")}
    found = judge(network, replace(text, **parts), parts["test"], batch_size=1)
    assert found.images == len(text.test)
    assert found.loss == pytest.approx(by_hand(network, text), rel=1e-5)
    assert found.accuracy == pytest.approx(math.exp(-found.loss))


def test_windows_without_a_state_are_worse_than_exact(network: Network, text: TextSplits) -> None:
    """The test above can fail: cut into windows that know nothing of each other the loss is another."""
    with torch.no_grad():
        cut = [F.cross_entropy(network.eval()(x)[0], y[0], reduction="sum") for x, y in text.walk(text.test, 1)]
    assert abs(float(sum(cut)) / len(text.test) - by_hand(network, text)) > 1e-3


def test_streams_are_near_to_exact_and_count_every_token(network: Network, text: TextSplits) -> None:
    found = judge(network, text, text.test, batch_size=64)
    assert found.images == len(text.test)
    assert found.loss == pytest.approx(by_hand(network, text), rel=2e-3)


def test_nothing_is_left_behind(network: Network, text: TextSplits) -> None:
    network.train()
    first = judge(network, text, text.validation)
    assert network.training
    assert judge(network, text, text.validation) == first
    with carrying(network):  # a caller's own states are restarted, not mixed in
        network.eval()(text.samples(1))
        assert judge(network, text, text.validation) == first


def test_a_member_scores_what_it_is_extracted_as(space: SearchSpace, text: TextSplits, member: Architecture) -> None:
    torch.manual_seed(2)
    supernet = Supernet(space)
    scorer = MemberScorer(supernet, text, batch_size=16)
    score, other = scorer.score(member), scorer.score(space.sample(np.random.default_rng(5)))
    assert scorer.score(member) == score  # neither the state nor the statistics of another member remain
    assert other != score
    alone = supernet.extract(member)
    halves = [judge(alone, text, half, batch_size=16) for half in text.validation.halves()]
    assert [score.first_half, score.second_half] == pytest.approx([h.accuracy for h in halves], rel=1e-5)
    whole = sum(h.loss * h.images for h in halves) / sum(h.images for h in halves)
    assert score.loss == pytest.approx(whole, rel=1e-5)
    assert score.accuracy == pytest.approx(math.exp(-whole), rel=1e-5)
    few = MemberScorer(supernet, text, batch_size=16, images=4)
    assert few.score(member).loss != score.loss


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(text: TextSplits) -> None:
    class Even(nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*tokens.shape, 7)

    assert 1 / judge(Even(), text, text.test).accuracy == pytest.approx(7)
