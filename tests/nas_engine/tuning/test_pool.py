"""Spreading batches: the same results here and on actors, errors as they were, deaths survived."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from nas_engine.tuning.pool import WorkerLostError, map_unordered
from search_spaces.errors import DataError


@dataclass(frozen=True)
class Sums:
    """Sums a batch by torch, whose result depends on the number of threads; other attributes cause trouble."""

    folder: Path
    dies: int = 0
    wrong: str = ""
    device: str = "cpu"

    def open(self) -> Callable[[int], tuple[int, float, int]]:
        if self.wrong == "open":
            raise DataError("no data at images/; give another folder")
        (self.folder / f"opened-{os.getpid()}").touch()
        return self.work

    def work(self, batch: int) -> tuple[int, float, int]:
        if self.wrong == "work" and batch == 3:
            raise DataError("image 3 is broken; remove it")
        deaths = len(list(self.folder.glob("death-*")))
        if batch == 2 and deaths < self.dies:
            (self.folder / f"death-{deaths}").touch()
            os._exit(1)
        values = torch.randn(400_000, generator=torch.Generator().manual_seed(batch))
        return batch, float(values.sum()), torch.get_num_threads()


@pytest.fixture(scope="module")
def _travelling() -> None:
    """Workers cannot import this file: what it defines travels with the task."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])


def test_in_this_process(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        results = list(map_unordered(Sums(tmp_path), range(5), workers=1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert [number for number, _, _ in results] == [0, 1, 2, 3, 4]
    assert {threads for _, _, threads in results} == {1}
    assert [p.name for p in tmp_path.iterdir()] == [f"opened-{os.getpid()}"]


def test_batches_are_made_as_needed_and_left_on_demand(tmp_path: Path) -> None:
    made: list[int] = []
    done: list[int] = []

    def batches():  # type: ignore[no-untyped-def]
        for number in range(100):
            made.append(number)
            yield number

    for number, _, _ in map_unordered(Sums(tmp_path), batches(), workers=1, stop=lambda: len(done) == 3):
        done.append(number)
    assert done == [0, 1, 2]
    assert len(made) <= 4


def test_nothing_to_do(tmp_path: Path) -> None:
    assert list(map_unordered(Sums(tmp_path), [], workers=1)) == []


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("ray_cluster", "_travelling")
class TestActors:
    def test_results_are_those_of_one_process(self, tmp_path: Path) -> None:
        here = list(map_unordered(Sums(tmp_path), range(12), workers=1))
        there = list(map_unordered(Sums(tmp_path), range(12), workers=2))
        assert sorted(there) == here
        assert len(list(tmp_path.iterdir())) in (2, 3), "each worker that was given a batch opened the task once"

    def test_a_worker_without_room_holds_nothing_up(self, tmp_path: Path) -> None:
        """As after the loss of a node: batches are given to workers that run."""
        import ray

        spare = sum(node["Resources"].get("CPU", 0) for node in ray.nodes()) - 1
        holder = ray.remote(Sums).options(num_cpus=spare).remote(tmp_path)
        ray.get(holder.work.remote(0))
        try:
            results = list(map_unordered(Sums(tmp_path), range(4), workers=2))
        finally:
            ray.kill(holder)
        assert sorted(number for number, _, _ in results) == [0, 1, 2, 3]

    def test_a_death_is_survived(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        results = list(map_unordered(Sums(tmp_path, dies=2), range(6), workers=2))
        assert sorted(number for number, _, _ in results) == [0, 1, 2, 3, 4, 5]
        assert len(list(tmp_path.glob("death-*"))) == 2
        assert capfd.readouterr() == ("", "")

    def test_too_many_deaths_are_not(self, tmp_path: Path) -> None:
        with pytest.raises(WorkerLostError, match="died 4 times"):
            list(map_unordered(Sums(tmp_path, dies=9), range(6), workers=2))

    @pytest.mark.parametrize("wrong", ["open", "work"])
    def test_errors_arrive_as_they_were(self, tmp_path: Path, wrong: str) -> None:
        with pytest.raises(DataError, match="^(no data at|image 3 is broken)"):
            list(map_unordered(Sums(tmp_path, wrong=wrong), range(6), workers=2))

    def test_stopping(self, tmp_path: Path) -> None:
        done: list[int] = []
        for number, _, _ in map_unordered(Sums(tmp_path), range(10_000), workers=2, stop=lambda: len(done) >= 3):
            done.append(number)
        assert 3 <= len(done) <= 5
