"""Training one candidate of a search: a request that travels as JSON, and the loop behind it.

A trial process knows nothing but the request; it reads the data once, takes the candidate's slice of the
supernet, trains it and reports each epoch after the checkpoint of that epoch is on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from search_spaces import Network, SearchSpace, Supernet, make_space
from search_spaces.errors import RunError

from ..config import Config, Data, Optimizer
from ..data import Augment, Splits, load_data, load_graph, load_text
from ..evaluate import judge, recalibrate
from ..files import read_torch
from ..quality import data_kind
from ..shapes import space_parameters
from .loop import Epoch, finished_epochs, noted, train
from .programs import DistilledProgram, NetworkProgram

GIVEN = "given.safetensors"
"""In the folder of the supernet: the weights that it began with, where a space brings them."""


class Training(BaseModel):
    """What every request to train a network says; plain values only, so that it travels between processes.

    Attributes:
        data, seed: the data section and the run's seed (which fixes the validation split).
        trial_seed: seed of this training.
        checkpoint: where the training is saved after each epoch.
    """

    model_config = ConfigDict(frozen=True)
    data: Data
    seed: int
    trial_seed: int
    epochs: int
    optimizer: Optimizer
    device: str = "cpu"
    threads: int = 1
    checkpoint: Path


class Candidate(Training):
    """A request to train one architecture of a space.

    Attributes:
        space, parameters: what `make_space` takes.
        code: the architecture.
        supernet: weights to start from, None to start afresh.
        teacher: weights of the whole network that a space is cut from, to learn from beside the labels; None for these
            alone.
    """

    space: str
    parameters: dict[str, object]
    code: str
    supernet: Path | None = None
    teacher: Path | None = None


class CandidateResult(BaseModel):
    """One epoch of a candidate, on the validation part. Accuracy is a fraction: of texts `1 / perplexity`."""

    epoch: int
    accuracy: float
    loss: float
    train_loss: float
    seconds: float


def candidate_of(config: Config, space: SearchSpace, code: str, trial: int, directory: Path) -> Candidate:
    """The request for trial number `trial` of a run whose directory is `directory`."""
    search = config.search
    return Candidate(
        space=config.space.name,
        parameters=space_parameters(config, space),
        code=code,
        data=config.data,
        seed=config.seed,
        trial_seed=config.seed * 100_003 + trial + 1,
        epochs=search.epochs,
        optimizer=search.optimizer,
        device=config.device.name,
        threads=search.training_threads,
        supernet=directory / "supernet" / "weights.safetensors" if search.inherit else None,
        teacher=directory / "supernet" / GIVEN if search.distill else None,
        checkpoint=directory / "search" / "trials" / f"{trial:04d}.pt",
    )


def train_candidate(request: Candidate) -> Iterator[CandidateResult]:
    """Train, yielding every epoch; those that the checkpoint holds come first, the last of them measured again.

    An epoch is on the disk before it is yielded, and the next one may be before anybody has acted on it, so a search
    that was killed has not heard of all that a checkpoint holds.

    Raises:
        DivergedError: the loss is no longer a number.
        DataError: the data cannot be read.
    """
    torch.set_num_threads(request.threads)
    space = make_space(request.space, request.parameters)
    found = found_results(request, lambda: load_candidate(space, request.code, request.checkpoint)[0])
    yield from found
    data = shared_data(request.data, request.seed, request.device)
    torch.manual_seed(request.trial_seed)
    network = initial_network(space, request.code, request.supernet)
    if space.pretrained and request.supernet is not None and not found:
        calibrate(network, data, request.optimizer.batch_size, request.device)
    yield from trained_on(request, _program(request, space, network), found)


def trained_on(
    request: Training, program: NetworkProgram, found: Sequence[CandidateResult]
) -> Iterator[CandidateResult]:
    """Train a program on the request's data from its checkpoint on, yielding the epochs after those found in it."""
    data = shared_data(request.data, request.seed, request.device)
    results = [result.model_dump() for result in found]
    epochs = train(
        program,
        data,
        request.optimizer,
        epochs=request.epochs,
        seed=request.trial_seed,
        augment=augmentation(request.data, data),
        checkpoint=request.checkpoint,
        notes=results,
        device=request.device,
    )
    for epoch in epochs:
        result = _measured(program.module, data, epoch, request.device)
        results.append(result.model_dump())
        yield result


def _program(request: Candidate, space: SearchSpace, network: Network) -> NetworkProgram:
    """What trains the network: its labels, or its labels and the network it was cut from."""
    smoothing = request.optimizer.label_smoothing
    if request.teacher is None or space.reference is None:
        return NetworkProgram(network, smoothing)
    teacher = initial_network(space, space.reference.code, request.teacher)
    return DistilledProgram(network, teacher, label_smoothing=smoothing)


def found_results(request: Training, load: Callable[[], nn.Module]) -> list[CandidateResult]:
    """Results of the epochs that a checkpoint holds: those noted in it, and its last one measured again.

    Args:
        load: gives the network with the checkpoint's weights.
    """
    if not request.checkpoint.exists():
        return []
    network = load().to(request.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = shared_data(request.data, request.seed, request.device)
    last = _measured(network, data, finished_epochs(request.checkpoint)[-1], request.device)
    return [*(CandidateResult(**note) for note in noted(request.checkpoint)), last]


def _measured(network: nn.Module, data: Splits, epoch: Epoch, device: str) -> CandidateResult:
    measured = judge(network, data, data.validation, device=device)
    return CandidateResult(
        epoch=epoch.epoch,
        accuracy=measured.accuracy,
        loss=measured.loss,
        train_loss=epoch.loss,
        seconds=epoch.seconds,
    )


def load_candidate(space: SearchSpace, code: str, checkpoint: Path) -> tuple[Network, int]:
    """The trained network of a trial, in evaluation mode, and how many epochs it was trained."""
    network = Network(space.graph(space.decode(code)))
    try:
        state = read_torch(checkpoint)
    except FileNotFoundError:
        raise RunError(f"no weights at {checkpoint}; start the run again with its command") from None
    network.load_state_dict(state["module"])
    return network.eval(), len(state["history"])


def initial_network(space: SearchSpace, code: str, supernet: Path | None) -> Network:
    """A candidate before its training: fresh, or with its slice of the supernet's weights."""
    architecture = space.decode(code)
    if supernet is None:
        return Network(space.graph(architecture))
    return load_supernet(space, supernet).extract(architecture)


def calibrate(network: Network, data: Splits, batch_size: int, device: str = "cpu") -> None:
    """Batch-norm statistics of a network that was cut, from training inputs: short trainings do not mend them."""
    walk = islice(data.walk(data.train, batch_size, seed=0, device=device), -(-_CALIBRATION // batch_size))
    recalibrate(network.to(device), (inputs for inputs, _ in walk))


_CALIBRATION = 1024  # training inputs


def load_supernet(space: SearchSpace, weights: Path) -> Supernet:
    """The trained supernet of a run."""
    from safetensors.torch import load_file

    try:
        state = load_file(weights)
    except FileNotFoundError:
        raise RunError(f"no supernet weights at {weights}; start the run again with its command") from None
    return Supernet.of_state(space, state).eval()


def shared_data(data: Data, seed: int, device: str = "cpu") -> Splits:
    """The data of a run, read once a process."""
    return _read_once(data.model_dump_json(), seed, device)


@lru_cache(maxsize=2)
def _read_once(section: str, seed: int, device: str) -> Splits:
    data = Data.model_validate_json(section)
    splits: Splits
    kind = data_kind(data.source)
    if kind == "graph":
        splits = load_graph(
            data.source,
            target=data.target,
            labels=data.labels,
            validation=data.validation,
            seed=seed,
            limit=data.limit,
            features=data.features,
            undirected=data.undirected,
            parts=data.parts,
            view_parts=data.view_parts,
            views=data.views,
            neighbours=data.neighbours,
        )
    elif kind == "text":
        splits = load_text(
            data.source, tokens=data.tokens, vocabulary=data.vocabulary, steps=data.steps, limit=data.limit
        )
    else:
        splits = load_data(
            data.source,
            validation=data.validation,
            seed=seed,
            limit=data.limit,
            image_size=data.image_size,
            normalise=data.normalise,
        )
    return splits if device == "cpu" else splits.to(device)


def augmentation(section: Data, data: Splits) -> Augment | None:
    """The augmentation the user asked for, else the one that suits the source; an empty mapping means none."""
    if section.augment is None:
        return data.augment
    return Augment(**section.augment) if section.augment else None
