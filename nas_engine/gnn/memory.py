"""The memory that one step of training takes, from what the allocator hands out and takes back while it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import Optimizer
from ..data.containers import Batches
from ..train.loop import Program, Steps
from ..train.parallel import Alone

_FORWARD = "nas_engine::forward"  # marks the end of a forward pass among the events


@dataclass(frozen=True)
class StepMemory:
    """What a step takes beside its data, in bytes, and how long it is.

    Attributes:
        kept: weights, buffers and the optimiser's state, which stay from step to step.
        held: what the gradient needs, when the forward pass has ended.
        peak: the most at any moment, kept ones included.
        seconds: of the step, in this process alone.
    """

    kept: int
    held: int
    peak: int
    seconds: float


def measured_step(program: Program, settings: Optimizer, batch: tuple[Any, Tensor], device: str) -> StepMemory:
    """Train a program for two steps and measure the second, when the optimiser's state is there.

    On CPUs the events of torch's own allocator are recorded, on GPUs its statistics are read. The program's weights
    are changed.
    """
    steps = Steps(program, settings, Alone(), device)
    walk = Batches(1, lambda: iter([batch]))
    steps.epoch(walk, 0, 1, 0)
    steps.optimizer.zero_grad(set_to_none=True)
    kept = _bytes([*program.module.parameters(), *program.module.buffers(), *_tensors(steps.optimizer.state)])
    recorder = _OnGpu(device) if torch.device(device).type == "cuda" else _OnCpu()
    handle = program.module.register_forward_hook(lambda *_: recorder.mark())
    try:
        with recorder.recording():
            started = time.perf_counter()
            steps.epoch(walk, 0, 1, 0)
            seconds = time.perf_counter() - started
    finally:
        handle.remove()
    steps.optimizer.zero_grad(set_to_none=True)
    return StepMemory(kept, recorder.held, kept + recorder.peak, seconds)


class _OnCpu:
    """Events of the allocator, without those of operators, of which deep networks have millions."""

    held = peak = 0

    def mark(self) -> None:
        with torch.autograd.profiler.record_function(_FORWARD):
            pass

    @contextmanager
    def recording(self) -> Iterator[None]:
        from torch._C._profiler import ProfilerActivity, ProfilerConfig, ProfilerState, RecordScope, _ExperimentalConfig

        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it writes to standard error otherwise
        # the public profiler records every operator besides: about 4 KB of memory an event
        api: Any = torch._C._autograd
        cpu = {ProfilerActivity.CPU}
        config = ProfilerConfig(ProfilerState.KINETO, False, True, False, False, False, _ExperimentalConfig())
        api._prepare_profiler(config, cpu)
        api._enable_profiler(config, cpu, {RecordScope.USER_SCOPE})
        try:
            yield
        finally:
            self._read(api._disable_profiler().events())

    def _read(self, events: Iterable[Any]) -> None:
        found = [(e.start_ns(), e.name(), e.nbytes()) for e in events if e.name() in ("[memory]", _FORWARD)]
        total = 0
        for _, name, size in sorted(found, key=lambda event: event[0]):
            if name == _FORWARD:
                self.held = max(self.held, total)
            else:
                total += size
                self.peak = max(self.peak, total)


class _OnGpu:
    """Statistics of CUDA's caching allocator."""

    held = peak = 0

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)

    def mark(self) -> None:
        self.held = max(self.held, torch.cuda.memory_allocated(self._device) - self._before)

    @contextmanager
    def recording(self) -> Iterator[None]:
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)
        yield
        torch.cuda.synchronize(self._device)
        self.peak = torch.cuda.max_memory_allocated(self._device) - self._before


def _tensors(state: Any) -> Iterator[Tensor]:
    """All tensors in nested mappings."""
    for value in state.values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            yield from _tensors(value)


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of the storages behind tensors, each counted once."""
    return sum({s.data_ptr(): s.nbytes() for t in tensors if (s := t.untyped_storage()).nbytes()}.values())
