"""Memory, time and gradients of deep graph networks by the way they are trained. Prints one JSON line last.

    python -m benchmarks.memory [--conv gen] [--layers 7 28 112] [--channels 80] [--groups 2] [--nodes 2708]
        [--edges 10832] [--modes plain,checkpoint,pyg,reversible,tied,deq] [--convolutions own|pyg] [--device cpu]
        [--most-gb 4] [--float64-to 112] [--repeats 3]
    python -m benchmarks.memory --train deep|wide [--steps 20] [--data ../shared/data]

A layer is `y_i = x_i + f_i(y_{i-1})` over groups of features, with f = LayerNorm, ReLU, convolution; edges are random.
The loss is the mean of the squares of what comes out. Modes differ in how they come to the same gradient:

- plain keeps all; checkpoint keeps the input of each layer (torch.utils.checkpoint); pyg is PyTorch Geometric's
  GroupAddRev, given a copy of its input; reversible is ours.
- tied is ours with the weights of one layer for all. deq is the fixed point of `LayerNorm(x + f(z))` instead, by at
  most as many iterations as there are layers, to 1e-3.

Every row is measured by a process of its own, after a step to warm up, in one thread. Bytes are those of allocator
events, beyond weights and input: `held` after the forward pass, `peak` over a step that ends with new gradients of all
weights, whose own size is `gradient`. Times are the least of the repeats.

Errors are of all gradients of weights together, relative in the 2-norm: `gradient_error` against ordinary
back-propagation through the same sums (of float64 groups for reversible and tied, of float32 ones else; for deq the
unrolled iteration, three times as long), `gradient_error_float32` against float32 throughout, as plain does it,
`gradient_error_float64` against float64 throughout, which float32 itself is some way from.

`--train` is RevGNN-Deep (1001 layers of 80 channels) or RevGNN-Wide (448 of 224) on the whole of Cora, with dropout by
a shared mask: the losses, and the peak of allocator events and of the process.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.common import publish, publish_row
from search_spaces.message_passing import make_convolution
from search_spaces.operators.message_passing import CONVOLUTIONS
from search_spaces.reversible import Equilibrium, PerGroup, Piece, Replay, Reversible, Solver, couple

MODES = ("plain", "checkpoint", "pyg", "reversible", "tied", "deq")
NETWORKS = {"deep": (1001, 80, 0.1), "wide": (448, 224, 0.2)}
"""RevGNN's layers, channels and dropout (Li et al. 2021, appendix)."""
Call = Callable[[], Tensor]


# ---- networks ----------------------------------------------------------------------------------------------


class Block(nn.Module):
    """The function of a layer: LayerNorm, ReLU, dropout by a mask, convolution of as many channels."""

    def __init__(self, conv: str, channels: int, convolutions: str = "own") -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = _published(channels) if convolutions == "pyg" and conv == "gen" else _own(conv, channels)

    def forward(self, x: Tensor, edges: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.norm(x).relu()
        result: Tensor = self.conv(x if mask is None else x * mask, edges)
        return result


class Recurrent(nn.Module):
    """The function of an equilibrium."""

    def __init__(self, block: Block, channels: int) -> None:
        super().__init__()
        self.block, self.norm = block, nn.LayerNorm(channels)

    def forward(self, z: Tensor, x: Tensor, edges: Tensor) -> Tensor:
        result: Tensor = self.norm(x + self.block(z, edges))
        return result


def _own(conv: str, channels: int) -> nn.Module:
    return make_convolution(conv, channels, channels, 1, 0, "layer")


def _published(channels: int) -> nn.Module:
    from torch_geometric.nn import GENConv

    return GENConv(channels, channels, norm="layer")  # type: ignore[no-any-return]


class Trial:
    """A network in a mode, and the calls that are measured.

    Args:
        asked: the settings of the command.
        mode, depth: of the row.
    """

    def __init__(self, asked: argparse.Namespace, mode: str, depth: int) -> None:
        torch.manual_seed(0)
        self.mode, self.depth, self.groups = mode, depth, asked.groups
        self.x = torch.randn(asked.nodes, asked.channels)
        self.edges = torch.randint(asked.nodes, (2, asked.edges))
        made = 1 if mode in ("tied", "deq") else depth
        width = asked.channels if mode == "deq" else asked.channels // asked.groups
        each = 1 if mode == "deq" else asked.groups
        self.layers = [[Block(asked.conv, width, asked.convolutions) for _ in range(each)] for _ in range(made)]
        self.net = self._network(asked.channels).to(asked.device)
        self.x, self.edges = self.x.to(asked.device), self.edges.to(asked.device)

    def _network(self, channels: int) -> nn.Module:
        if self.mode == "deq":
            return Equilibrium(Recurrent(self.layers[0][0], channels), solver=Solver(iterations=self.depth))
        if self.mode == "pyg":
            from torch_geometric.nn import GroupAddRev

            return nn.ModuleList(GroupAddRev(nn.ModuleList(layer), num_groups=self.groups) for layer in self.layers)
        return Reversible(self.layers, repeats=self.depth if self.mode == "tied" else 1)

    def forward(self) -> Tensor:
        """What the network gives, in its mode."""
        if self.mode == "plain":
            return self.through(torch.float32, saving=False)
        if self.mode == "checkpoint":
            return self.through(torch.float32, saving=True)
        if self.mode == "pyg":
            x = self.x.clone()  # its storage is emptied
            for layer in self.net:  # type: ignore[attr-defined]
                x = layer(x, self.edges)
            return x
        result: Tensor = self.net(self.x, self.edges)
        return result

    def through(self, wide: torch.dtype, *, saving: bool) -> Tensor:
        """The layers by ordinary differentiation, with sums of a type; `saving` keeps inputs of layers alone."""
        replay = Replay(self.x, wide=wide)
        groups = list(self.x.to(replay.wide).tensor_split(self.groups, -1))
        for layer in self.layers * (self.depth // len(self.layers)):
            pieces = [[Piece(lambda y, f=f: f(y, self.edges)) for f in layer]]  # type: ignore[misc]

            def run(*given: Tensor, pieces: Any = pieces) -> tuple[Tensor, ...]:
                return tuple(couple(pieces, list(given), replay))

            groups = list(checkpoint(run, *groups, use_reentrant=False) if saving else run(*groups))  # type: ignore[arg-type]
        return torch.cat(groups, -1).to(self.x.dtype)

    def unrolled(self, iterations: int) -> Tensor:
        """The iteration of an equilibrium by ordinary differentiation."""
        f = self.net.f
        z = torch.zeros_like(self.x)
        for _ in range(iterations):
            z = checkpoint(f, z, self.x, self.edges, use_reentrant=False)  # type: ignore[arg-type,assignment]
        return z

    def step(self) -> None:
        self.net.zero_grad(set_to_none=True)
        self.forward().square().mean().backward()

    def gradient(self, forward: Call) -> Tensor:
        """All gradients of the weights, of which the loss is the same, as one vector of float64."""
        self.net.zero_grad(set_to_none=True)
        forward().square().mean().backward()
        return torch.cat([p.grad.flatten().double() for p in self.net.parameters() if p.grad is not None])

    def errors(self, float64_to: int) -> dict[str, float]:
        """How far the gradient is from others; see the module."""
        mine = self.gradient(self.forward)
        if self.mode == "deq":
            long = self.gradient(lambda: self.unrolled(3 * self.net.iterations))  # type: ignore[operator]
            return {"gradient_error": _error(mine, long)}
        found = {}
        single = mine
        if self.mode != "plain":
            single = self.gradient(lambda: self.through(torch.float32, saving=True))
            found["gradient_error"] = found["gradient_error_float32"] = _error(mine, single)
        if self.mode in ("reversible", "tied"):
            found["gradient_error"] = _error(mine, self.gradient(lambda: self.through(torch.float64, saving=True)))
        if self.depth <= float64_to:
            twin = copy.deepcopy(self)
            twin.net.double()
            twin.x = twin.x.double()
            exact = twin.gradient(lambda: twin.through(torch.float64, saving=True))
            found["gradient_error_float64"] = _error(mine, exact)
        return found


def _error(mine: Tensor, other: Tensor) -> float:
    return float((mine - other).norm() / other.norm())


# ---- measuring ---------------------------------------------------------------------------------------------


def allocated(call: Callable[[], Any], device: str) -> tuple[int, int]:
    """Bytes that a call leaves allocated while its result lives, and the most there were beyond those before it."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = call()
        torch.cuda.synchronize()
        held, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        del kept
        return held - before, peak - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept = call()
    events = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    del kept
    running = np.cumsum([size for _, size in sorted(changes, key=lambda change: change[0])])
    return int(running[-1]), int(running.max())


def seconds(call: Callable[[], Any], repeats: int, device: str) -> tuple[float, float]:
    """The least time of processors, and by the clock, of some calls."""
    found = []
    for _ in range(repeats):
        processor, clock = time.process_time(), time.perf_counter()
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        found.append((time.process_time() - processor, time.perf_counter() - clock))
    return min(p for p, _ in found), min(c for _, c in found)


def row(asked: argparse.Namespace, mode: str, depth: int) -> dict[str, Any]:
    """The figures of a mode and depth, or why there are none."""
    told: dict[str, Any] = {"mode": mode, "layers": depth}
    expected = expected_bytes(asked, mode, depth)
    if expected > asked.most_gb * 1e9:
        return told | {"skipped": f"would hold about {expected / 1e9:.1f} GB"}
    trial = Trial(asked, mode, depth)
    trial.step()
    trial.net.zero_grad(set_to_none=True)
    held, _ = allocated(trial.forward, asked.device)
    _, peak = allocated(trial.step, asked.device)
    processor, clock = seconds(trial.step, asked.repeats if depth <= 112 else 1, asked.device)
    told |= {
        "held_bytes": held,
        "peak_bytes": peak,
        "gradient_bytes": sum(p.numel() * p.element_size() for p in trial.net.parameters()),
        "step_cpu_s": round(processor, 4),
        "step_s": round(clock, 4),
    }
    if mode == "deq":
        told |= {"iterations": trial.net.iterations, "residual": float(f"{trial.net.residual:.3g}")}
    return told | {name: float(f"{v:.3g}") for name, v in trial.errors(asked.float64_to).items()}


def expected_bytes(asked: argparse.Namespace, mode: str, depth: int) -> float:
    """What the forward pass will hold, from that of two and of four layers."""
    if mode == "deq" or depth <= 4:
        return 0.0
    two, four = (allocated(Trial(asked, mode, few).forward, asked.device)[0] for few in (2, 4))
    return four + (depth - 4) * (four - two) / 2


def in_a_process(arguments: Sequence[str], mode: str, depth: int) -> dict[str, Any]:
    """A row, measured by a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", *arguments, "--one", mode, str(depth)]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        return {"mode": mode, "layers": depth, "failed": (ended.stderr.strip().splitlines() or ["?"])[-1]}
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def show(told: dict[str, Any]) -> None:
    """A row for people."""
    what = f"{told['mode']:>10} {told['layers']:>5} layers"
    if "held_bytes" not in told:
        print(what, told.get("skipped") or f"failed: {told['failed']}", flush=True)
        return
    held, peak, gradient = (told[f"{name}_bytes"] / 1e6 for name in ("held", "peak", "gradient"))
    errors = ", ".join(f"{k.removeprefix('gradient_')} {v:.1e}" for k, v in told.items() if "gradient_error" in k)
    print(f"{what} held {held:8.2f} MB, peak {peak:8.1f} ({gradient:.1f} gradients), {told['step_cpu_s']:.2f} CPU s")
    print(f"{'':>24}{errors}", flush=True)


# ---- training ----------------------------------------------------------------------------------------------


class Deep(nn.Module):
    """RevGNN for features of nodes: a linear map, reversible layers, norm, ReLU, dropout, and a linear map."""

    def __init__(self, inputs: int, channels: int, depth: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.first = nn.Linear(inputs, channels)
        self.layers = Reversible([[Block("gen", channels // 2) for _ in range(2)] for _ in range(depth)])
        self.norm, self.last = nn.LayerNorm(channels), nn.Linear(channels, classes)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = self.first(x)
        mask = F.dropout(torch.ones_like(x), self.dropout, self.training)
        y: Tensor = self.layers(x, edges, PerGroup.split(mask, 2))
        result: Tensor = self.last(self.norm(y).relu() * mask)
        return result


def cora(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features (rows sum to 1), edges, labels, and which nodes to learn from, of the graph as published."""
    from scipy.sparse import csr_array

    with np.load(folder / "planetoid" / "cora.npz") as file:
        x = csr_array((file["x_data"], file["x_indices"], file["x_indptr"]), shape=tuple(file["x_shape"])).toarray()
        edges, labels, train = file["edge_index"], file["y"], file["train_mask"]
    x = torch.from_numpy(x.astype(np.float32))
    return (
        x / x.sum(1, keepdim=True).clamp(min=1),
        torch.from_numpy(edges).long(),
        torch.from_numpy(labels).long(),
        torch.from_numpy(train),
    )


def train(asked: argparse.Namespace) -> dict[str, Any]:
    """Steps of Adam at 1e-3 with the gradient's norm at most 1, over the whole graph."""
    depth, channels, dropout = NETWORKS[asked.train]
    torch.manual_seed(0)
    x, edges, labels, part = (t.to(asked.device) for t in cora(asked.data))
    net = Deep(x.shape[1], channels, depth, int(labels.max()) + 1, dropout).to(asked.device)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    losses: list[float] = []

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(net(x, edges)[part], labels[part])
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        print(f"step {len(losses)}: loss {losses[-1]:.4f}", flush=True)

    processor, _ = seconds(step, max(1, asked.steps - 1), asked.device)
    figures = {
        "layers": depth,
        "channels": channels,
        "params": sum(p.numel() for p in net.parameters()),
        "step_cpu_s": round(processor, 2),
        "process_peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    if asked.steps > 1:
        figures["peak_bytes"] = allocated(step, asked.device)[1]
    return figures | {"losses": [round(loss, 4) for loss in losses]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conv", default="gen", choices=tuple(CONVOLUTIONS))
    parser.add_argument("--layers", nargs="+", type=int, default=[7, 28, 112])
    parser.add_argument("--channels", type=int, default=80)
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--nodes", type=int, default=2708)
    parser.add_argument("--edges", type=int, default=10832)
    parser.add_argument("--modes", default=",".join(MODES), help="with commas between them")
    parser.add_argument("--convolutions", default="own", choices=("own", "pyg"), help="of gen: the softmax inside")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--most-gb", type=float, default=4.0, help="what would hold more is left out")
    parser.add_argument("--float64-to", type=int, default=112, help="layers up to which float64 is compared with")
    parser.add_argument("--repeats", type=int, default=3, help="steps that are timed, up to 112 layers; one beyond")
    parser.add_argument("--train", choices=tuple(NETWORKS), help="train RevGNN instead")
    parser.add_argument("--steps", type=int, default=20, help="of training")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[1] / ".." / "shared" / "data")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.one:
        print(json.dumps(row(asked, asked.one[0], int(asked.one[1]))))
        return
    if asked.train:
        publish_row("memory_training", {"network": asked.train, "device": asked.device}, train(asked))
        return
    modes = [mode for mode in asked.modes.split(",") if mode]
    if unknown := sorted(set(modes) - set(MODES)):
        parser.error(f"unknown modes {unknown}; there are {', '.join(MODES)}")
    publish("memory", _settings(asked) | {"rows": rows(modes, asked.layers)})


def rows(modes: Iterable[str], depths: Iterable[int]) -> list[dict[str, Any]]:
    """All rows, shown as they come."""
    found = []
    for depth in depths:
        for mode in modes:
            found.append(in_a_process(sys.argv[1:], mode, depth))
            show(found[-1])
    return found


def _settings(asked: argparse.Namespace) -> dict[str, Any]:
    names = ("conv", "channels", "groups", "nodes", "edges", "convolutions", "device")
    return {name: getattr(asked, name) for name in names}


if __name__ == "__main__":
    main()
