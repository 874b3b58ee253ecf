"""Training by two processes: the weights are the same in both, and those of a training alone where they can be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas_engine.config import Optimizer
from nas_engine.config import Supernet as Settings
from nas_engine.train.parallel import BUCKET, Alone, _buckets, joined, take_device

from . import rank as ranks

pytestmark = pytest.mark.timeout(180)
Outcome = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranks")
    rng = np.random.default_rng(1)
    lines = [" ".join(f"{w} {w}" for w in rng.choice(list("abcdef"), 3)) for _ in range(120)]
    (path / "text.txt").write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def both(folder: Path) -> list[Outcome]:
    """What two processes end with."""
    root = str(Path(__file__).resolve().parents[3])
    commands = [[sys.executable, str(Path(ranks.__file__)), str(rank), "2", str(folder)] for rank in range(2)]
    environment = {**os.environ, "PYTHONPATH": root, "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"}
    processes = [
        subprocess.Popen(c, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for c in commands
    ]
    said = [process.communicate(timeout=150)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What one process ends with."""
    own = tmp_path_factory.mktemp("alone")
    (own / "text.txt").write_text((folder / "text.txt").read_text())
    return ranks.outcomes(Alone(), own)


def furthest(a: Outcome, b: Outcome) -> float:
    """The largest difference of two state dicts, relative to the largest number in them."""
    scale = max(float(v.abs().max()) for v in a.values())
    return max(float((v.double() - b[k].double()).abs().max()) for k, v in a.items()) / scale


CASES = (
    "plain",
    "accumulated",
    "dropout",
    "normalised",
    "supernet",
    "elastic",
    "lopsided",
    "stepping",
    "text",
    "text in parts",
    "resumed",
)


@pytest.mark.parametrize("case", CASES)
def test_both_end_with_the_same_weights(both: list[Outcome], case: str) -> None:
    first, second = (outcome[case] for outcome in both)
    assert first["losses"] == second["losses"]
    assert len(first["losses"]) == (1 if case == "resumed" else 2)
    for name, value in first["module"].items():
        assert torch.equal(value, second["module"][name]), name


@pytest.mark.parametrize("case", ["plain", "accumulated", "text", "text in parts", "resumed"])
def test_they_are_those_of_a_training_alone(both: list[Outcome], alone: Outcome, case: str) -> None:
    assert furthest(both[0][case]["module"], alone[case]["module"]) < 1e-5
    assert both[0][case]["losses"] == pytest.approx(alone[case]["losses"], rel=1e-5)


def test_the_weights_moved(both: list[Outcome]) -> None:
    fresh = ranks.plain().state_dict()
    assert furthest(both[0]["plain"]["module"], fresh) > 0.01
    assert both[0]["plain"]["losses"][1] < both[0]["plain"]["losses"][0]


def test_parts_make_the_gradient_of_the_whole(alone: Outcome) -> None:
    assert furthest(alone["plain"]["module"], alone["accumulated"]["module"]) < 1e-5
    assert furthest(alone["text"]["module"], alone["text in parts"]["module"]) < 1e-5


def test_resuming_changes_nothing(both: list[Outcome], folder: Path) -> None:
    assert furthest(both[0]["plain"]["module"], both[0]["resumed"]["module"]) == 0
    assert (folder / "of-0" / "c.pt").exists()
    assert not (folder / "of-1").exists()  # rank 0 alone writes


def test_statistics_are_of_all_shares(both: list[Outcome], alone: Outcome) -> None:
    mean = "a.bn.running_mean"
    ours, theirs = both[0]["normalised"]["module"], alone["normalised"]["module"]
    assert mean in ours
    assert torch.allclose(ours[mean], theirs[mean], rtol=0.02, atol=0.01)
    assert both[0]["normalised"]["losses"] == pytest.approx(alone["normalised"]["losses"], rel=0.1)
    assert both[0]["supernet"]["losses"] == pytest.approx(alone["supernet"]["losses"], rel=0.1)


def test_weights_that_nobody_touches_are_left_alone(both: list[Outcome]) -> None:
    module = both[1]["lopsided"]["module"]
    assert torch.equal(module["idle"], torch.ones(3, 1))  # no momentum, no decay
    assert (module["own"] < 0.99).all()


def test_the_state_of_a_program_is_that_of_rank_0(both: list[Outcome], alone: Outcome) -> None:
    assert both[0]["stepping"]["seen"] == both[1]["stepping"]["seen"]
    assert 0 < both[0]["stepping"]["seen"] < alone["stepping"]["seen"]


def test_what_processes_tell_each_other(both: list[Outcome]) -> None:
    for told in (outcome["told"] for outcome in both):
        assert told["agreed"] is True
        assert told["given"]["rank"] == 0
        assert told["given"]["a"].tolist() == [0, 1, 2]
        assert told["nothing"] is None
        assert float(told["sum"]) == 3.0
        assert "different data" in told["differing"]
        assert "leaves nothing for some of 2 processes" in told["too few"]


def test_a_process_that_is_gone_is_missed(both: list[Outcome], folder: Path) -> None:
    assert "lost the others" in (folder / "lost.txt").read_text()
    assert "the same command goes on" in (folder / "lost.txt").read_text()


def test_buckets_hold_every_gradient_once() -> None:
    tensors = [torch.zeros(n) for n in (3, BUCKET, 5, 7)] + [torch.zeros(2, dtype=torch.float64)]

    def sizes() -> Iterator[list[int]]:
        for bucket in _buckets(tensors):
            assert len({t.dtype for t in bucket}) == 1
            yield [t.numel() for t in bucket]

    assert list(sizes()) == [[3], [BUCKET], [5, 7], [2]]
    assert list(_buckets([])) == []


def test_one_process_is_alone() -> None:
    assert joined() is None
    team = Alone()
    assert (team.size, team.leads, team.agree(False)) == (1, True, False)


def test_gpus_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    take_device("cpu", 3, 4)
    take_device("cuda", 1, 2)
    assert taken == [1]
    with pytest.raises(ranks.ConfigError, match="3 processes need as many GPUs on a machine, but it has 2"):
        take_device("cuda", 1, 3)


def test_settings_are_checked() -> None:
    assert Settings().processes == 1
    with pytest.raises(ValueError, match="does not make 5 parts"):
        Optimizer(batch_size=4, accumulate=5)
