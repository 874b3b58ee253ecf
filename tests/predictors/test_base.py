"""The contract of predictors, on one that only averages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predictors import Predictor, load_predictor, make_predictor, predictors, register_predictor
from search_spaces import Architecture, Graph, SearchSpace, make_space
from search_spaces.errors import ConfigError, DataError, EngineError


@register_predictor("test_mean")
class Mean(Predictor):
    """The mean of the scores, whatever is asked."""

    def _fit(
        self, architectures: Sequence[Architecture], scores: np.ndarray, groups: np.ndarray, extra: np.ndarray
    ) -> None:
        self.seen_groups = groups
        self.mean = scores.mean(keepdims=True)

    def _predict(
        self, architectures: Sequence[Architecture], sketches: Sequence[Graph] | None, extra: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return np.repeat(self.mean, len(architectures)), np.ones(len(architectures))

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {"mean": self.mean}, {}

    def _restore(self, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        self.mean = tensors["mean"]


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return make_space("nasbench201")


@pytest.fixture(scope="module")
def members(space: SearchSpace) -> list[Architecture]:
    rng = np.random.default_rng(0)
    return [space.sample(rng) for _ in range(6)]


@pytest.fixture
def fitted(space: SearchSpace, members: list[Architecture]) -> Predictor:
    return make_predictor("test_mean", space, seed=3).fit(members, range(6))


def test_registry_names_the_nearest(space: SearchSpace) -> None:
    assert "gcn" in predictors
    with pytest.raises(ConfigError, match="unknown predictor 'gnc': did you mean 'gcn'"):
        make_predictor("gnc", space)


def test_settings_are_checked(space: SearchSpace) -> None:
    with pytest.raises(ConfigError, match="no setting 'sed': did you mean 'seed'"):
        make_predictor("test_mean", space, sed=1)


@pytest.mark.parametrize(
    ("count", "scores", "groups", "words"),
    [
        (6, [1.0] * 5, None, "one score each"),
        (3, [1.0] * 3, None, "4 scored architectures or more"),
        (6, [1.0, float("nan"), float("inf"), 1.0, 1.0, 1.0], None, "2 of 6 scores are not finite"),
        (6, [1.0] * 6, ["a"] * 5, "5 groups for 6"),
    ],
)
def test_fit_refuses(
    space: SearchSpace,
    members: list[Architecture],
    count: int,
    scores: list[float],
    groups: list[str] | None,
    words: str,
) -> None:
    with pytest.raises(DataError, match=words):
        Mean(space).fit(members[:count], scores, groups=groups)


def test_groups_are_canonical_members(space: SearchSpace) -> None:
    one = space.architecture(edge03="nor_conv_3x3")
    same = space.architecture(edge03="nor_conv_3x3", edge01="nor_conv_1x1")  # which leads nowhere
    other = space.architecture(edge03="nor_conv_1x1")
    predictor = Mean(space).fit([one, other, same, other], [1, 2, 3, 4])
    assert predictor.seen_groups.tolist() == [0, 1, 0, 1]
    assert predictor.fit([one, other, same, other], [1, 2, 3, 4], groups="xyzz").seen_groups.tolist() == [0, 1, 2, 2]


def test_what_needs_a_fit_says_so(space: SearchSpace, members: list[Architecture], tmp_path: Path) -> None:
    predictor = Mean(space)
    for use in (lambda: predictor.predict(members), lambda: predictor.save(tmp_path), lambda: predictor.id):
        with pytest.raises(EngineError, match="not fitted"):
            use()


def test_no_architectures_no_predictions(fitted: Predictor) -> None:
    assert [len(part) for part in fitted.predict([])] == [0, 0]


def test_round_trip(fitted: Predictor, space: SearchSpace, members: list[Architecture], tmp_path: Path) -> None:
    fitted.save(tmp_path / "new" / "folder")
    for again in (load_predictor(tmp_path / "new/folder", space), Mean.load(tmp_path / "new/folder", space)):
        assert again.predict(members)[0].tolist() == fitted.predict(members)[0].tolist()
        assert again.settings == fitted.settings
        assert again.id == fitted.id
    assert sorted(p.name for p in (tmp_path / "new/folder").iterdir()) == ["predictor.json", "predictor.safetensors"]


def test_id_tells_fits_apart(space: SearchSpace, members: list[Architecture], fitted: Predictor) -> None:
    assert make_predictor("test_mean", space, seed=3).fit(members, range(1, 7)).id != fitted.id
    assert make_predictor("test_mean", space, seed=4).fit(members, range(6)).id != fitted.id


def test_another_kind_is_refused(fitted: Predictor, space: SearchSpace, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    with pytest.raises(EngineError, match="holds predictor 'test_mean', not 'gcn'"):
        predictors["gcn"].load(tmp_path, space)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (make_space("mobile"), "another name: 'nasbench201', not 'mobile'"),
        (make_space("nasbench201", {"classes": 7}), "another classes: 10, not 7"),
    ],
)
def test_another_space_is_refused(fitted: Predictor, tmp_path: Path, other: SearchSpace, words: str) -> None:
    fitted.save(tmp_path)
    with pytest.raises(EngineError, match=words):
        load_predictor(tmp_path, other)


def test_nothing_there(space: SearchSpace, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"predictor\.json is missing"):
        load_predictor(tmp_path, space)


def spoil_json(directory: Path) -> None:
    (directory / "predictor.json").write_text("{")


def spoil_tensors(directory: Path) -> None:
    path = directory / "predictor.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def spoil_facts(directory: Path) -> None:
    about = json.loads((directory / "predictor.json").read_text())
    del about["settings"]
    (directory / "predictor.json").write_text(json.dumps(about))


@pytest.mark.parametrize("spoil", [spoil_json, spoil_tensors, spoil_facts])
def test_damage_is_noticed(fitted: Predictor, space: SearchSpace, tmp_path: Path, spoil: Any) -> None:
    fitted.save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(EngineError, match="damaged"):
        load_predictor(tmp_path, space)
