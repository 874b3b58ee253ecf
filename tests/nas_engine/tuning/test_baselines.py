"""Training of baselines: the record decides what is left to do, and a training goes on from its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_engine.config import Config
from nas_engine.remote import node_files
from nas_engine.train import Given, finished_epochs, load_given, train_given
from nas_engine.tuning import BaselineJob, train_baselines
from nas_engine.tuning.baselines import BaselineConductor, read_trained, seed_of
from nas_engine.tuning.worker import given_here
from search_spaces import Network
from search_spaces.graph import Graph, GraphBuilder
from tests.nas_engine.tuning.conftest import EPOCHS, make_small_config

NAMES = {"thin-1": "thin", "wide-2": "wide"}


def small(channels: int) -> Graph:
    g = GraphBuilder((1, 8, 8))
    x = g.add("conv2d", g.input, name="conv", out_channels=channels, kernel_size=3, padding=1)
    x = g.add("activation", g.add("batch_norm", x, name="bn"), kind="relu")
    return g.build(g.add("linear", g.add("mean", x), name="out", out_features=10))


@pytest.fixture
def config() -> Config:
    return make_small_config(data={"source": "digits", "limit": 200})


@pytest.fixture
def job(config: Config, tmp_path: Path) -> BaselineJob:
    """Two baselines that are made and not trained."""
    for id, channels in zip(NAMES, (2, 4), strict=True):
        file = tmp_path / "baselines" / id / "graph.json"
        file.parent.mkdir(parents=True)
        file.write_text(small(channels).to_json())
    return BaselineJob(config, tmp_path, NAMES)


def result(epoch: int, accuracy: float = 0.5) -> dict[str, Any]:
    return {"epoch": epoch, "accuracy": accuracy, "loss": 1.0, "train_loss": 1.1, "seconds": 0.5}


def here(job: BaselineJob, conductor: BaselineConductor, trainable: Callable | None = None) -> None:
    """What Ray Tune does, in this process and one after the other."""
    while (turn := conductor.next()) is not None:
        for found in train_given(given_here(job.request(turn, job.directory), node_files(job.directory, None))):
            if not conductor.report(turn.number, found.model_dump()):
                break


# ---- the record --------------------------------------------------------------------------------------------


def test_epochs_and_ends_are_on_the_disk_before_they_count(job: BaselineJob) -> None:
    conductor = BaselineConductor(job)
    assert conductor.remaining == 2
    first, second = conductor.next(), conductor.next()
    assert (first and first.id, second and second.id, conductor.next()) == ("thin-1", "wide-2", None)
    assert conductor.report(0, result(1))
    assert conductor.report(0, result(1, 0.9)), "an epoch that is known changes nothing"
    assert [conductor.report(0, result(epoch)) for epoch in range(2, EPOCHS + 1)] == [True] * (EPOCHS - 2) + [False]
    conductor.fail(1, "no memory")
    assert not conductor.report(1, result(1)), "it has ended"
    assert conductor.over
    lines = (job.directory / "baselines" / "trainings.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["epoch"] * EPOCHS + ["end"] * 2
    found = read_trained(job.directory / "baselines" / "trainings.jsonl", list(NAMES))
    assert (found["thin-1"].state, found["thin-1"].accuracy, len(found["thin-1"].epochs)) == ("finished", 0.5, EPOCHS)
    assert (found["wide-2"].state, found["wide-2"].error, found["wide-2"].accuracy) == ("failed", "no memory", None)


def test_a_record_that_broke_off_goes_on(job: BaselineJob) -> None:
    """Whatever line was the last; also in another order, and beside ones that were not asked for before."""
    conductor = BaselineConductor(job)
    for epoch in range(1, EPOCHS + 1):
        conductor.report(1, result(epoch))
    record = job.directory / "baselines" / "trainings.jsonl"
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(lines[:2]))
    again = BaselineConductor(BaselineJob(job.config, job.directory, {"new-3": "new", "wide-2": "wide"}))
    assert (again.remaining, again.begun) == (2, frozenset({1}))
    assert len(again.trained["wide-2"].epochs) == 2
    record.write_text("".join(lines[:EPOCHS]))  # the end was decided, but not noted
    ended = BaselineConductor(job)
    assert (ended.trained["wide-2"].state, ended.remaining) == ("finished", 1)
    assert record.read_text().splitlines(keepends=True)[: EPOCHS + 1] == lines[: EPOCHS + 1]


def test_seeds_are_the_baselines_own(config: Config) -> None:
    assert seed_of(config, "a") != seed_of(config, "b")
    assert seed_of(config, "a") != seed_of(config.model_copy(update={"seed": 1}), "a")


# ---- training ------------------------------------------------------------------------------------------------


def test_baselines_are_trained_by_the_recipe_of_the_search(job: BaselineJob) -> None:
    turn = BaselineConductor(job).next()
    assert turn is not None
    request = job.request(turn, job.directory)
    search = job.config.search
    assert (request.epochs, request.optimizer, request.threads) == (search.epochs, search.optimizer, 1)
    assert (request.data, request.seed, request.initial) == (job.config.data, job.config.seed, None)


def test_what_has_ended_is_not_trained_again(job: BaselineJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas_engine.tuning.trials.run_trials", here)
    found = train_baselines(job)
    assert [one.state for one in found.values()] == ["finished"] * 2
    assert all(len(one.epochs) == EPOCHS and 0 < (one.accuracy or 0) <= 1 for one in found.values())

    def never(*given: object) -> None:
        pytest.fail("nothing is left to train")

    monkeypatch.setattr("nas_engine.tuning.trials.run_trials", never)
    assert train_baselines(job) == found


def test_an_interrupted_training_ends_as_an_undisturbed_one(job: BaselineJob) -> None:
    turn = BaselineConductor(job).next()
    assert turn is not None
    request: Given = job.request(turn, job.directory)
    whole = [_plain(found.model_dump()) for found in train_given(request)]
    weights = load_given(request.graph, request.checkpoint).state_dict()
    other = request.model_copy(update={"checkpoint": request.checkpoint.with_name("other.pt")})
    feed = train_given(other)
    first = [_plain(next(feed).model_dump()) for _ in range(2)]
    feed.close()
    assert len(finished_epochs(other.checkpoint)) == 2
    again = [_plain(found.model_dump()) for found in train_given(other)]
    assert first == whole[:2]
    assert again == whole
    broken = load_given(other.graph, other.checkpoint).state_dict()
    assert all(torch.equal(broken[name], tensor) for name, tensor in weights.items())


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "seconds"}


def test_it_begins_with_the_weights_that_are_given(job: BaselineJob) -> None:
    from safetensors.torch import save_file

    started = Network(small(2)).state_dict()
    save_file(started, job.file("thin-1", "initial.safetensors"))
    turn = BaselineConductor(job).next()
    assert turn is not None
    request = job.request(turn, job.directory)
    assert request.initial == job.file("thin-1", "initial.safetensors")
    still = {"learning_rate": 1e-12, "weight_decay": 0.0}
    slow = request.model_copy(update={"optimizer": request.optimizer.model_copy(update=still), "epochs": 1})
    list(train_given(slow))
    after = load_given(slow.graph, slow.checkpoint).state_dict()
    learned = [name for name in started if name.endswith(("weight", "bias"))]
    assert all(torch.allclose(after[name], started[name], atol=1e-6) for name in learned)


@pytest.mark.slow
def test_ray_trains_them_in_processes_of_their_own(job: BaselineJob) -> None:
    told: list[str] = []
    job = BaselineJob(job.config, job.directory, NAMES, progress=lambda event, details: told.append(details["text"]))
    found = train_baselines(job)
    assert [one.state for one in found.values()] == ["finished"] * 2
    assert any("thin, epoch 1" in text for text in told)
