"""What can be compressed, and what is said of what cannot."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nas_engine.compress.subject import data_of, make_subject, run_of
from nas_engine.run import Run
from search_spaces.errors import ConfigError, GraphError, RunError, SpaceError
from tests.nas_engine.compress.conftest import Made

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_file_with_its_weights(trained: Made) -> None:
    subject = make_subject(trained.model, trained.weights, IMAGES, 10)
    state = load_file(trained.weights)
    assert subject.name == "Net"
    assert torch.equal(subject.network.state_dict()["a1.weight"], state["a1.weight"])
    assert [block.name for block in subject.coupling.blocks] == ["a1", "b1"]


def test_a_model_that_cannot_be_followed_names_the_line(trained: Made) -> None:
    file = trained.model.partition(":")[0]
    with pytest.raises(GraphError, match=r"nets.py:\d+ `if x.mean\(\) > 0:`.*torch.where"):
        make_subject(f"{file}:Undecided", None, IMAGES, 10)
    with pytest.raises(SpaceError, match=r"no operator stands for \(flip: .*nets.py:\d+ `return -x if"):
        make_subject(f"{file}:Wrapped", None, IMAGES, 10)


def test_a_model_that_nothing_can_be_cut_from(trained: Made) -> None:
    file = trained.model.partition(":")[0]
    with pytest.raises(SpaceError, match="nothing of model .* can be cut"):
        make_subject(f"{file}:narrow", None, IMAGES, 10)


def test_a_model_of_other_outputs(trained: Made) -> None:
    with pytest.raises(SpaceError, match="the data has 10 classes"):
        make_subject("unet", None, IMAGES, 10)


def test_a_run_names_its_networks(small_run: Run) -> None:
    best = int(small_run.best()["trial"])
    samples = torch.randn(4, *small_run.space.input_shape)
    classes = small_run.space.classes
    subject = make_subject(str(small_run.path), None, samples, classes)
    same = make_subject(f"{small_run.path}:{best}", None, samples, classes)
    assert subject.network.graph == same.network.graph
    assert data_of(str(small_run.path))["source"] == small_run.config.data.source
    with pytest.raises(RunError, match="no trained network of trial 999"):
        make_subject(f"{small_run.path}:999", None, samples, classes)
    with pytest.raises(ConfigError, match="takes images of"):
        make_subject(str(small_run.path), None, torch.randn(4, 1, 9, 9), classes)


def test_what_is_no_run(tmp_path: Path) -> None:
    assert run_of("resnet20") is None
    assert run_of(f"{tmp_path}/nets.py:make") is None
    assert data_of("resnet20") == {}
    assert data_of("timm:resnet18") == {"normalise": "imagenet"}
