"""Elastic training in a run: what is checked before it begins, and that every later stage sees its weights whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_engine.config import Config, make_config
from nas_engine.context import Context
from nas_engine.evaluate import MemberScorer
from nas_engine.stages import sample, supernet
from nas_engine.train.candidate import candidate_of, initial_network, load_supernet
from search_spaces.errors import ConfigError
from tests.small import SMALL

ELASTIC = {
    "strategy": "attentive",
    "epochs": 3,
    "kernel_transform": True,
    "shrinking": [{}, ["kernel", "depth"], ["expansion", "width"]],
    "random_members": 1,
}
SPACE = {"name": "mobile", "widths": [8], "strides": [2], "depths": [1, 2], "stem": 8, "head": 8}


def configured(results: Path, **settings: Any) -> Config:
    elastic = {"space": SPACE, "supernet": {**ELASTIC, **settings}, "constraints": []}
    return make_config({**SMALL, **elastic, "results": str(results), "sample": {"architectures": 10, "workers": 1}})


def test_later_stages_see_the_weights_as_they_were_trained(tmp_path: Path) -> None:
    config = configured(tmp_path)
    context = Context(config)
    assert "attentive, 3 epochs" in supernet(context)["text"]
    sample(context)
    net = load_supernet(context.space, context.path("supernet", "weights.safetensors"))
    matrices = {n: p for n, p in net.named_parameters() if ".kernel_transform." in n}
    assert any(p.abs().sum() > 0 for p in matrices.values())
    rows = [json.loads(line) for line in context.path("sample", "scores.jsonl").read_text().splitlines()]
    small = min(rows, key=lambda row: context.space.graph(context.space.decode(row["code"])).cost.params)
    member = context.space.decode(small["code"])
    again = MemberScorer(net, context.data, seed=config.seed).score(member)
    assert again.accuracy == pytest.approx(small["accuracy"])
    request = candidate_of(config, context.space, member.code, 0, context.directory.path)
    network, images = initial_network(context.space, member.code, request.supernet), context.data.samples(16)
    net = load_supernet(context.space, context.path("supernet", "weights.safetensors"))  # as before the scorer used it
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), net(images, member), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shrinking": ["kernel", "depht"]}, r"opens 'depht'.*did you mean 'depth'\?"),
        ({"epochs": 2}, r"3 phases .* do not fit into 2 epochs"),
        ({"attentive": {"predictor": "gcm"}}, r"unknown predictor 'gcm': did you mean 'gcn'\?"),
        ({"attentive": {"predictor": "ridge", "leaves": 3}}, r"'ridge' has no setting 'leaves'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Context(configured(tmp_path, **settings)).check_names()
