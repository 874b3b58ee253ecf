"""The scaling benchmark: equal MACs, laws of growth, trainings that are done once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import scaling
from benchmarks.scaling import LAW, RULES, TOLERANCE, Training, activations, micro, network, variants
from nas_engine.files import Record
from search_spaces import Network
from search_spaces.families.skeleton import Row, Skeleton
from search_spaces.scaling.rules import Single

SHAPE = (1, 28, 28)


@pytest.fixture(scope="module")
def tiny() -> Skeleton:
    rows = (Row("stem", "conv_bn_act", 4, 1, stride=4), Row("classifier", "classifier"))
    return Skeleton("tiny", rows, resolution=16, classes=3)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    y = np.tile(np.arange(3, dtype=np.uint8), 40)
    x = (80 * y[:, None, None] + rng.integers(0, 40, (120, 28, 28))).astype(np.uint8)
    np.savez(tmp_path / "three.npz", train_x=x, train_y=y, test_x=x[:30], test_y=y[:30])
    return tmp_path / "three.npz"


def test_all_rules_come_to_the_same_macs() -> None:
    found = variants(micro(), (2.0, 4.0), SHAPE, 10)
    assert [v.rule for v in found] == ["base", *RULES, *RULES]
    graphs = [network(v.table, SHAPE, 10) for v in found]
    for v, graph in zip(found, graphs, strict=True):
        assert abs(graph.cost.macs / (v.factor * graphs[0].cost.macs) - 1) <= TOLERANCE, v
    at = {(v.rule, v.factor): v.table for v in found}
    base = at["base", 1.0]
    blocks, widths = [row.repeats for row in base.rows], [row.width for row in base.rows]
    for factor in (2.0, 4.0):
        deep, wide, fine = (at[name, factor] for name in ("depth", "width", "resolution"))
        assert [row.width for row in deep.rows] == [row.width for row in fine.rows] == widths
        assert [row.repeats for row in wide.rows] == [row.repeats for row in fine.rows] == blocks
        assert deep.resolution == wide.resolution == base.resolution < fine.resolution
        every = at["compound", factor]
        assert sum(row.repeats for row in every.rows) > sum(blocks)
        assert every.resolution > base.resolution
        assert sum(row.width or 0 for row in every.rows) > sum(w or 0 for w in widths)


def test_images_are_resized_where_they_have_another_size(tiny: Skeleton) -> None:
    small = network(tiny, SHAPE, 3)
    assert small["resize"].shape == (1, 16, 16)
    assert "resize" not in {node.name for node in network(replace(tiny, resolution=28), SHAPE, 3).nodes}
    assert Network(small)(torch.zeros(2, *SHAPE)).shape == (2, 3)


def test_activations_are_what_convolutions_put_out() -> None:
    graph = network(micro(), SHAPE, 10)
    module, counted = Network(graph).eval(), []
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda _, __, out: counted.append(out.numel()))
    with torch.no_grad():
        module(torch.zeros(1, *SHAPE))
    assert activations(graph) == sum(counted)


def test_activations_grow_as_the_law_says() -> None:
    found = scaling.exponents(replace(micro(), resolution=224))
    for name, exponent in LAW.items():
        if exponent is not None:
            assert found[name] == pytest.approx(exponent, abs=0.1), name


def test_growth_of_the_base() -> None:
    found = scaling.growth(replace(micro(), resolution=224), (1, 2, 3), (1,))
    assert list(found) == [1, 2, 3]
    assert all(0.75 <= v <= 1.25 for v in found.values())  # the product of 1.2, 1.1, 1.15 is 1.92, not 2


def test_a_training_learns(tiny: Skeleton, images: Path) -> None:
    task = Training(tiny, 0, str(images), 120, 12, 16, 0.1)
    found = scaling.trained(task)
    assert found["accuracy"] > 0.6
    assert scaling.trained(task)["accuracy"] == found["accuracy"]


def test_trainings_are_done_once(
    tiny: Skeleton,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scaling, "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(count))
    graph = network(tiny, SHAPE, 3)
    tasks = {f"seed {seed}": (Training(tiny, seed, str(images), 120, 1, 16, 0.1), graph) for seed in range(2)}
    record = Record(tmp_path / "runs.jsonl")
    record.append({"asked": tasks["seed 0"][0].key(graph), "name": "seed 0", "accuracy": 0.5})
    scaling.all_trained(tasks, record, processes=1)
    assert "1 of 2 trainings" in capsys.readouterr().out
    again = Record(record.path)
    assert [row["name"] for row in again.rows] == ["seed 0", "seed 1"]
    scaling.all_trained(tasks, again, processes=1)
    assert "0 of 2 trainings" in capsys.readouterr().out
    assert len(again.rows) == 2


def test_another_network_or_setting_is_another_training(tiny: Skeleton) -> None:
    task = Training(tiny, 0, "some/three.npz", 120, 1, 16, 0.1)
    keys = [
        task.key(network(tiny, SHAPE, 3)),
        task.key(network(tiny.scaled(Single("width").at(4)), SHAPE, 3)),
        replace(task, seed=1).key(network(tiny, SHAPE, 3)),
        replace(task, epochs=2).key(network(tiny, SHAPE, 3)),
    ]
    assert len({str(key) for key in keys}) == 4
    assert replace(task, data="other/three.npz").key(network(tiny, SHAPE, 3)) == keys[0]


def test_the_claim_is_against_the_best_single_dimension() -> None:
    means = {"depth": 0.8, "width": 0.82, "resolution": 0.81, "compound": 0.83, "dwr": 0.81}
    rows = [{"rule": k, "factor": 2.0, "accuracy": v, "accuracies": [v - 0.01, v + 0.01]} for k, v in means.items()]
    rows.insert(0, {"rule": "base", "factor": 1.0, "accuracy": 0.7, "accuracies": [0.7, 0.7]})
    compound, dwr = scaling.claims(rows)
    assert (compound["best_single"], compound["points"], dwr["points"]) == ("width", 1.0, -1.0)
    assert compound["standard_error"] == pytest.approx(1.41, abs=0.01)
