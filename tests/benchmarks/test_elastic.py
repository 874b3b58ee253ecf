"""The comparison of ways to train shared weights: what is kept, and what the table says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import elastic


@pytest.fixture
def study(shared_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> elastic.Study:
    monkeypatch.setattr(elastic, "FOLDER", tmp_path)
    data = str(shared_file("fashion_mnist/fashion_mnist.npz"))
    made = elastic.Study(data, members=2, images=120, epochs=1, tested=100)
    made.folder.mkdir()
    return made


def test_each_member_is_trained_once_before_any_is_again(study: elastic.Study) -> None:
    jobs = [arguments[1:] for _, arguments in elastic.work(study, ["fair", "uniform"], seeds=2)]
    assert jobs == [(0, 0), (1, 0), (2, 0), ("fair",), ("uniform",), (0, 1), (1, 1), (2, 1)]


def test_all_are_judged_on_the_same_test_images(study: elastic.Study) -> None:
    data = study.load()
    assert len(data.validation) == len(data.test) == 100
    assert 110 <= len(data.train) <= 120


def test_members_are_different_and_the_largest_comes_first(study: elastic.Study) -> None:
    space = study.space()
    drawn = replace(study, members=9).drawn(space)
    assert len(set(drawn)) == 10
    assert drawn[0] == next(space.envelope())
    assert drawn[:3] == study.drawn(space)


def test_what_is_finished_is_kept_and_what_is_not_goes_on(
    study: elastic.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = elastic.alone(study, 1, 0)
    assert 0 <= result["accuracy"] <= 1
    assert [path.name for path in study.folder.iterdir()] == ["alone-01-0.json"]

    def refused(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(elastic, "judge", refused)  # killed after the training
        with pytest.raises(KeyboardInterrupt):
            elastic.alone(study, 2, 0)
    assert (study.folder / "alone-02-0.pt").exists()
    assert elastic.alone(study, 2, 0)["seconds"] > 0
    monkeypatch.setattr(elastic, "train", refused)
    assert elastic.alone(study, 1, 0) == result


def test_shared_weights_judge_all_members(study: elastic.Study) -> None:
    result = elastic.shared(study, "sandwich, distilled, kernel transform")
    assert list(result["accuracy"]) == [m.code for m in study.drawn(study.space())]
    assert json.loads(next(study.folder.glob("shared-*.json")).read_text()) == result


def test_the_table_leaves_the_largest_out_of_the_order() -> None:
    alone = [
        {"code": code, "seed": seed, "accuracy": accuracy + 0.01 * seed, "seconds": 2.0}
        for seed in (0, 1)
        for code, accuracy in {"top": 0.9, "a": 0.7, "b": 0.75, "c": 0.8}.items()
    ]
    inherited = {"top": 0.1, "a": 0.6, "b": 0.65, "c": 0.7}
    shared = [{"method": "fair", "epochs": 3, "accuracy": inherited, "seconds": 5.0}]
    table = elastic.compared([*alone, *shared, {"code": "a", "seed": 2, "accuracy": 0.1, "seconds": 0.0}])
    (row,) = table["methods"]
    assert table["seeds"] == 2  # the third one is not through
    assert table["ceiling"] == row["tau"] == 1.0
    assert row["gap"] == pytest.approx(80.5)
    assert row["mean_gap"] == pytest.approx(10.5)
    assert table["alone"]["largest"] == pytest.approx(0.905)
    assert table["alone"]["seconds"] == 16
