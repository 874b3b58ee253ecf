"""One training by several processes: each takes its share of every batch, and the gradients are added up.

Gradients are exchanged after the backward passes rather than by `DistributedDataParallel`, since a step of a supernet
runs several members, each forward and backward, and touches other weights in every step. Ranks that no share is left
for, weights that one rank alone touched, and micro-batches are all right: what is added is the gradient of the mean
over the whole batch, and weights that nobody touched are left alone.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from search_spaces.errors import ConfigError, RunError

if TYPE_CHECKING:
    from datetime import timedelta

    from torch.distributed import Store

T = TypeVar("T")
BUCKET = 4 << 20  # gradients that are exchanged at a time; several exchanges are under way at once


class ConnectionLostError(RunError):
    """Another process of the training is gone."""


class Alone:
    """A training by this process alone; also the base of `Team`, whose parts of the work mean nothing to one.

    Attributes:
        rank: of this process, from 0; rank 0 reads and writes checkpoints.
        size: how many processes there are.
        local: how many of them are on this machine.
    """

    rank = 0
    size = 1
    local = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """This process's part of a batch: the same places in every batch, so that streams of a text stay together."""
        return inputs, targets

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradients by the sums over all processes; those that are None everywhere stay None."""

    def add(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        return value

    def settle(self, module: nn.Module) -> None:
        """Make buffers the same everywhere: the mean of numbers such as running statistics, else those of rank 0."""

    def given(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every process: plain values and tensors."""
        return make()

    def agree(self, answer: bool) -> bool:
        """What rank 0 answers."""
        return answer

    def same(self, what: str, text: str) -> None:
        """Make sure that all processes mean the same.

        Raises:
            ConfigError: `text` differs from that of rank 0.
        """


class Team(Alone):
    """The processes of `torch.distributed`'s group, which must have been joined; see `join`.

    Every method is to be called by all of them in the same order. Each raises `ConnectionLostError` where a process
    is gone.

    Attributes:
        called: whether rank 0 has said that there is work to do.
    """

    def __init__(self, local: int = 1) -> None:
        from torch import distributed

        self.local = local
        self.called = False
        self._exchange = distributed
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def share(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return inputs.tensor_split(self.size)[self.rank], targets.tensor_split(self.size)[self.rank]

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        every = [p for p in parameters if p.requires_grad]
        touched = torch.tensor([p.grad is not None for p in every], dtype=torch.uint8)
        self._reduce(touched, "MAX")
        used = [p for p, here in zip(every, touched.tolist(), strict=True) if here]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._add_all([p.grad for p in used if p.grad is not None])

    def add(self, value: Tensor) -> Tensor:
        self._add_all([value])
        return value

    def settle(self, module: nn.Module) -> None:
        numbers = [b for b in module.buffers() if b.is_floating_point()]
        self._add_all(numbers)
        for buffer in numbers:
            buffer.div_(self.size)
        for buffer in module.buffers():
            if not buffer.is_floating_point():
                self._send(buffer)

    def given(self, make: Callable[[], T]) -> T:
        made = make() if self.leads else None
        content = _packed(made) if self.leads else torch.empty(0, dtype=torch.uint8)
        length = torch.tensor([len(content)])
        self._send(length)
        if not self.leads:
            content = torch.empty(int(length), dtype=torch.uint8)
        self._send(content)
        return _unpacked(content) if made is None else made

    def agree(self, answer: bool) -> bool:
        flag = torch.tensor([answer], dtype=torch.uint8)
        self._send(flag)
        return bool(flag)

    def same(self, what: str, text: str) -> None:
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        least, most = torch.tensor([number]), torch.tensor([number])
        self._reduce(least, "MIN")
        self._reduce(most, "MAX")
        if int(least) != int(most):
            raise ConfigError(
                f"the processes of the training have different {what}; give all of them the same configuration, the "
                "same data and the same version of nas-engine"
            )

    def _add_all(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their sums, in buckets that are exchanged at the same time."""
        waiting: list[tuple[Any, Tensor, list[Tensor]]] = []
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.detach().flatten() for tensor in bucket])
            waiting.append((self._reduce(flat, "SUM", wait=False), flat, bucket))
        for work, flat, bucket in waiting:
            self._checked(work.wait)
            parts = flat.split([tensor.numel() for tensor in bucket])
            with torch.no_grad():
                for tensor, part in zip(bucket, parts, strict=True):
                    tensor.copy_(part.view(tensor.shape))

    def _reduce(self, tensor: Tensor, operation: str, *, wait: bool = True) -> Any:
        combine = getattr(self._exchange.ReduceOp, operation)
        return self._checked(lambda: self._exchange.all_reduce(tensor, combine, async_op=not wait))

    def _send(self, tensor: Tensor) -> None:
        self._checked(lambda: self._exchange.broadcast(tensor, 0))

    def _checked(self, exchange: Callable[[], T]) -> T:
        try:
            return exchange()
        except RuntimeError as e:  # gloo and NCCL have no kinds of their own for it
            raise ConnectionLostError(
                f"process {self.rank} of {self.size} lost the others ({str(e).splitlines()[0][:120]}); "
                "the same command goes on from the last epoch"
            ) from e


def join(device: str, timeout: timedelta, *, store: Store | None = None, rank: int = 0, size: int = 1) -> Team:
    """Join the group of processes: gloo between CPUs, NCCL between GPUs.

    Args:
        timeout: that a process which does not answer is waited for.
        store: where the processes of this machine find each other; None for what `torchrun` put into the environment,
            with rank and size.

    Raises:
        ConfigError: this build of torch cannot.
    """
    from torch import distributed

    if not distributed.is_available():
        raise ConfigError("this build of torch has no torch.distributed; set supernet.processes to 1")
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    if store is None:
        distributed.init_process_group(backend, timeout=timeout)
    else:
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    _joined.append(Team(local=size))
    return _joined[0]


def leave() -> None:
    """Leave the group of processes, if `join` joined one."""
    from torch import distributed

    if _joined:
        _joined.clear()
        distributed.destroy_process_group()


def joined() -> Team | None:
    """The team that this process is in, None where it is in none."""
    return _joined[0] if _joined else None


_joined: list[Team] = []  # at most one, as torch has one default group a process


def take_device(device: str, place: int, processes: int) -> None:
    """Let the process at a place among those of this machine have a GPU of its own, where they train on GPUs.

    Raises:
        ConfigError: there are fewer GPUs than processes.
    """
    if device != "cuda":
        return
    found = torch.cuda.device_count()
    if processes > found:
        raise ConfigError(f"{processes} processes need as many GPUs on a machine, but it has {found}; take fewer")
    torch.cuda.set_device(place)


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one kind and device, in groups of at most BUCKET numbers unless one alone has more."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for group in kinds.values():
        bucket: list[Tensor] = []
        held = 0
        for tensor in group:
            if bucket and held + tensor.numel() > BUCKET:
                yield bucket
                bucket, held = [], 0
            bucket.append(tensor)
            held += tensor.numel()
        yield bucket


def _packed(value: Any) -> Tensor:
    """Plain values and tensors as bytes, in the format of checkpoints."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _unpacked(content: Tensor) -> Any:
    return torch.load(io.BytesIO(content.numpy().tobytes()), map_location="cpu", weights_only=True)
