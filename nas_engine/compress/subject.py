"""What is compressed: a network as one of our graphs with its weights, and what can be cut out of it.

A model comes from wherever `load_model` knows, or from a run of the engine; in both cases what is left of it here is
checked to compute what the model does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Network, trace
from search_spaces.coupling import Coupling, couple
from search_spaces.errors import ConfigError, RunError, SpaceError
from search_spaces.models import load_model, load_weights
from search_spaces.tracing.recorder import record

from ..run import Run
from ..store import is_uri

_SAME = 1e-4  # relative difference of outputs that rounding explains


@dataclass(frozen=True, eq=False)
class Subject:
    """A network to cut.

    Attributes:
        name: what it is called.
        network: with its weights, in evaluation mode, on the CPU.
        coupling: what can be cut out of it.
    """

    name: str
    network: Network
    coupling: Coupling


def make_subject(model: str, weights: str | None, samples: Tensor, classes: int) -> Subject:
    """Load, trace and couple a model.

    Args:
        model: what `load_model` takes, or a run's network as RUN or RUN:TRIAL.
        samples: `(N, C, H, W)` images as the network takes them, N >= 2.
        classes: of the data.

    Raises:
        ConfigError: a model or file that cannot be used.
        GraphError: torch.fx cannot follow the model; names the line.
        SpaceError: weights of another architecture, another number of classes, or nothing that can be cut.
    """
    shape = tuple(int(n) for n in samples.shape[1:])
    module, name = module_of(model, weights, shape, classes)
    graph = trace(module, samples[:2]).simplify()
    foreign = [node.name for node in graph if node.operator == "other"]
    if foreign:
        reasons = _reasons(module, samples[:2], foreign)
        raise SpaceError(
            f"model {model!r} calls what no operator stands for ({reasons}), so cuts of it cannot be costed; write "
            "these calls with torch's own layers"
        )
    given = [graph[name].shape for name in graph.outputs]
    if given != [(classes,)]:
        raise SpaceError(f"model {model!r} gives outputs of shape {given}, but the data has {classes} classes")
    network = _filled(model, module, Network(graph), samples)
    coupling = couple(graph)
    if not coupling.count and not coupling.blocks:
        reasons = "; ".join(f"{f.node}: {f.reason}" for f in coupling.frozen[:3])
        raise SpaceError(f"nothing of model {model!r} can be cut ({reasons or 'it has no layers with weights'})")
    return Subject(name, network, coupling)


def _reasons(module: nn.Module, samples: Tensor, foreign: list[str]) -> str:
    """Names of calls that are kept whole, with the lines that stop torch.fx where they do."""
    kept = record(module, [(tuple(samples.shape), samples.dtype, samples.device)]).kept
    return "; ".join(f"{name}: {kept[name]}" if name in kept else name for name in foreign[:3])


def _filled(model: str, module: nn.Module, network: Network, samples: Tensor) -> Network:
    """The network with the module's weights, once it is seen to compute the same."""
    state = module.state_dict()
    network.load_state_dict({name: state[name].clone() for name in network.state_dict()})
    network.eval()
    with torch.inference_mode():
        wanted, got = module(samples), network(samples)
    gap = float((got - wanted).norm() / wanted.norm().clamp_min(1e-12))
    if not gap <= _SAME:
        raise SpaceError(
            f"the graph of model {model!r} gives other outputs than the model (by {gap:.1e}); its forward does what "
            "torch.fx cannot record, such as reading its own state"
        )
    return network


# ---- where models come from --------------------------------------------------------------------------------


def module_of(model: str, weights: str | None, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, str]:
    """The module in evaluation mode, and a name for it."""
    found = run_of(model)
    if found is None:
        return load_model(model, input_shape=shape, classes=classes, weights=weights), name_of(model)
    module, name = _of_run(*found)
    if weights is not None:
        load_weights(module, weights, model)
    if tuple(module.graph.inputs[0].shape) != shape:
        raise ConfigError(f"{model!r} takes images of {module.graph.inputs[0].shape}, the data has {shape}")
    return module, name


def run_of(model: str) -> tuple[Run, int | None] | None:
    """The run and the trial that a model names, if it names one."""
    for text, trial in ((model, None), (model.rpartition(":")[0], model.rpartition(":")[2])):
        if not text or (trial is not None and not trial.isdigit()):
            continue
        here = any((folder / "config.yaml").is_file() for folder in (Path(text), Path("results") / text))
        if here or is_uri(text):
            return Run.open(text), None if trial is None else int(trial)
    return None


def trained_row(run: Run, trial: int | None) -> dict[str, Any]:
    """What is known of a trained network of a run: of this trial, or of the most accurate one."""
    rows = {row["trial"]: row for row in run.chosen["networks"]}
    number = int(run.best()["trial"]) if trial is None else trial
    if number not in rows:
        listed = ", ".join(map(str, sorted(rows)))
        raise RunError(f"run {run.location!r} has no trained network of trial {number}; those with one: {listed}")
    return dict(rows[number])


def _of_run(run: Run, trial: int | None) -> tuple[Network, str]:
    """A trained network of a run."""
    from ..context import Context
    from ..train import load_candidate

    row = trained_row(run, trial)
    context = Context(run.config)
    network, _ = load_candidate(run.space, row["code"], context.trial_path(row["trial"]))
    return copy.deepcopy(network), f"{run.config.name}-{row['id']}"


def data_of(model: str) -> Mapping[str, Any]:
    """What a model says of its data: the section of its run, or the normalisation in its bundle; else nothing."""
    import json

    found = run_of(model)
    if found is not None:
        return found[0].config.data.model_dump(mode="json")
    described = Path(model) / "architecture.json"
    if described.is_file():
        try:
            read = json.loads(described.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise SpaceError(f"bundle {model!r} is damaged ({e}); export the network again") from None
        if read.get("mean"):
            return {"normalise": {"mean": read["mean"], "std": read["std"]}}
    if model.startswith(("timm:", "torchvision:")):
        return {"normalise": "imagenet"}
    return {}


def name_of(model: str) -> str:
    """A short name: of a function, a directory, or the model itself.

    >>> name_of("nets.py:make"), name_of("timm:vit"), name_of("export/abc/")
    ('make', 'vit', 'abc')
    """
    return Path(model.rpartition(":")[2]).name or "model"
