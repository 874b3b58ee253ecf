"""Operator norms against the singular values of the convolutions written out as matrices."""

import itertools

import numpy as np
import pytest
import torch

from nas_engine.compress.criteria.lean_norms import by_input, by_output, operator_norms
from search_spaces.errors import ConfigError


def dense(kernel: np.ndarray, stride: int, size: int, dilation: int = 1) -> np.ndarray:
    """The matrix of a periodic two-dimensional convolution of `size` x `size` pixels."""
    out = size // stride
    matrix = np.zeros((out * out, size * size))
    for y, x in itertools.product(range(out), repeat=2):
        for (i, j), value in np.ndenumerate(kernel):
            row, column = (y * stride + i * dilation) % size, (x * stride + j * dilation) % size
            matrix[y * out + x, row * size + column] += value
    return matrix


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 3), (5, 4), (7, 7)])
def test_equals_the_largest_singular_value(stride: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng([stride, *shape])
    kernels = rng.standard_normal((4, *shape))
    expected = [np.linalg.svd(dense(k, stride, 12), compute_uv=False)[0] for k in kernels]
    np.testing.assert_allclose(operator_norms(kernels, stride, grid=12), expected, rtol=1e-12)


def test_equals_the_polyphase_formula_with_different_strides() -> None:
    kernels, strides, grid = np.random.default_rng(0).standard_normal((3, 2, 5, 3)), (2, 3), 18
    gains = sum(
        np.abs(np.fft.fft2(kernels[..., i :: strides[0], j :: strides[1]], (grid // 2, grid // 3))) ** 2
        for i, j in itertools.product(range(2), range(3))
    )
    np.testing.assert_allclose(operator_norms(kernels, strides, grid), np.sqrt(gains.max((-1, -2))), rtol=1e-12)


def test_dilation_does_not_change_the_norm_where_it_and_the_grid_have_no_common_factor() -> None:
    kernel = np.random.default_rng(1).standard_normal((3, 3))
    dilated = np.linalg.svd(dense(kernel, 1, 13, dilation=3), compute_uv=False)[0]
    np.testing.assert_allclose(operator_norms(kernel, 1, grid=13), dilated, rtol=1e-12)


def test_one_axis_and_a_finer_grid_that_holds_the_coarse_one() -> None:
    kernels = np.random.default_rng(2).standard_normal((6, 5))
    gains = np.abs(np.fft.fft(kernels, 16)).max(-1)
    np.testing.assert_allclose(operator_norms(kernels, (1,), grid=16), gains, rtol=1e-12)
    assert (operator_norms(kernels, (1,), grid=32) >= gains - 1e-12).all()


def test_an_averaging_window_with_its_own_stride_halves() -> None:
    assert operator_norms(np.full((2, 2), 0.25), 2) == pytest.approx(0.5)


def test_a_kernel_of_zeros_has_no_norm() -> None:
    assert operator_norms(np.zeros((2, 3, 3))).tolist() == [0.0, 0.0]


def test_a_transposed_convolution_has_the_norm_of_its_adjoint() -> None:
    kernel = np.random.default_rng(3).standard_normal((4, 4))
    matrix = dense(kernel, 2, 12)
    assert operator_norms(kernel, 2, grid=12) == pytest.approx(np.linalg.svd(matrix.T, compute_uv=False)[0], rel=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_kernels_of_transposed_convolutions_are_found_by_output_and_input(groups: int) -> None:
    module = torch.nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False)
    kernels = by_output(module.weight.detach().numpy(), groups)
    assert kernels.shape == (6, 4 // groups, 3, 3)
    for channel in range(4):  # an impulse in one channel gives the kernels from it
        x = torch.zeros(1, 4, 1, 1)
        x[0, channel] = 1.0
        out = module(x)[0].detach().numpy()
        part = 6 // groups
        group, within = divmod(channel, 4 // groups)
        mine = slice(group * part, (group + 1) * part)
        np.testing.assert_allclose(out[mine], kernels[mine, within], rtol=1e-6)
    np.testing.assert_array_equal(by_input(kernels, groups), module.weight.detach().numpy())


@pytest.mark.parametrize(("stride", "grid"), [(0, 8), (1, 0), ((1, 1, 1), 8)])
def test_says_what_is_allowed(stride: int, grid: int) -> None:
    with pytest.raises(ConfigError, match="positive stride"):
        operator_norms(np.ones((3, 3)), stride, grid)
