"""What functions must find again when they are run a second time, so that they give what they gave.

Random numbers follow from one seed and the function's place, so nothing is kept for each. Sums are formed in a wider
type than the functions compute in: then what is taken away again is what was added, to the last bit as a rule, and
inputs that are computed again do not drift, however many layers there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_STRIDE = 0x9E3779B97F4A7C15  # seeds of neighbours lie far apart
_SEEDS = 1 << 63
_GROUPS = 1 << 16  # more than a layer has


class Replay:
    """How a stack of functions is run, and run again.

    Args:
        like: the features that go in: their type is that of the functions.
        wide: type of the sums; float32 loses about 1e-7 of them a layer, float64 nothing that float32 functions see.
            None is float64 where the device has it, or the features' own type where that is wider.
        modules: run by the functions; their batch norms count a batch once.
    """

    def __init__(self, like: Tensor, *, wide: torch.dtype | None = None, modules: Iterable[nn.Module] = ()) -> None:
        self.dtype = like.dtype
        widest = torch.float32 if like.device.type == "mps" else torch.float64
        self.wide = torch.promote_types(like.dtype, wide or widest)
        self._device = like.device
        self._modules = tuple(modules)
        self._seed: int | None = None
        self._autocast: dict[str, tuple[bool, torch.dtype]] = {}

    @contextmanager
    def first(self) -> Iterator[None]:
        """The first run: seeds it, and notes what is switched on around it."""
        self._seed = int(torch.randint(_SEEDS - 1, ()))
        kinds = {"cpu", self._device.type}
        self._autocast = {k: (torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in kinds}
        with self._own_numbers():
            yield

    @contextmanager
    def again(self) -> Iterator[None]:
        """Another run: random numbers, autocast as in the first; batch norms use their batch, but do not count it."""
        with ExitStack() as stack:
            for kind, (enabled, dtype) in self._autocast.items():
                stack.enter_context(torch.autocast(kind, dtype, enabled))
            stack.enter_context(self._own_numbers())
            stack.enter_context(uncounted(self._modules))
            yield

    def begin(self, number: int, place: int) -> None:
        """To be called before each function, by the numbers of its layer and group."""
        if self._seed is None:
            return
        seed = (self._seed + _STRIDE * (number * _GROUPS + place + 1)) % _SEEDS
        for generator in self._generators():
            generator.manual_seed(seed)

    def _generators(self) -> list[torch.Generator]:
        found = [torch.default_generator]
        if self._device.type == "cuda":
            torch.cuda.init()
            index = self._device.index
            found.append(torch.cuda.default_generators[torch.cuda.current_device() if index is None else index])
        return found

    @contextmanager
    def _own_numbers(self) -> Iterator[None]:
        """Outside, the generators go on as if nothing had been drawn inside."""
        states: list[tuple[Any, Tensor]] = [(g, g.get_state()) for g in self._generators()]
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)


@contextmanager
def uncounted(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, batch norms in training normalise by their batch, but do not add it to their running statistics."""
    norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._NormBase) and m.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
