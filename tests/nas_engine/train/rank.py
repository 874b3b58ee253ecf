"""One of two processes that train together, for `test_parallel.py`: `python rank.py RANK SIZE FOLDER`.

Goes through some trainings as `CASES` has them and leaves what it ends with in `FOLDER/RANK.pt`; SIZE 1 is a training
alone, which the test makes in its own process.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_engine.config import Optimizer
from nas_engine.config import Supernet as Settings
from nas_engine.data import DataSplits, load_data, load_text
from nas_engine.train import NetworkProgram, Program, supernet_program, train
from nas_engine.train.parallel import Alone, ConnectionLostError, join, leave
from search_spaces import GraphBuilder, Network, Supernet, make_space
from search_spaces.errors import ConfigError

ODD = Optimizer(batch_size=33, learning_rate=0.05)


def plain(dropout: bool = False) -> nn.Module:
    """Without batch norms, whose statistics are those of a share."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 20), nn.ReLU(), nn.Linear(20, 10)]
    return nn.Sequential(*layers[:4], nn.Dropout(0.5 if dropout else 0.0), *layers[4:])


def normalised() -> nn.Module:
    torch.manual_seed(1)
    g = GraphBuilder((1, 8, 8))
    x = g.add("conv_bn_act", g.input, name="a", out_channels=8)
    return Network(g.build(g.add("classifier", x, name="head", classes=10)))


def supernet() -> Supernet:
    torch.manual_seed(1)
    return Supernet(make_space("nasbench201", {"input_shape": (1, 8, 8), "channels": 4, "cells": 1, "stages": 1}))


def elastic() -> Supernet:
    torch.manual_seed(1)
    shape = {"input_shape": (1, 8, 8), "widths": (8, 16), "strides": (1, 2), "depths": (1, 2)}
    return Supernet(make_space("mobile", shape), kernel_transform=True)


class Stepping(NetworkProgram):
    """Has a state of which every process sees its share only."""

    seen = 0.0

    def backward(self, inputs: Tensor, targets: Tensor, epoch: int, step: int) -> Tensor:
        self.seen += float(targets.sum())
        return super().backward(inputs, targets, epoch, step)

    def before_step(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
        """The gradients are those of all processes by now."""

    def after_step(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


class Lopsided(NetworkProgram):
    """Steps in which a process touches a weight that the others do not, and one that nobody touches."""

    def __init__(self, rank: int) -> None:
        super().__init__(plain())
        self.module.register_parameter("own", nn.Parameter(torch.ones(3)))
        self.module.register_parameter("idle", nn.Parameter(torch.ones(3, 1)))
        self._rank = rank

    def backward(self, inputs: Tensor, targets: Tensor, epoch: int, step: int) -> Tensor:
        loss = super().backward(inputs, targets, epoch, step)
        if self._rank == 0:
            self.module.get_parameter("own").sum().backward()
        return loss


@cache
def images() -> DataSplits:
    return load_data("digits", limit=200)


def ended(program: Program, team: Alone, settings: Optimizer = ODD, **options: Any) -> dict[str, Any]:
    """What a training ends with."""
    epochs = options.pop("until", 2)
    walk = train(program, options.pop("data", None) or images(), settings, epochs=2, seed=3, team=team, **options)
    losses = [epoch.loss for epoch in islice(walk, epochs)]
    return {"losses": losses, "module": {k: v.clone() for k, v in program.module.state_dict().items()}}


def outcomes(team: Alone, folder: Path) -> dict[str, Any]:
    """Trainings of all kinds, by name."""
    fair = Settings(strategy="fair", epochs=2, optimizer=Optimizer(batch_size=64))
    shrinking = [{}, ["kernel", "depth", "expansion", "width"]]  # channels are sorted before the second epoch
    sandwich = Settings(strategy="sandwich", epochs=2, shrinking=shrinking, kernel_transform=True)  # type: ignore[arg-type]
    stepping = Stepping(plain())
    found = {
        "plain": ended(NetworkProgram(plain()), team),
        "accumulated": ended(NetworkProgram(plain()), team, ODD.model_copy(update={"accumulate": 3})),
        "dropout": ended(NetworkProgram(plain(dropout=True)), team),
        "normalised": ended(NetworkProgram(normalised()), team),
        "supernet": ended(supernet_program(supernet(), 0, fair), team, fair.optimizer),
        "elastic": ended(supernet_program(elastic(), 0, sandwich), team, sandwich.optimizer),
        "lopsided": ended(Lopsided(team.rank), team),
        "stepping": {**ended(stepping, team), "seen": stepping.seen},
    }
    text = load_text(f"text:{folder / 'text.txt'}", steps=7)
    shape = {"input_shape": text.input_shape, "classes": len(text.classes), "nodes": 2, "hidden": 12}
    dry = {f"{where}_dropout": 0.0 for where in ("word", "input", "hidden", "output")}
    space = make_space("recurrent", {**shape, **dry})
    for name, parts in (("text", 1), ("text in parts", 2)):
        torch.manual_seed(0)
        network = Network(space.graph(space.from_indices([3, 0, 1])))
        settings = Optimizer(batch_size=6, learning_rate=1.0, weight_decay=0, clip_norm=0.25, accumulate=parts)
        found[name] = ended(NetworkProgram(network), team, settings, data=text)
    # the checkpoint is in the folder of rank 0 alone, and the others begin with other weights
    checkpoint = folder / f"of-{team.rank}" / "c.pt"
    ended(NetworkProgram(plain()), team, until=1, checkpoint=checkpoint)
    other = plain()
    nn.init.constant_(other[0].weight, float(team.rank))  # type: ignore[index]
    found["resumed"] = ended(NetworkProgram(other), team, checkpoint=checkpoint)
    return found


def told(team: Alone) -> dict[str, Any]:
    """What processes say to each other."""
    said = {
        "agreed": team.agree(team.leads),
        "given": team.given(lambda: {"a": torch.arange(3), "rank": team.rank}),
        "nothing": team.given(lambda: None),
        "sum": team.add(torch.tensor(float(team.rank + 1))),
    }
    try:
        team.same("data", f"data of {team.rank}")
    except ConfigError as e:
        said["differing"] = str(e)
    team.same("data", "the same")
    few = images().beginning(1, 1)
    try:
        ended(NetworkProgram(plain()), team, data=few)
    except ConfigError as e:
        said["too few"] = str(e)
    return said


def main(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "meeting"), size)
    team = join("cpu", timedelta(seconds=60), store=store, rank=rank, size=size)
    torch.save({**outcomes(team, folder), "told": told(team)}, folder / f"{rank}.pt")
    if rank == 0:
        try:
            while True:  # until the other one, which ends now, is missed
                team.add(torch.ones(1))
        except ConnectionLostError as e:
            (folder / "lost.txt").write_text(str(e))
    leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
