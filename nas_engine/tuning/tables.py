"""Building the lookup table on long-lived workers: each holds the predictor and the cost models, and writes parts.

Members are shared out here, in an order that follows from the space and the seed, so the table does not depend on
who wrote which part; parts that an interrupted build left are kept where they are what this build would write.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces import SearchSpace, make_space
from search_spaces.errors import EngineError

from ..config import Config
from ..files import Record, read_json
from ..interrupt import never
from ..remote import NodeFiles, node_files
from ..shapes import space_parameters
from .pool import map_unordered

if TYPE_CHECKING:
    from predictors.cost import CostModel

_PART = 4096  # rows of a part
_DRAWS = 20  # per row, before a sampled table is content with fewer rows

Part = tuple[int, tuple[str, ...]]
"""Number and codes of a part."""


@dataclass(frozen=True)
class TableJob:
    """What a worker needs to predict and cost members; plain values, so that it travels.

    Attributes:
        space, parameters: what `make_space` takes.
        directory: of the run, with `predict/model` and `device/latency.json`; the table goes to `table/table.parquet`.
        costs: names of the cost columns.
        seed: of the sampled rows.
        rows: of a sampled table.
        whole: every distinct member instead.
        workers: processes; 1 for this one.
        device, gpus: of each worker.
        uri: of the run where it lies under one.
        segmented: the members that a search by segments leads to instead.
    """

    space: str
    parameters: dict[str, Any]
    directory: Path
    costs: tuple[str, ...]
    seed: int
    rows: int
    whole: bool
    workers: int = 1
    device: str = "cpu"
    gpus: float | None = None
    uri: str | None = None
    segmented: bool = False

    @classmethod
    def of(cls, config: Config, space: SearchSpace, directory: Path, *, whole: bool) -> TableJob:
        """The job of a run whose directory is `directory`."""
        return cls(
            space=config.space.name,
            parameters=space_parameters(config, space),
            directory=directory.absolute(),
            costs=config.costs,
            seed=config.seed,
            rows=config.table.rows,
            whole=whole,
            segmented=config.sample.strategy == "segments",
            workers=config.table.workers,
            uri=config.uri,
        )

    @property
    def path(self) -> Path:
        return self.directory / "table" / "table.parquet"

    @property
    def files(self) -> NodeFiles:
        """The run's files as this process has them."""
        return node_files(self.directory, self.uri)

    def part(self, number: int) -> Path:
        return self.directory / "table" / "parts" / f"{number:06d}.parquet"

    def open(self) -> Callable[[Part], tuple[int, int]]:
        """Load the predictor and the cost models; the result writes a part, and gives its number and its rows."""
        from predictors.base import load_predictor
        from predictors.table import TableWriter, build_rows, table_metadata, table_schema

        space = make_space(self.space, self.parameters)
        files = self.files
        predictor = load_predictor(files.fetch_folder(self.directory / "predict" / "model"), space)
        models = self._cost_models()
        metadata = table_metadata(space, predictor, models, seed=self.seed, parameters=self.parameters)
        metadata = json.loads(json.dumps({**metadata, "latencies": self._fingerprint()}))
        schema = table_schema(space, models)
        stated = {"seed": self.seed, "date": metadata["date"]}

        def write(part: Part) -> tuple[int, int]:
            number, codes = part
            path = files.fetch(self.part(number))
            if not _is_finished(path, codes, metadata):
                with TableWriter(path, schema, metadata) as writer:
                    for rows in build_rows(space, predictor, models, map(space.decode, codes), batch=_PART, **stated):
                        writer.write(rows)
                files.push(self.part(number))
            return number, len(codes)

        return write

    def _cost_models(self) -> Mapping[str, CostModel]:
        from predictors.cost import LatencyModel, make_cost_model

        models: dict[str, CostModel] = {n: make_cost_model(n) for n in self.costs if n != "latency_ms"}
        if "latency_ms" in self.costs:
            models["latency_ms"] = LatencyModel.from_json(self._latency)
        return models

    @property
    def _latency(self) -> str:
        path = self.files.fetch(self.directory / "device" / "latency.json")
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise EngineError(f"no latencies at {path}; start the run again with its command") from None

    def _fingerprint(self) -> str:
        """Tells the latency tables of two measurements apart."""
        return hashlib.sha256(self._latency.encode()).hexdigest()[:16] if "latency_ms" in self.costs else ""

    def members(self) -> Iterator[str]:
        """Codes of the distinct members that the table is of; of a large space those that were scored come first."""
        space = make_space(self.space, self.parameters)
        if self.whole:
            yield from (a.code for a in space.enumerate() if space.canonical(a) == a)
            return
        if self.segmented:
            from predictors.segments import segment_members

            yield from segment_members(read_json(self.directory / "sample" / "segments.json"), space)
            return
        rng = np.random.default_rng([self.seed, *b"table"])
        scored = sorted(row["code"] for row in Record(self.directory / "sample" / "scores.jsonl").rows)
        drawn = (space.canonical(space.sample(rng)).code for _ in range(_DRAWS * self.rows))
        found: set[str] = set()
        for code in chain(scored, drawn):
            if code not in found:
                found.add(code)
                yield code
            if len(found) == self.rows:
                return


def build_table(
    job: TableJob,
    on_rows: Callable[[int, int | None], None] = lambda done, total: None,
    stop: Callable[[], bool] = never,
) -> int:
    """Build the lookup table, or go on with an interrupted build; returns its number of rows, 0 where it was stopped.

    Args:
        on_rows: told the rows that are done and those there will be (None while unknown) after each part.
        stop: asked between parts; once true no table is written, and the parts are kept.
    """
    from predictors.table import merge_parts

    written: dict[int, int] = {}
    for number, rows in map_unordered(job, _parts(job), workers=job.workers, stop=stop):
        written[number] = rows
        on_rows(sum(written.values()), None if job.whole or job.segmented else job.rows)
    if stop():
        return 0
    parts = [job.files.fetch(job.part(number)) for number in sorted(written)]
    rows = merge_parts(parts, job.path)
    shutil.rmtree(job.part(0).parent, ignore_errors=True)
    return rows


def _parts(job: TableJob) -> Iterator[Part]:
    members = job.members()
    for number in count():
        codes = tuple(islice(members, _PART))
        if not codes:
            return
        yield number, codes


def _is_finished(path: Path, codes: tuple[str, ...], metadata: Mapping[str, Any]) -> bool:
    """Whether a part holds these members, predicted and costed by the same models."""
    from predictors.table import LookupTable

    if not path.exists():
        return False
    try:
        table = LookupTable.open(path)
        same = {**table.metadata, "date": ""} == {**metadata, "date": ""}
        return same and [c for b in table.iter_batches(columns=["code"]) for c in b["code"].to_pylist()] == list(codes)
    except EngineError:
        return False
