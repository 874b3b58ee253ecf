"""The way from a trained network to a smaller one that is seen to be worth it.

Judge it, score its units, choose what goes, cut, recalibrate, train on, measure both side by side, export. Each piece
leaves a file in one directory, so a compression that is killed goes on from there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from search_spaces import Network
from search_spaces.coupling import operate
from search_spaces.errors import ConfigError

from ..data import DataSplits
from ..evaluate import judge, recalibrate
from ..export import exporters
from ..files import Progress, read_json, read_torch, write_json, write_torch
from ..interrupt import never
from ..progress import silent
from ..train import DistilledProgram, NetworkProgram, Program, train
from ..train.candidate import augmentation, shared_data
from . import verdict
from .allocation import Cut, allocators
from .choosing import Choosing
from .criteria import criteria
from .handing import choices, export, report
from .masked import Masked
from .request import Request, made
from .schedules import Plan, Schedule, ScheduledProgram, schedules
from .subject import Subject, make_subject
from .workplace import Stages, Workplace

_SAMPLES = 64  # images that outputs are compared on
_CALIBRATION = 1024  # training images for the statistics of batch norms
_CHANCE = 1.5  # accuracies up to so many times that of guessing are told


def compress(
    request: Request,
    out: Path,
    *,
    progress: Progress = silent,
    stop: Callable[[], bool] = never,
    command: str = "",
) -> dict[str, Any]:
    """Compress a network, or go on with it.

    Args:
        request: what is asked for; a directory that was begun with something else is refused.
        out: the directory; `report.json`, `choices.json` and `bundle/` in it are what users take away.
        progress: listens to events, see `nas_engine.progress`.
        stop: asked between pieces of work and epochs; once true it ends with `Interrupted`, and the same call goes on.
        command: how the user goes on, for messages.

    Returns:
        The report; see `docs/compress.md`.

    Raises:
        ConfigError, DataError, GraphError, SpaceError: a model, weights, data or names that cannot be used.
        UnsatisfiableError: a target below what can be reached, with the lowest cost that can be.
        RunError: the directory is in use, or of another request.
    """
    return Compression(request, Workplace(out, command), progress, stop).run()


@dataclass
class Compression:
    """A compression under way."""

    request: Request
    place: Workplace
    progress: Progress = silent
    stop: Callable[[], bool] = never

    def run(self) -> dict[str, Any]:
        self._check_names()
        torch.set_num_threads(self.request.training_threads)
        asked = {**self.request.model_dump(mode="json"), "inputs": self._fingerprints()}
        with self.place.held(asked):
            started, spent = time.perf_counter(), self.place.spent
            before = self._stage("judge", "accuracy of the network as it is", self._before)
            cut = self._chosen()
            small, accuracy = self._small(cut)
            latency = self._stage("measure", "latency before and after, in turns", lambda: self._latencies(cut))
            found = report(self.choosing, cut, {"before": before, **accuracy}, latency)
            self._stage.ask()
            bundle = export(self.choosing, small, found, self.progress)
            found |= {"bundle": bundle, "seconds": spent + time.perf_counter() - started}
            write_json(self.place.file("report.json"), found)
            return found

    def _check_names(self) -> None:
        """Look up everything that is named, so that a typing mistake costs seconds."""
        _ = self._schedule()
        name = self.request.schedule.name
        if schedules[name].masks != "units":
            ready = ", ".join(n for n, s in schedules.items() if s.masks == "units")
            raise ConfigError(
                f"schedule {name!r} masks single columns of weights, which leaves widths as they are; to cut channels "
                f"choose one of: {ready}"
            )
        if self.request.allocation is not None:
            _ = allocators[self.request.allocation]
        for form in self.request.formats:
            _ = exporters[form]
        asked = self.request.criterion
        _ = made("criterion", criteria[asked.name], asked.name, asked.settings, self.request.seed)

    def _schedule(self) -> Schedule:
        asked = self.request.schedule
        return made("schedule", schedules[asked.name], asked.name, asked.settings, self.request.seed)

    def _fingerprints(self) -> dict[str, Any]:
        """What tells the inputs apart that the request names: weights and data."""
        weights, model = self.request.weights, self.request.model.rpartition(":")[0]
        files = [Path(weights)] if weights else []
        files += [Path(model)] if model.endswith(".py") else []
        _ = self.subject  # says what is wrong with a model before a directory is made
        digests = {str(f): hashlib.sha256(f.read_bytes()).hexdigest()[:16] for f in files}
        return {"files": digests, "data": self.data.fingerprint}

    @property
    def _stage(self) -> Stages:
        return Stages(self.place, self.progress, self.stop)

    # ---- what is compressed ------------------------------------------------------------------------------

    @cached_property
    def data(self) -> DataSplits:
        # the request refuses texts
        return cast("DataSplits", shared_data(self.request.data, self.request.seed, self.request.device.name))

    @cached_property
    def subject(self) -> Subject:
        samples = self.data.samples(_SAMPLES).cpu()
        return make_subject(self.request.model, self.request.weights, samples, len(self.data.classes))

    @cached_property
    def choosing(self) -> Choosing:
        return Choosing(self.request, self.place, self.subject, self.data, self._stage)

    def _judged(self, network: nn.Module) -> dict[str, Any]:
        device = self.request.device.name
        network.to(device)
        parts = {"validation": self.data.validation, "test": self.data.test}
        found = {n: judge(network, self.data, part, device=device).accuracy for n, part in parts.items()}
        network.cpu()
        return {**found, "text": f"test {100 * found['test']:.1f} %"}

    def _before(self) -> dict[str, Any]:
        found, warning = self._judged(self.subject.network), ""
        if found["test"] <= _CHANCE / len(self.data.classes):
            warning = (
                f"the network as it came is right in {100 * found['test']:.1f} % of the test images, hardly more than "
                "by guessing; are these its weights, and are pixels normalised as it expects (--normalise)?"
            )
            self.progress("warning", {"text": warning})
        return {**found, "warning": warning}

    # ---- choosing ----------------------------------------------------------------------------------------

    def _chosen(self) -> Cut:
        """What is left, from the file or found now; a schedule trains the network meanwhile."""
        _ = self.choosing.scores
        allocation, schedule = self.choosing.allocation, self.request.schedule.name
        title = f"cut to {', '.join(self.request.targets)}, {allocation}, {schedule}"
        found = self._stage("cut", title, self._at_once if schedule == "one_shot" else self._by_schedule)
        cut = Cut.from_dict(self.subject.coupling, found)
        write_json(self.place.file("choices.json"), choices(self.choosing, cut))
        return cut

    def _at_once(self) -> dict[str, Any]:
        return self.choosing.described(self.choosing.at_once())

    def _by_schedule(self) -> dict[str, Any]:
        """Units go while the network trains; what it learned meanwhile is kept in `trained.pt`."""
        masked = Masked(self._copy(), self.subject.coupling).to(self.request.device.name)
        choosing, epochs = self.choosing, self.request.schedule.epochs
        batches = len(self.data.epoch(self.request.optimizer.batch_size, seed=self.request.seed, epoch=0))
        plan = Plan(masked, choosing.keep, choosing.criterion, choosing.calibration, epochs, batches)
        schedule = self._schedule()
        program = ScheduledProgram(self._program(masked), schedule, plan)
        self._train(program, self.request.schedule.epochs, "schedule.pt", self.request.seed)
        schedule.complete()
        masked.cpu()
        write_torch(self.place.file("trained.pt"), masked.network.state_dict())
        return {**self.choosing.described(Cut(masked.kept)), "schedule": schedule.report()}

    # ---- the smaller network -----------------------------------------------------------------------------

    def _copy(self) -> Network:
        """The whole network once more, to be trained or cut."""
        network = Network(self.subject.coupling.graph)
        network.load_state_dict(self.subject.network.state_dict())
        return network.eval()

    def _small(self, cut: Cut) -> tuple[Network, dict[str, dict[str, Any]]]:
        """The smaller network as it is handed over, with its accuracies: `after`, and `cut` where it was trained on."""
        whole, trained = self._copy(), self.place.file("trained.pt")
        if trained.exists():
            whole.load_state_dict(read_torch(trained))
        small = operate(whole, self.subject.coupling, cut.keep, cut.without).network
        path = self.place.file("recalibrated.pt")
        if not path.exists():
            self._recalibrate(small)
            write_torch(path, small.state_dict())
        small.load_state_dict(read_torch(path))
        after_cut = self._stage("after_cut", "accuracy after the cut", lambda: self._judged(small))
        if not self.request.finetune:
            return small.eval(), {"after": after_cut}
        self._finetune(small)
        title = f"accuracy after {self.request.finetune} epochs of training"
        return small.eval(), {"cut": after_cut, "after": self._stage("after", title, lambda: self._judged(small))}

    def _recalibrate(self, small: Network) -> None:
        device, size = self.request.device.name, self.request.batch_size
        walk = self.data.walk(self.data.train, size, seed=self.request.seed, device=device)
        recalibrate(small.to(device), (x for x, _ in islice(iter(walk), -(-_CALIBRATION // size))))
        small.cpu()

    def _finetune(self, small: Network) -> None:
        done = self.place.file("after.json").exists()
        title = f"{self.request.finetune} epochs on the smaller network{', distilled' if self.request.distill else ''}"
        state = "skipped" if done else "start"
        self.progress("stage", {"name": "train", "state": state, "text": title})
        self._train(self._program(small), self.request.finetune, "finetune.pt", self.request.seed + 1)
        small.cpu()

    def _program(self, module: nn.Module) -> NetworkProgram:
        smoothing = self.request.optimizer.label_smoothing
        if self.request.distill:
            return DistilledProgram(module, self.subject.network, label_smoothing=smoothing)
        return NetworkProgram(module, smoothing)

    def _train(self, program: Program, epochs: int, checkpoint: str, seed: int) -> None:
        """Train on, from the checkpoint where there is one."""
        walk = train(
            program,
            self.data,
            self.request.optimizer,
            epochs=epochs,
            seed=seed,
            augment=augmentation(self.request.data, self.data),
            checkpoint=self.place.file(checkpoint),
            device=self.request.device.name,
        )
        for epoch in walk:
            text = f"loss {epoch.loss:.4f}, {epoch.seconds:.1f} s, epoch"
            self.progress("step", {"text": text, "done": epoch.epoch, "total": epochs})
            self._stage.ask()

    # ---- measuring ---------------------------------------------------------------------------------------

    def _latencies(self, cut: Cut) -> dict[str, Any]:
        """Both networks side by side and, where the cut does not pay, other cuts of the same size with them."""
        coupling, device, seconds = self.subject.coupling, self.request.device, self.choosing.measure_s
        graphs = {"before": coupling.graph, "after": cut.graph(coupling)}
        times = verdict.latencies(graphs, device.threads, seconds, device.name)
        if not verdict.pays(graphs, times) and (others := self.choosing.others(cut)):
            graphs |= others
            times = verdict.latencies(graphs, device.threads, seconds, device.name)
        words = verdict.explained(graphs, times, self.choosing.device["vector"], device.threads)
        macs = {name: graph.cost.macs for name, graph in graphs.items()}
        return {"times": times, "macs": macs, "words": words, "threads": device.threads}


def report_of(directory: Path) -> dict[str, Any]:
    """The report of a finished compression.

    Raises:
        RunError: there is none.
    """
    return dict(read_json(directory / "report.json"))
