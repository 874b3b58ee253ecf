"""A network and a mini-batch under examination, with the passes that several scores share.

Scores run the network on tensors of their own in place of its parameters and buffers (`torch.func.functional_call`),
so that nothing they do stays in it. A pass is computed once, and its time counted for every score that reads it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from search_spaces.errors import DataError

from .codes import Codes, counting

T = TypeVar("T")


class Probe:
    """What scores read. Batch normalisation normalises by the batch, as in training; all else is as in evaluation.

    Shapes: N images, K classes.

    Args:
        network: any module from images to logits `(N, K)`.
        images: float `(N, ...)`, N >= 2.
        labels: int64 `(N,)`, 0 to K - 1.

    Raises:
        DataError: images or labels that do not fit together, or too few.
    """

    def __init__(self, network: nn.Module, images: Tensor, labels: Tensor) -> None:
        _check(images, labels)
        self.network = network
        own = next(iter([*network.parameters(), *network.buffers()]), images)
        self.images = _packed(images.to(own.device, own.dtype if own.is_floating_point() else torch.float32))
        self.labels = labels.to(own.device, torch.int64)
        self.parameters = {name: _packed(p.detach()) for name, p in network.named_parameters()}
        self.weights = tuple(name for name, p in self.parameters.items() if p.ndim > 1 and p.is_floating_point())
        self.reused = 0.0
        self._passes: dict[str, tuple[Any, float]] = {}

    # ---- running the network ---------------------------------------------------------------------------------

    def run(
        self, images: Tensor, parameters: Mapping[str, Tensor], change: Callable[[Tensor], Tensor] = torch.clone
    ) -> Tensor:
        """Output for images, with these tensors as parameters and copies of the buffers, changed by `change`.

        Raises:
            DataError: the output is not one tensor.
        """
        buffers = {name: change(b) for name, b in self.network.named_buffers()}
        with _as_when_scored(self.network):
            output = functional_call(self.network, {**parameters, **buffers}, (images,))
        if not isinstance(output, Tensor):
            raise DataError(f"the network returned {type(output).__name__}; zero-cost scores need one tensor of logits")
        return output

    def gradients(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Gradients of the cross-entropy by `weights`, zeros where the loss does not depend on a tensor."""
        return self._gradients(*self._logits(images), labels)

    def _logits(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        leaves = {name: p.detach().requires_grad_(name in self.weights) for name, p in self.parameters.items()}
        return leaves, self.run(images, leaves)

    def _gradients(self, leaves: dict[str, Tensor], logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if logits.ndim != 2 or int(labels.max()) >= logits.shape[1]:
            raise DataError(
                f"logits of shape {tuple(logits.shape)} for labels up to {int(labels.max())}; "
                "gradients need one logit for each image and class"
            )
        loss = F.cross_entropy(logits, labels)
        return gradients(loss, {name: leaves[name] for name in self.weights})

    # ---- passes that scores share ----------------------------------------------------------------------------

    def weight_gradients(self) -> dict[str, Tensor]:
        """Gradients of the cross-entropy over the whole batch by each of `weights`."""

        def compute() -> dict[str, Tensor]:
            _, leaves, logits = self._forward()
            return self._gradients(leaves, logits, self.labels)

        return self._once("gradients", compute)

    def input_gradients(self) -> Tensor:
        """Gradients of the sum of all logits by the images, `(N, D)`."""

        def compute() -> Tensor:
            images, _, logits = self._forward()
            return gradients(logits.sum(), {"images": images})["images"].flatten(1)

        return self._once("jacobian", compute)

    def agreement(self) -> Tensor:
        """How many units of all rectifiers agree on each pair of images, float64 `(N, N)`; see `Codes`.

        From a forward pass without a graph, which is quicker than the one of the gradients.
        """

        def compute() -> Tensor:
            codes = Codes(len(self.images))
            with torch.no_grad(), counting(codes, self.network):
                self.run(self.images, self.parameters)
            return codes.agreement().to(self.images.device)

        return self._once("codes", compute)

    def _forward(self) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Images and weights that take gradients, and logits with their graph."""

        def compute() -> tuple[Tensor, dict[str, Tensor], Tensor]:
            images = self.images.detach().requires_grad_()
            return images, *self._logits(images)

        return self._once("forward", compute)

    def _once(self, name: str, compute: Callable[[], T]) -> T:
        if name not in self._passes:
            reused, started = self.reused, time.process_time()
            value = compute()
            self._passes[name] = value, time.process_time() - started + self.reused - reused
            return value
        value, seconds = self._passes[name]
        self.reused += seconds
        return value


def gradients(value: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a number by leaves, zeros where it does not depend on one; the graph stays."""
    if not leaves or not value.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if g is None else g for (name, leaf), g in zip(leaves.items(), found, strict=True)
    }


@contextmanager
def _as_when_scored(network: nn.Module) -> Iterator[None]:
    """Evaluation mode but for normalisations by batch statistics; every module's own mode comes back."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        for module, _ in modes:
            module.training = isinstance(module, _NormBase)
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _packed(tensor: Tensor) -> Tensor:
    """Images and their kernels with channels last, in which convolutions of few channels run fastest on processors."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _check(images: Tensor, labels: Tensor) -> None:
    if images.ndim < 2 or not images.is_floating_point():
        raise DataError(f"images of shape {tuple(images.shape)}, {images.dtype}; give float tensors (N, channels, ...)")
    if len(images) < 2:
        raise DataError(f"zero-cost scores compare images; got {len(images)}, give 2 or more")
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise DataError(
            f"labels of shape {tuple(labels.shape)}, {labels.dtype}, for {len(images)} images; give one integer each"
        )
    if int(labels.min()) < 0:
        raise DataError(f"label {int(labels.min())} is negative; number the classes from 0")
