"""What a training may be asked for, and that mistakes are told in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nas_engine.gnn import load_request, make_request
from search_spaces.errors import ConfigError


def test_defaults_are_adam_on_the_embedded_digits() -> None:
    request = make_request({})
    assert request.data.source == "digits-knn"
    assert (request.optimizer.name, request.optimizer.learning_rate, request.optimizer.weight_decay) == (
        "adam",
        1e-3,
        0,
    )
    assert make_request({"optimizer": {"weight_decay": 0.1}}).optimizer.name == "adam"
    assert make_request({"data": {"parts": 3}}).data.source == "digits-knn"
    assert request.directory == Path("results") / "gnn"


def test_a_stack_is_undone_where_it_can_be() -> None:
    assert make_request({}).mode == "reversible"
    assert make_request({"model": {"connection": "residual"}}).mode == "plain"
    assert make_request({"memory": "checkpoint"}).mode == "checkpoint"


def test_forms_are_for_networks_that_can_be_read() -> None:
    assert make_request({}).forms == ("model.py", "torch_export")
    assert make_request({"model": {"depth": 100}}).forms == ()
    assert make_request({"model": {"depth": 100}, "formats": ["model.py"]}).forms == ("model.py",)


def test_a_file_gives_its_name(tmp_path: Path) -> None:
    path = tmp_path / "my net.yaml"
    path.write_text("model: {depth: 5}\noptimizer: {learning_rate: 1e-2}\n")
    request = load_request(path, ["model.width=32"])
    assert (request.name, request.model.depth, request.model.width) == ("my-net", 5, 32)
    assert request.optimizer.learning_rate == 0.01


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"modle": {}}, "unknown key 'modle': did you mean 'model'"),
        ({"model": {"dpeth": 3}}, "unknown key 'model.dpeth': did you mean 'depth'"),
        ({"model": {"depth": "three"}}, "model.depth: .*integer"),
        ({"data": {"source": "CIFAR10"}}, "'CIFAR10' is no graph; write digits-knn"),
        ({"memory": "reversible", "model": {"connection": "plain"}}, "take memory checkpoint or plain"),
        ({"memory": "checkpoint", "model": {"connection": "equilibrium"}}, "leave it out"),
        ({"memory": "little"}, "memory: .*'reversible', 'checkpoint' or 'plain'"),
        ({"optimizer": {"name": "adma"}}, "optimizer.name: .*'sgd' or 'adam'"),
        ({"optimizer": {"precision": "bfloat16"}}, "is for GPUs"),
        ({"optimizer": {"accumulate": 2}}, "give data.parts instead"),
        ({"formats": ["onxx"]}, "did you mean 'onnx'"),
    ],
)
def test_mistakes_are_told_in_one_line(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        make_request(data)
    assert "\n" not in str(told.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file '.*none.yaml'; give the path"):
        load_request(tmp_path / "none.yaml")
