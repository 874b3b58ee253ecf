"""Operator norms of single kernels: how much one convolution from a channel to a channel can amplify an image.

On a periodic grid the Fourier transform makes a strided convolution a sum over the polyphase components of its kernel.
The squared gain at a frequency is the cosine series of the kernel's autocorrelation at lags that the stride divides, so
the norms of millions of kernels, whatever their stride, are one matrix product.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from search_spaces.errors import ConfigError
from search_spaces.operators.base import spread

if TYPE_CHECKING:
    from torch import nn

    from search_spaces import Network
    from search_spaces.graph import Node

CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"})
GRID = 16
_CHUNK = 1 << 13  # kernels at a time: their gains stay in the cache


def operator_norms(kernels: np.ndarray, stride: int | Sequence[int] = 1, grid: int = GRID) -> np.ndarray:
    """Spectral norms of periodic convolutions, `max_f sqrt(sum_p |FFT(w[p::s])(f)|^2)` over polyphase components p.

    Args:
        kernels: `(..., *k)`; the axes of `stride` are the kernel's, or the last two for a number.
        stride: of the convolution; a transposed one of this stride is the adjoint and has the same norm.
        grid: pixels of the image along each axis; there are `grid / stride` frequencies, or more where a kernel needs
            them. Dilation does not change the norm on a fine grid and is not asked for.

    Shapes:
        returns `(...)`, float64.

    >>> float(operator_norms(np.ones((2, 2)))), float(operator_norms(np.ones((2, 2)), stride=2))
    (4.0, 2.0)
    """
    strides = (stride, stride) if isinstance(stride, int) else tuple(stride)
    if kernels.ndim < len(strides) or min(strides, default=0) < 1 or grid < 1:
        raise ConfigError(
            f"norms of kernels {kernels.shape} with stride {stride} on a grid of {grid}; a positive stride for each of "
            "the kernel's axes and a positive grid are allowed"
        )
    size = kernels.shape[kernels.ndim - len(strides) :]
    lags = _lags(size, strides)
    table = _cosines(lags, strides, size, grid)
    flat = kernels.reshape(-1, *size)
    norms = np.empty(len(flat))
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK].astype(np.float64)
        norms[start : start + _CHUNK] = (_autocorrelation(part, lags) @ table).max(1)
    return np.sqrt(norms.clip(min=0)).reshape(kernels.shape[: kernels.ndim - len(strides)])


def _lags(size: Sequence[int], strides: Sequence[int]) -> list[tuple[int, ...]]:
    """Lags that the stride divides, one of each pair (lag, -lag); zero comes first."""
    axes = [range(-((k - 1) // s) * s, k, s) for k, s in zip(size, strides, strict=True)]
    return sorted(lag for lag in itertools.product(*axes) if lag >= (0,) * len(strides))


def _cosines(lags: Sequence[tuple[int, ...]], strides: Sequence[int], size: Sequence[int], grid: int) -> np.ndarray:
    """(lags, frequencies) what each lag's autocorrelation adds to the squared gain at each frequency."""
    counts = [max(-(-grid // s), -(-k // s)) for k, s in zip(size, strides, strict=True)]
    frequencies = np.stack(np.meshgrid(*(np.arange(n) / n for n in counts), indexing="ij")).reshape(len(counts), -1)
    steps = np.array(lags) // np.array(strides)
    table = np.cos(2 * np.pi * steps @ frequencies)
    table[1:] *= 2  # for the lag of the other sign
    _, different = np.unique(table.round(9), axis=1, return_index=True)  # the gain at -f is that at f
    return np.ascontiguousarray(table[:, different])


def _autocorrelation(kernels: np.ndarray, lags: Sequence[tuple[int, ...]]) -> np.ndarray:
    """`sum_x w(x) w(x + lag)` of kernels `(n, *k)`; `(n, lags)`."""
    found = np.empty((len(kernels), len(lags)))
    for i, lag in enumerate(lags):
        here = tuple(slice(max(0, -d), k - max(0, d)) for d, k in zip(lag, kernels.shape[1:], strict=True))
        there = tuple(slice(max(0, d), k - max(0, -d)) for d, k in zip(lag, kernels.shape[1:], strict=True))
        product = kernels[(slice(None), *here)] * kernels[(slice(None), *there)]
        found[:, i] = product.reshape(len(kernels), -1).sum(1)
    return found


# ---- kernels of networks -----------------------------------------------------------------------------------


def kernels_of(module: nn.Module, transposed: bool, groups: int) -> np.ndarray:
    """Kernels of a convolution from each input channel to each output channel, `(out, in / groups, *k)`."""
    weight: np.ndarray = module.weight.detach().cpu().numpy()  # type: ignore[operator,union-attr]
    return by_output(weight, groups) if transposed else weight


def by_output(weight: np.ndarray, groups: int) -> np.ndarray:
    """What a transposed convolution keeps as `(in, out / groups, ...)` as `(out, in / groups, ...)`."""
    channels, out, *rest = weight.shape
    parts = weight.reshape(groups, channels // groups, out, *rest)
    return parts.swapaxes(1, 2).reshape(groups * out, channels // groups, *rest)


def by_input(kernels: np.ndarray, groups: int) -> np.ndarray:
    """The inverse of `by_output`."""
    out, channels, *rest = kernels.shape
    parts = kernels.reshape(groups, out // groups, channels, *rest)
    return parts.swapaxes(1, 2).reshape(groups * channels, out // groups, *rest)


def node_kernels(network: Network, node: Node) -> np.ndarray:
    """Kernels `(out, in / groups, *k)` of a convolution of a network."""
    module = network.get_submodule(node.name)
    return kernels_of(module, node.operator.startswith("conv_transpose"), node.attributes["groups"])


def node_norms(network: Network, node: Node, grid: int = GRID) -> np.ndarray:
    """Operator norms `(out, in / groups)` of a convolution's kernels, without batch norms."""
    axes = len(node.shape) - 1
    return operator_norms(node_kernels(network, node), spread(node.attributes["stride"], axes), grid)


def batch_norm_scales(network: Network, node: Node) -> np.ndarray:
    """(channels,) what a batch norm multiplies each channel by in evaluation, `|weight| / sqrt(running_var + eps)`.

    Without running statistics its scale depends on the batch; the weight alone is given then.
    """
    module = network.get_submodule(node.name)
    scales = np.ones(node.shape[0])
    if module.weight is not None:
        scales = np.abs(module.weight.detach().double().cpu().numpy())  # type: ignore[operator,union-attr]
    if module.running_var is not None:
        scales = scales / np.sqrt(module.running_var.double().cpu().numpy() + module.eps)  # type: ignore[operator,union-attr]
    return scales
