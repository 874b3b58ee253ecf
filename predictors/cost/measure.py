"""Wall-clock time of a callable and of a network, as it would run in use.

Calls are timed in loops long enough for the clock, the loops of several candidates take turns so that a busy moment of
the machine hits all of them alike, and the median with its interquartile range is reported.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.errors import ConfigError
from search_spaces.graph import Graph

from .device import DeviceProfile

if TYPE_CHECKING:
    import torch

Call = Callable[[], object]
_LOOP_NS = 200_000  # long for the timer, short for the scheduler: a process that is put aside spoils few loops
_QUEUED_LOOP_NS = 2_000_000  # where calls queue up, waiting for the last one is part of each loop
_FEWEST, _ENOUGH = 3, 9  # loops of each callable: at least, and where that takes no more than thrice the time granted


@dataclass(frozen=True)
class Measurement:
    """Time of one call.

    Attributes:
        median_ms: median over the loops of their mean time of a call.
        iqr_ms: interquartile range over the loops.
        low_ms: tenth percentile: what the call takes when nothing else disturbs it, as disturbance only adds.
        repeats: loops timed.
    """

    median_ms: float
    iqr_ms: float
    low_ms: float
    repeats: int

    @property
    def spread(self) -> float:
        """Interquartile range as a share of the median."""
        return self.iqr_ms / self.median_ms if self.median_ms > 0 else 0.0


def measure_call(
    call: Call,
    *,
    seconds: float = 1.0,
    synchronize: Call | None = None,
    timer: Callable[[], int] = time.perf_counter_ns,
) -> Measurement:
    """Time a callable for about `seconds`, warm-up included; see `measure_calls`."""
    return measure_calls([call], seconds=seconds, synchronize=synchronize, timer=timer)[0]


def measure_calls(
    calls: Sequence[Call],
    *,
    seconds: float = 1.0,
    synchronize: Call | None = None,
    timer: Callable[[], int] = time.perf_counter_ns,
) -> list[Measurement]:
    """Time several callables in turns, each of which begins with a call that is not timed: the caches are its own then.

    Args:
        calls: what to time.
        seconds: time for each of them, warm-up included; at least three loops are timed whatever it is,
            and nine where that takes at most thrice as long.
        synchronize: called before each reading of the timer, where calls return before their work is done.
        timer: clock in nanoseconds.
    """
    wait = synchronize or (lambda: None)
    with _no_collection():
        loop_ns = _LOOP_NS if synchronize is None else _QUEUED_LOOP_NS
        loops = [_warm_up(call, seconds, wait, timer, loop_ns) for call in calls]
        samples: list[list[float]] = [[] for _ in calls]
        spent = [0.15 * seconds * 1e9] * len(calls)  # the warm-up's share
        waiting = list(range(len(calls)))
        while waiting:
            for i in waiting:
                if len(calls) > 1:  # the one before has had the caches
                    calls[i]()
                took = _loop(calls[i], loops[i], wait, timer)
                samples[i].append(took / loops[i] / 1e6)
                spent[i] += took
            waiting = [i for i in waiting if _goes_on(len(samples[i]), spent[i] / 1e9, seconds)]
    return [_summary(values) for values in samples]


def _goes_on(loops: int, spent: float, seconds: float) -> bool:
    return loops < _FEWEST or spent < seconds or (loops < _ENOUGH and spent < 3 * seconds)


def _loop(call: Call, times: int, wait: Call, timer: Callable[[], int]) -> int:
    wait()
    start = timer()
    for _ in range(times):
        call()
    wait()
    return timer() - start


def _warm_up(call: Call, seconds: float, wait: Call, timer: Callable[[], int], loop_ns: int) -> int:
    """Run for 15 % of the time (caches, lazy set-up, clock rate), at least twice; the number of calls a loop takes."""
    budget = 0.15 * seconds * 1e9
    spent, fastest, times = 0.0, float("inf"), 1
    while True:
        took = _loop(call, times, wait, timer)
        first, spent, fastest = spent == 0, spent + took, min(fastest, took / times)
        if spent >= budget and not first:
            break
        times = max(1, min(2 * times, int((budget - spent) / max(fastest, 1.0))))
    return max(1, round(loop_ns / max(fastest, 1.0)))


def _summary(values: list[float]) -> Measurement:
    low, quarter, median, three_quarters = np.percentile(values, [10, 25, 50, 75]).tolist()
    return Measurement(median, three_quarters - quarter, low, len(values))


@contextmanager
def _no_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# ---- networks --------------------------------------------------------------------------------------------


def measure_network(graph: Graph, profile: DeviceProfile, *, seconds: float = 1.0) -> Measurement:
    """Latency of one network with random weights in evaluation, for the profile's batch.

    Raises:
        ConfigError: the profile is of another device.
    """
    return measure_networks([graph], profile, seconds=seconds)[0]


def measure_networks(graphs: Sequence[Graph], profile: DeviceProfile, *, seconds: float = 1.0) -> list[Measurement]:
    """Latencies of several networks, timed in turns, `seconds` each; making them comes on top."""
    return NetworkTimer(profile)(graphs, seconds)


class NetworkTimer:
    """Times batches of graphs on one device.

    Args:
        profile: the device.
        kept: graphs that come in every batch; they are made ready once.

    Raises:
        ConfigError: the profile is of another device.
    """

    def __init__(self, profile: DeviceProfile, kept: Sequence[Graph] = ()) -> None:
        profile.require_here()
        self.profile, self._kept = profile, tuple(kept)
        self._ready: dict[Graph, Call] = {}

    def __call__(self, graphs: Sequence[Graph], seconds: float) -> list[Measurement]:
        """Latencies of some graphs, timed in turns, `seconds` each."""
        with running(self.profile):
            kept = () if self._ready else self._kept
            new = [*kept, *(graph for graph in graphs if graph not in self._kept)]
            made = dict(zip(new, prepare(new, self.profile), strict=True))
            self._ready |= {graph: made[graph] for graph in kept}
            calls = [made.get(graph) or self._ready[graph] for graph in graphs]
            return measure_calls(calls, seconds=seconds, synchronize=_synchronize(self.profile))


@contextmanager
def running(profile: DeviceProfile) -> Iterator[None]:
    """torch set up as the profile says (its threads, no autograd), and as it was before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(profile.threads)
    try:
        with torch.inference_mode() if profile.runtime == "torch" else nullcontext():
            yield
    finally:
        torch.set_num_threads(before)


def prepare(graphs: Sequence[Graph], profile: DeviceProfile) -> list[Call]:
    """A callable for each graph that runs it once on a fixed random batch."""
    if not graphs:
        return []
    import torch

    with torch.random.fork_rng(devices=[]):  # weights are random, but the caller's stream is not used up
        torch.manual_seed(0)
        return _prepare_onnx(graphs, profile) if profile.runtime == "onnxruntime" else _prepare_torch(graphs, profile)


def _prepare_torch(graphs: Sequence[Graph], profile: DeviceProfile) -> list[Call]:
    from functools import partial

    from search_spaces.inputs import random_inputs
    from search_spaces.network import Network

    calls: list[Call] = []
    for graph in graphs:
        images = [_laid_out(x.to(profile.device), profile) for x in random_inputs(graph, profile.batch)]
        network = Network(graph).eval().to(profile.device)
        if profile.channels_last:
            import torch

            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        calls.append(partial(network, *images))
    return calls


def _laid_out(x: torch.Tensor, profile: DeviceProfile) -> torch.Tensor:
    import torch

    image = x.dim() == 4 and x.is_floating_point()
    return x.contiguous(memory_format=torch.channels_last) if profile.channels_last and image else x


def _prepare_onnx(graphs: Sequence[Graph], profile: DeviceProfile) -> list[Call]:
    """Sessions of ONNX Runtime; the networks are exported side by side in one model, which is five times faster."""
    try:
        import onnx
        import onnxruntime as ort
    except ImportError as e:
        raise ConfigError(f"runtime 'onnxruntime' needs {e.name!r}; pip install onnx onnxscript onnxruntime") from None

    from search_spaces.inputs import random_inputs

    images = [random_inputs(graph, profile.batch) for graph in graphs]
    model, inputs, outputs = _export_together(graphs, images)
    extractor = onnx.utils.Extractor(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = profile.threads, 1
    options.log_severity_level = 3
    calls: list[Call] = []
    for tensors, names, results in zip(images, inputs, outputs, strict=True):
        part = extractor.extract_model(names, results).SerializeToString()
        session = ort.InferenceSession(part, options, providers=["CPUExecutionProvider"])
        feed = {name: x.numpy() for name, x in zip(names, tensors, strict=True)}
        calls.append(_session_call(session, feed))
    return calls


def _session_call(session: Any, feed: dict[str, Any]) -> Call:
    return lambda: session.run(None, feed)


def _export_together(
    graphs: Sequence[Graph], images: Sequence[Sequence[torch.Tensor]]
) -> tuple[Any, list[list[str]], list[list[str]]]:
    """One ONNX model that holds all graphs side by side; the names of each one's inputs and outputs."""
    import torch

    from search_spaces.network import Network

    class SideBySide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.networks = torch.nn.ModuleList(Network(graph) for graph in graphs)

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            feed, results = iter(tensors), []
            for network, graph in zip(self.networks, graphs, strict=True):
                made = network(*[next(feed) for _ in graph.inputs])
                results += [made] if isinstance(made, torch.Tensor) else list(made)
            return tuple(results)

    inputs = [[f"x{i}_{j}" for j in range(len(graph.inputs))] for i, graph in enumerate(graphs)]
    outputs = [[f"y{i}_{j}" for j in range(len(graph.outputs))] for i, graph in enumerate(graphs)]
    with _quiet():
        program = torch.onnx.export(
            SideBySide().eval(),
            tuple(x for tensors in images for x in tensors),
            input_names=[name for names in inputs for name in names],
            output_names=[name for names in outputs for name in names],
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ConfigError("torch.onnx.export gave no program; use runtime 'torch'")
    return program.model_proto, inputs, outputs


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's warnings and log lines are about its own passes; they tell the user nothing."""
    import logging
    import warnings

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _synchronize(profile: DeviceProfile) -> Call | None:
    if profile.device != "cuda":
        return None
    import torch

    return torch.cuda.synchronize
