"""Scoring members of a supernet on long-lived workers: each loads the shared weights and the images once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from search_spaces import SearchSpace

from ..config import Config, Data
from ..interrupt import never
from ..remote import node_files
from ..shapes import space_parameters
from .pool import map_unordered

_BATCH = 8  # members between two reports of a worker, at most: what a kill loses


@dataclass(frozen=True)
class MemberJob:
    """What a worker needs to score members; plain values, so that it travels.

    Attributes:
        space, parameters: what `make_space` takes.
        weights: of the trained supernet.
        data, seed: the data section and the run's seed.
        workers: processes that score; 1 for this one.
        directory, uri: of the run.
        gpus: of each worker; None to share out what there is.
    """

    space: str
    parameters: dict[str, Any]
    weights: Path
    data: Data
    seed: int
    device: str
    batch_size: int
    recalibration_batches: int
    images: int | None
    workers: int = 1
    directory: Path = Path()
    uri: str | None = None
    gpus: float | None = None

    @classmethod
    def of(cls, config: Config, space: SearchSpace, directory: Path, workers: int | None = None) -> MemberJob:
        """The job of a run whose directory is `directory`; `workers` as configured by default."""
        sample = config.sample
        return cls(
            space=config.space.name,
            parameters=space_parameters(config, space),
            weights=directory.absolute() / "supernet" / "weights.safetensors",
            data=config.data,
            seed=config.seed,
            device=config.device.name,
            batch_size=sample.batch_size,
            recalibration_batches=sample.recalibration_batches,
            images=sample.images,
            workers=workers or sample.workers,
            directory=directory.absolute(),
            uri=config.uri,
            gpus=sample.gpus,
        )

    def open(self) -> Callable[[Sequence[str]], list[tuple[str, dict[str, float]]]]:
        """Load weights and images; the result scores a batch of codes."""
        from search_spaces import make_space

        from ..evaluate import MemberScorer
        from ..train.candidate import load_supernet, shared_data

        space = make_space(self.space, self.parameters)
        scorer = MemberScorer(
            load_supernet(space, node_files(self.directory, self.uri).fetch(self.weights)),
            shared_data(self.data, self.seed, self.device),
            batch_size=self.batch_size,
            recalibration_batches=self.recalibration_batches,
            images=self.images,
            seed=self.seed,
            device=self.device,
        )
        return lambda codes: [(code, asdict(scorer.score(space.decode(code)))) for code in codes]


def score_members(
    job: MemberJob,
    codes: Sequence[str],
    on_result: Callable[[str, dict[str, float]], None],
    stop: Callable[[], bool] = never,
) -> None:
    """Score members, telling each score as it arrives.

    A score depends on the member alone, neither on the order nor on the worker.

    Args:
        codes: the members.
        on_result: called here with a code and the fields of `MemberScore`.
        stop: asked between batches; once true the rest is left.
    """
    size = max(1, min(_BATCH, len(codes) // (4 * job.workers)))
    batches = [codes[i : i + size] for i in range(0, len(codes), size)]
    for scores in map_unordered(job, batches, workers=min(job.workers, len(batches)), stop=stop):
        for code, score in scores:
            on_result(code, score)
