"""The way from a configuration to a trained graph network.

Measure the memory of a step, train by the one loop, keep the weights that are best on the validation part, judge these
on the test part once, export. Each piece leaves a file in one directory, so a training that is killed goes on there.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from search_spaces import Graph, Network
from search_spaces.errors import ConfigError, RunError
from search_spaces.inputs import GraphInput

from ..compress.workplace import Stages, Workplace
from ..data import GraphSplits
from ..evaluate import judge
from ..export import Card, export_bundle, refused
from ..files import Progress, read_json, read_torch, replacing, write_json, write_text, write_torch
from ..interrupt import never
from ..progress import silent
from ..show import count
from ..train import Epoch, NetworkProgram, finished_epochs, train
from ..train.candidate import shared_data
from ..train.loop import noted
from .memory import measured_step
from .model import Sizes, model_graph
from .request import Request
from .room import require_room

WEIGHTS, GRAPH, HISTORY, RESULT = "model.safetensors", "graph.json", "history.json", "result.json"
_CHECKPOINT, _BEST = "checkpoint.pt", "best.pt"
_LIMIT = "It was trained by itself on one graph; on graphs of another kind nothing is known of it."
Row = dict[str, Any]


def train_gnn(
    request: Request,
    *,
    progress: Progress = silent,
    stop: Callable[[], bool] = never,
    command: str = "",
) -> dict[str, Any]:
    """Train a graph network, or go on with it, in the directory of the request.

    Args:
        progress: listens to events, see `nas_engine.progress`.
        stop: asked between pieces of work and epochs; once true it ends with `Interrupted`, and the same call goes on.
        command: how the user goes on, for messages.

    Returns:
        What `result.json` holds; see `docs/train-gnn.md`.

    Raises:
        ConfigError, DataError, GraphError: settings or data that cannot be used.
        DivergedError: the loss is no longer a number.
        RunError: the directory is in use, or of another request.
    """
    place = Workplace(request.directory, command, elsewhere="give another name, such as --set name=second")
    return Training(request, place, progress, stop).run()


@dataclass
class Training:
    """A training under way."""

    request: Request
    place: Workplace
    progress: Progress = silent
    stop: Callable[[], bool] = never

    def run(self) -> dict[str, Any]:
        torch.set_num_threads(self.request.training_threads)
        self._check_device()
        asked = {**self.request.model_dump(mode="json"), "data_read": self.data.fingerprint}
        for place in ("results", "threads"):  # where it lies, and how fast it goes
            del asked[place]
        _ = self._forms  # says what is wrong before a directory is made
        self._check_room()
        with self.place.held(asked):
            started, spent = time.perf_counter(), self.place.spent
            self.progress("note", {"text": self.data.description})
            memory = self._stage("memory", "memory of a step, measured", self._memory)
            trained = self._stage("train", f"up to {self.request.epochs} epochs", self._trained)
            test = self._stage("test", "the best weights on the test part, once", self._test)
            self._stage.ask()
            found = self._found(memory, trained, test)
            found |= self._handed_over(found)
            found["seconds"] = spent + time.perf_counter() - started
            write_json(self.place.file(RESULT), found)
            return found

    def _check_device(self) -> None:
        if self.request.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device cuda: torch finds no GPU here; take device: cpu")

    @property
    def _stage(self) -> Stages:
        return Stages(self.place, self.progress, self.stop)

    # ---- what is trained ---------------------------------------------------------------------------------

    @cached_property
    def data(self) -> GraphSplits:
        # the request refuses images and texts
        return cast("GraphSplits", shared_data(self.request.data, self.request.seed, self.request.device))

    @cached_property
    def graph(self) -> Graph:
        nodes, _ = self.data.input_shape
        return self._graph_of(nodes, self.data.edges)

    def _graph_of(self, nodes: int, edges: int) -> Graph:
        """The network's graph for a batch of so many nodes and edges."""
        data = self.data
        sizes = Sizes(nodes, edges, data.input_shape[1], data.edge_features, len(data.classes))
        return model_graph(self.request.model, sizes)

    def network(self, state: dict[str, Tensor] | None = None) -> Network:
        """A network as training begins with it, or with given weights, on the device."""
        torch.manual_seed(self.request.seed)
        network = Network(self.graph)
        network.memory = self.request.mode
        if state is not None:
            network.load_state_dict(state)
        return network.to(self.request.device)

    def _program(self, network: Network) -> NetworkProgram:
        return NetworkProgram(network, self.request.optimizer.label_smoothing)

    @cached_property
    def _forms(self) -> tuple[str, ...]:
        """Formats of the bundle: those asked for, or those of the usual ones that can hold the network.

        Raises:
            ConfigError: one that is asked for cannot.
        """
        forms = self.request.forms
        without = refused(forms, self.graph)
        if self.request.formats is not None:
            for name, reason in without.items():
                raise ConfigError(f"format {name!r} cannot hold this network: {reason}; leave it out of formats")
        return tuple(name for name in forms if name not in without)

    @cached_property
    def _largest(self) -> tuple[GraphInput, Tensor, int]:
        """The largest batch of the first epoch, and how many there are."""
        request = self.request
        walk = self.data.epoch(request.optimizer.batch_size, seed=request.seed, epoch=0, device=request.device)
        return *max(walk, key=lambda batch: batch[0].edges.shape[-1]), len(walk)

    def _check_room(self) -> None:
        if not self.place.file("memory.json").exists():
            batch = self._largest[0]
            graph = self._graph_of(batch.x.shape[1], max(1, batch.edges.shape[-1]))
            require_room(self.request.model, graph, self.request.mode, self.request.device)

    def _memory(self) -> dict[str, Any]:
        request, (batch, targets, steps) = self.request, self._largest
        measured = measured_step(self._program(self.network()), request.optimizer, (batch, targets), request.device)
        text = (
            f"peak {count(measured.peak, 'B')}: {count(measured.kept, 'B')} of weights and optimiser, "
            f"{count(measured.held, 'B')} held by the forward pass; {measured.seconds:.3g} s a step"
        )
        sizes = {"nodes": batch.x.shape[1], "edges": batch.edges.shape[-1], "steps": steps}
        return {**asdict(measured), **sizes, "memory": request.mode, "text": text}

    # ---- training ----------------------------------------------------------------------------------------

    def _trained(self) -> dict[str, Any]:
        network = self.network()
        rows = self._known(network)
        best = self._best(rows)
        if not self._enough(rows):
            epochs = train(
                self._program(network),
                self.data,
                self.request.optimizer,
                epochs=self.request.epochs,
                seed=self.request.seed,
                checkpoint=self.place.file(_CHECKPOINT),
                notes=rows,
                device=self.request.device,
            )
            for epoch in epochs:
                rows.append(self._judged(network, epoch))
                best = self._kept(network, rows, best)
                self._tell(rows, best)
                if self._enough(rows):
                    break
                self._stage.ask()
        write_json(self.place.file(HISTORY), rows)
        words = self.data.quality.told(best["accuracy"])
        return {"best": best, "epochs": len(rows), "text": f"best {words} on validation, in epoch {best['epoch']}"}

    def _known(self, network: Network) -> list[Row]:
        """Rows of the epochs that the checkpoint holds: those noted in it, and its last one judged again."""
        checkpoint = self.place.file(_CHECKPOINT)
        if not checkpoint.exists():
            return []
        network.load_state_dict(read_torch(checkpoint)["module"])
        rows = [*noted(checkpoint), self._judged(network, finished_epochs(checkpoint)[-1])]
        self._kept(network, rows, self._best(rows[:-1]))
        self.progress("note", {"text": f"going on after epoch {len(rows)} of {self.request.epochs}"})
        return rows

    def _judged(self, network: Network, epoch: Epoch) -> Row:
        row: Row = {"epoch": epoch.epoch, "loss": epoch.loss, "seconds": epoch.seconds}
        if epoch.epoch % self.request.judge_every and epoch.epoch != self.request.epochs:
            return row
        single = replace(self.data, views=1)  # all views are for the end
        found = judge(network, single, self.data.validation, device=self.request.device)
        return {**row, "accuracy": found.accuracy, "validation_loss": found.loss}

    @staticmethod
    def _best(rows: list[Row]) -> Row:
        """The first of the rows that are best on the validation part."""
        return max((r for r in rows if "accuracy" in r), key=_figure, default={"epoch": 0, "accuracy": math.nan})

    def _kept(self, network: Network, rows: list[Row], best: Row) -> Row:
        """The best row after one more; its weights go to the disk."""
        row = rows[-1]
        if "accuracy" not in row or (best["epoch"] and _figure(row) <= _figure(best)):
            return best
        write_torch(self.place.file(_BEST), {"epoch": row["epoch"], "module": network.state_dict()})
        return row

    def _enough(self, rows: list[Row]) -> bool:
        if len(rows) >= self.request.epochs:
            return True
        best, patience = self._best(rows)["epoch"], self.request.patience
        return bool(patience is not None and best and "accuracy" in rows[-1] and len(rows) - best >= patience)

    def _tell(self, rows: list[Row], best: Row) -> None:
        write_json(self.place.file(HISTORY), rows)
        judged = next((r for r in reversed(rows) if "accuracy" in r), None)
        words = f"loss {rows[-1]['loss']:.4f}"
        if judged is not None:
            quality = self.data.quality
            words += f", validation {quality.told(judged['accuracy'])}, best {quality.words(best['accuracy'])}"
        self.progress("step", {"text": words, "done": len(rows), "total": self.request.epochs})

    # ---- what comes of it --------------------------------------------------------------------------------

    def _best_network(self) -> Network:
        try:
            state = read_torch(self.place.file(_BEST))["module"]
        except FileNotFoundError:
            raise RunError(
                f"no weights at {self.place.file(_BEST)}; remove {self.place.file('train.json')} and give the same "
                "command again"
            ) from None
        return self.network(state).eval()

    def _test(self) -> dict[str, Any]:
        network, device = self._best_network(), self.request.device
        found = {
            name: asdict(judge(network, self.data, part, device=device))
            for name, part in (("validation", self.data.validation), ("test", self.data.test))
        }
        quality = self.data.quality
        words = ", ".join(f"{name} {quality.words(figures['accuracy'])}" for name, figures in found.items())
        return {**found, "text": f"{quality.name}: {words}"}

    def _found(self, memory: Row, trained: Row, test: Row) -> dict[str, Any]:
        request, rows = self.request, read_json(self.place.file(HISTORY))
        network = self._best_network()
        return {
            "name": request.name,
            "data": self.data.description,
            "quality": self.data.quality.name,
            "model": request.model.model_dump(mode="json"),
            "validation": test["validation"]["accuracy"],
            "test": test["test"]["accuracy"],
            "best_epoch": trained["best"]["epoch"],
            "epochs": trained["epochs"],
            "params": sum(p.numel() for p in network.parameters()),
            "memory": {k: v for k, v in memory.items() if k != "text"},
            "step_seconds": statistics.median(row["seconds"] for row in rows) / memory["steps"],
            "device": request.device,
            "threads": request.training_threads,
            "seed": request.seed,
            "out": str(self.place.path),
        }

    def _handed_over(self, found: Row) -> dict[str, Any]:
        """Weights, graph and bundle of the best network."""
        from safetensors.torch import save

        self.progress("stage", {"name": "export", "state": "start", "text": "bundle written and verified"})
        network = self._best_network().cpu()
        with replacing(self.place.file(WEIGHTS)) as path:
            path.write_bytes(save({k: v.clone().contiguous() for k, v in network.state_dict().items()}))
        write_text(self.place.file(GRAPH), network.graph.to_json())
        bundle = export_bundle(
            network,
            self.place.file("bundle"),
            samples=self.data.samples(1).to("cpu"),
            card=self._card(found),
            formats=self._forms,
        )
        worst = max(bundle.differences.values(), default=0.0)
        text = f"{bundle.path}, largest difference of a reloaded form {worst:.1e}"
        self.progress("stage", {"name": "export", "state": "skipped" if bundle.kept else "done", "text": text})
        files = {"weights": WEIGHTS, "graph": GRAPH, "history": HISTORY}
        return {**{k: str(self.place.file(v)) for k, v in files.items()}, "bundle": str(bundle.path)}

    def _card(self, found: Row) -> Card:
        data = self.data
        return Card(
            name=self.request.name,
            data=data.description,
            source=data.source,
            classes=tuple(map(str, data.classes)),
            mean=data.mean,
            std=data.std,
            epochs=found["best_epoch"],
            seed=self.request.seed,
            metrics={"accuracy": found["validation"], "test_accuracy": found["test"]},
            task=data.quality.task,
            quality=data.quality,
            validation_images=len(data.validation),
            test_images=len(data.test),
            limits=(_LIMIT,),
        )


def _figure(row: Row) -> float:
    """The quality of a row, to be compared: one that is not a number is below all others."""
    return -1.0 if math.isnan(row["accuracy"]) else row["accuracy"]


def load_network(directory: str | Path) -> Network:
    """The trained network of a directory that `train_gnn` wrote, in evaluation mode.

    Raises:
        RunError: nothing was trained there to its end.
    """
    from safetensors.torch import load_file

    folder = Path(directory)
    try:
        network = Network(Graph.from_json((folder / GRAPH).read_text(encoding="utf-8")))
        network.load_state_dict(load_file(folder / WEIGHTS))
    except FileNotFoundError as e:
        raise RunError(
            f"no file {e.filename or folder / WEIGHTS}: train there first, with nas-engine train-gnn"
        ) from None
    return network.eval()
