"""Whether a step of training fits into the memory that is free.

It is counted before it is tried: a system that runs out of memory ends processes without a word.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from predictors.cost import make_cost_model
from predictors.cost.training import Walk
from search_spaces import Graph
from search_spaces.errors import ConfigError

from ..show import count
from .model import Model

_CGROUP = Path("/sys/fs/cgroup")


def require_room(model: Model, graph: Graph, memory: str, device: str) -> None:
    """Refuse a step that does not fit.

    Args:
        graph: of the largest batch.
        memory: how stacks keep what their gradient needs.

    Raises:
        ConfigError: it needs more than is free, with what to change.
    """
    needed, free = least(model, graph, memory), free_bytes(device)
    if free is None or needed <= free:
        return
    saving = {
        "plain": "memory checkpoint, model.connection reversible, ",
        "checkpoint": "model.connection reversible, ",
    }
    if model.connection == "reversible":
        saving = dict.fromkeys(saving, "memory reversible, ")
    raise ConfigError(
        f"a step with memory {memory} needs {count(needed, 'B')} at least, but {count(free, 'B')} are free; take "
        f"{saving.get(memory, '')}more data.parts or a smaller model.width"
    )


def least(model: Model, graph: Graph, memory: str) -> float:
    """Bytes that a step takes at least: what is kept for its gradient, and with it what can be counted besides."""
    if memory == "checkpoint":
        nodes = graph.inputs[0].shape[0]
        return 4.0 * model.depth * nodes * model.width
    counted = make_cost_model("train_memory_bytes").cost(graph)
    if memory == "plain" and model.connection == "reversible":
        return max(counted, Walk(graph.simplify(), 1, loss=True).train())
    return counted


def free_bytes(device: str) -> float | None:
    """Memory that is free on a device; None where that is not known."""
    if device == "cuda":
        import torch

        return float(torch.cuda.mem_get_info()[0])
    found = [size for size in (_of_machine(), _of_group()) if size is not None]
    return min(found, default=None)


def _of_machine() -> float | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    return None


def _of_group() -> float | None:
    """What a container may still take; files that its memory holds copies of are given back at need."""
    with suppress(OSError, ValueError):
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((_CGROUP / "memory.current").read_text())
        files = [line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines()]
        cached = sum(int(size) for name, size in files if name == "file")
        return float(max(0, int(limit) - used + cached))
    return None
