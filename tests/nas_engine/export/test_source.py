"""The generated source: the same state dict, the same numbers, and code that a person can read."""

from __future__ import annotations

import ast
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas_engine.export import Card
from nas_engine.export.source import model_source
from nas_engine.export.source.text import WIDTH, call_lines, parse_construction, statement_lines
from search_spaces import Graph, GraphBuilder, Network, make_space
from search_spaces.errors import ExportError
from search_spaces.trace import trace
from tests.nas_engine.export.networks import card, settle

SPACES: dict[str, dict[str, Any]] = {
    "mobile": {"input_shape": (1, 12, 12), "widths": (8, 16), "strides": (1, 2), "stem": 8, "head": 16},
    "nasbench201": {"input_shape": (1, 8, 8), "channels": 4, "cells": 2},
}


def module_of(source: str) -> ModuleType:
    module = ModuleType("model")
    module.__file__ = "model.py"
    exec(compile(source, "model.py", "exec"), module.__dict__)
    return module


def agree(graph: Graph, told: Card | None = None) -> str:
    """The source of a graph, which was seen to hold the network's tensors and to give its numbers."""
    source = model_source(graph, told or card())
    network, written = Network(graph), module_of(source).Network()
    assert list(written.state_dict()) == list(network.state_dict())
    assert [n for n, _ in written.named_parameters()] == [n for n, _ in network.named_parameters()]
    settle(network)
    written.load_state_dict(network.state_dict())
    images = torch.randn(3, *graph.inputs[0].shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(written.eval()(images), network.eval()(images), rtol=0, atol=0)
    assert max(map(len, source.splitlines())) <= WIDTH + 10
    return source


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("seed", range(8))
def test_members_of_spaces(name: str, seed: int) -> None:
    space = make_space(name, SPACES[name])
    agree(space.graph(space.sample(np.random.default_rng(seed))))


def test_equal_blocks_share_a_class_and_differences_are_arguments() -> None:
    space = make_space("nasbench201", SPACES["nasbench201"])
    member = space.decode("444444")
    source = agree(space.graph(member))
    classes = [n.name for n in ast.parse(source).body if isinstance(n, ast.ClassDef)]
    assert classes.count("Nasbench201Cell") == 1
    assert "self.cell0 = Nasbench201Cell(in_channels=in_channels)" in source
    assert "self.stage2 = Stage(in_channels=16)" in source
    assert len(classes) == len(set(classes)) <= 10


class Residual(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.down = nn.Sequential(nn.Conv2d(channels, out, 1), nn.BatchNorm2d(out)) if out != channels else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.act(self.bn1(self.conv1(x))))
        return self.act(y + (x if self.down is None else self.down(x)))


class ResNet(nn.Module):
    """Children that are numbers, as traced networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(Residual(1, 4), Residual(4, 4))
        self.layer2 = nn.Sequential(Residual(4, 8), Residual(8, 8))
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


def test_numbered_children() -> None:
    source = agree(trace(ResNet(), torch.zeros(2, 1, 8, 8)))
    assert 'x = self.layer1["1"](x)' in source
    assert source.count("class LayerBlock") == 2


class Entangled(nn.Module):
    """What makes names hard: shared modules, second names, tensors nobody reads, odd and forbidden names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.twice = Residual(4, 4)
        self.odd = nn.Module()
        for name, channels in (("keys", 4), ("0", 4), ("class", 4), ("__hidden", 4), ("für", 4)):
            self.odd.add_module(name, nn.Conv2d(channels, channels, 1))
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(1, 4, 1, 1)) for _ in range(2)])
        self.unread = nn.Parameter(torch.ones(3))
        self.register_buffer("offset", torch.zeros(1, 4, 1, 1))
        self.head = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.head.weight
        self.last = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.stem(x)))
        for i, conv in enumerate(self.odd.children()):
            x = x + conv(x) * self.scales[i % 2]
        x = (x + self.offset).mean((2, 3))
        return self.last(self.tied(self.head(x)).relu())


def test_hard_names_and_shared_weights() -> None:
    source = agree(trace(Entangled(), torch.zeros(2, 1, 8, 8)))
    assert "self.tied.weight = self.head.weight" in source
    written = module_of(source).Network()
    assert written.tied.weight is written.head.weight


def test_a_module_with_another_inside_it() -> None:
    g = GraphBuilder((1, 8, 8))
    x = g.add("conv2d", g.input, name="a", out_channels=4)
    x = g.add("conv2d", x, name="a.b", out_channels=4)
    x = g.add("activation", x, name="a.b.c")
    agree(g.build(g.add("classifier", x, name="0.head", classes=10)))


def test_a_function_that_bears_the_name_of_a_folder() -> None:
    g = GraphBuilder((1, 8, 8))
    x = g.add("conv2d", g.input, name="gate.conv", out_channels=4)
    x = g.add("batch_norm", x, name="gate.bn")
    x = g.add("activation", x, name="gate")
    x = g.add("conv2d", g.add("activation", x, name="torch", kind="tanh"), name="F", out_channels=4)
    agree(g.build(g.add("classifier", x, name="lambda", classes=10)))


def test_dense_joins_are_broken_into_lines() -> None:
    g = GraphBuilder((1, 4, 4))
    parts = [g.add("conv2d", g.input, name=f"branch_of_many{i}", out_channels=2) for i in range(30)]
    x = g.add("concat", *parts, name="join")
    agree(g.build(g.add("classifier", x, name="head", classes=10)))


def test_a_large_constant_is_broken_into_lines() -> None:
    g = GraphBuilder((1, 8, 8))
    table = g.add("constant", name="table", size=(1, 1, 8, 8), values=tuple(i / 7 for i in range(64)))
    x = g.add("add", g.input, table, name="moved")
    source = agree(g.build(g.add("classifier", x, name="head", classes=10)))
    assert "persistent=False" in source


def test_texts_of_the_card_cannot_break_the_source() -> None:
    g = GraphBuilder((1, 4, 4))
    graph = g.build(g.add("classifier", g.input, name="head", classes=10))
    names = ('"""', "back\\slash", "new\nline", "it's", "{{ x }}", "für", *"ghij")
    told = card(name='a"""\nimport os', data="\\", classes=names)
    module = module_of(agree(graph, told))
    assert names == module.CLASSES
    assert module.__doc__ is not None
    assert 'a""" import os' in module.__doc__


def test_many_classes_and_no_normalisation() -> None:
    g = GraphBuilder((1, 4, 4))
    graph = g.build(g.add("classifier", g.input, name="head", classes=10))
    module = module_of(agree(graph, card(classes=[f"class number {i}" for i in range(1000)], mean=(), std=())))
    assert len(module.CLASSES) == 1000
    assert not hasattr(module, "preprocess")


class Siamese(nn.Module):
    """A block with inner shares that is called at two places of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.block = Residual(4, 4)
        self.part = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Tanh())
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.block(x) + self.part(x) * self.block(x.flip(-1)) + self.part(x.flip(-2))
        return self.head(x.mean((2, 3)))


def test_blocks_that_are_called_at_two_places() -> None:
    agree(trace(Siamese(), torch.zeros(2, 1, 8, 8)))


class Sorting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.cummax(x.flatten(1), 1).values)


def test_parts_without_source_are_named() -> None:
    graph = trace(Sorting(), torch.zeros(2, 1, 8, 8))
    with pytest.raises(
        ExportError, match="is of operator 'other', which has no source to write down; leave the format"
    ):
        model_source(graph, card())


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("nn.Conv2d(3, 8, (3, 3), stride=(1, 1), padding=(1, 1), groups=1, bias=False)",
         "nn.Conv2d(3, 8, 3, padding=1, bias=False)"),
        ("nn.Conv2d(3, 8, (3, 5), stride=(1, 2), bias=True)", "nn.Conv2d(3, 8, (3, 5), stride=(1, 2))"),
        ("nn.BatchNorm2d(8, eps=1e-05, momentum=None, affine=True)", "nn.BatchNorm2d(8, momentum=None)"),
        ("nn.LayerNorm((8,), eps=1e-05)", "nn.LayerNorm((8,))"),
        ("torch.zeros((2,), dtype=torch.int64)", "torch.zeros((2,), dtype=torch.int64)"),
    ],
)  # fmt: skip
def test_constructors_are_tidied(source: str, wanted: str) -> None:
    made = parse_construction(source)
    arguments = [text for a in made.arguments or () if (text := a.write(a.text))]
    assert call_lines("", made.callee, arguments, indent=0) == [wanted]


def test_what_is_no_plain_call_stays() -> None:
    assert parse_construction("0.02 * torch.randn(3)").arguments is None
    assert parse_construction("nn.Sequential(*parts)").callee == "nn.Sequential(*parts)"


def test_long_statements_mean_the_same_when_broken() -> None:
    for expression in (" + ".join(f"value_{i}" for i in range(40)), f"torch.cat([{', '.join('abc' * 30)}], 1)"):
        lines = statement_lines("x = ", expression, indent=0)
        assert len(lines) > 1
        assert ast.dump(ast.parse("\n".join(lines))) == ast.dump(ast.parse(f"x = {expression}"))
