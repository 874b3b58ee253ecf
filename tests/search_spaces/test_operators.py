"""Every registered operator against torch; an operator without an example here fails the first test."""

from __future__ import annotations

import pytest
import torch

from nas_engine.testing import Example, OperatorContract, example
from search_spaces import Cost, GraphBuilder, GraphError, Network, Shape, operators
from search_spaces.operators.activation import ACTIVATIONS
from search_spaces.operators.arithmetic import COMBINATIONS, FUNCTIONS, SCALARS
from search_spaces.operators.blocks import make_divisible
from search_spaces.operators.movement import PAD_MODES
from search_spaces.operators.pooling import REDUCTIONS, RESIZE_MODES
from tests.search_spaces.families.test_resnet import EXAMPLES as RESIDUAL
from tests.search_spaces.families.test_shufflenet import EXAMPLES as SHUFFLED
from tests.search_spaces.test_graph_operators import EXAMPLES as OF_GRAPHS
from tests.search_spaces.test_multiplication_free import EXAMPLES as MULTIPLICATION_FREE
from tests.search_spaces.test_recurrent_operators import EXAMPLES as RECURRENT

IMAGE = (8, 9, 7)
LINE = (8, 15)
TOKENS = (5, 12)

WITHOUT_WEIGHTS: tuple[Example, ...] = (
    example("identity", IMAGE),
    example("zero", IMAGE),
    example("choice", IMAGE, label="width", option=16, level=0.5),
    example("choice", IMAGE, label="operator", option="conv"),
    *(example("dropout", IMAGE, p=0.3, kind=kind) for kind in ("element", "channel", "alpha")),
    example("drop_path", IMAGE, p=0.3),
    example("add", IMAGE, IMAGE),
    example("add", IMAGE, IMAGE, (8, 1, 1)),
    example("multiply", IMAGE, (8, 1, 1)),
    example("subtract", IMAGE, (1, 9, 1)),
    *(example("combine", IMAGE, (8, 1, 1), kind=kind) for kind in COMBINATIONS),
    *(example("scalar", IMAGE, kind=kind, value=1.5) for kind in SCALARS),
    Example("scalar", (IMAGE,), {"kind": "multiply", "value": 2, "whole": True}, whole={0: 9}),
    *(example("elementwise", IMAGE, kind=kind) for kind in FUNCTIONS),
    example("clamp", IMAGE, low=-0.5),
    example("clamp", IMAGE, low=-0.5, high=float("inf")),
    *(example("cast", IMAGE, dtype=dtype) for dtype in ("float16", "float64", "int32", "bool")),
    example("normalize", TOKENS, axis=-1),
    example("normalize", IMAGE, axis=0, p=float("inf")),
    example("concat", IMAGE, (3, 9, 7)),
    example("concat", (4, 6), (4, 5), axis=-1),
    example("flatten", IMAGE),
    *(example("activation", IMAGE, kind=kind) for kind in ACTIVATIONS),
    example("activation", IMAGE, kind="leaky_relu", slope=0.2),
    example("softmax", TOKENS),
    example("softmax", IMAGE, axis=0, log=True),
    example("max_pool1d", LINE, kernel_size=3, stride=2, padding=1),
    example("max_pool2d", IMAGE, kernel_size=2),
    example("max_pool2d", IMAGE, kernel_size=3, stride=2, padding=1, ceil_mode=True),
    example("max_pool2d", IMAGE, kernel_size=(3, 2), stride=1, dilation=(2, 1)),
    example("avg_pool1d", LINE, kernel_size=4, ceil_mode=True),
    example("avg_pool2d", IMAGE, kernel_size=2, stride=2, ceil_mode=True),
    example("avg_pool2d", IMAGE, kernel_size=3, stride=1, padding=1, count_include_pad=False),
    example("adaptive_avg_pool1d", LINE, output_size=4),
    example("adaptive_avg_pool2d", IMAGE, output_size=(3, 2)),
    example("adaptive_max_pool1d", LINE),
    example("adaptive_max_pool2d", IMAGE, output_size=3),
    example("resize", IMAGE, size=(12, 5)),
    *(example("resize", IMAGE, size=6, mode=mode) for mode in RESIZE_MODES),
    example("resize", IMAGE, size=5, mode="bicubic", align_corners=True),
    example("resize", IMAGE, size=5, antialias=True),
    example("mean", IMAGE),
    example("mean", IMAGE, axes=(0, -1), keepdim=True),
    *(example("reduce", IMAGE, kind=kind, axes=(0, -1), keepdim=kind == "sum") for kind in REDUCTIONS),
)

MOVES: tuple[Example, ...] = (
    example("reshape", IMAGE, size=(2, 4, 63)),
    example("permute", IMAGE, axes=(2, 0, 1)),
    example("slice", IMAGE, axis=1, start=2, stop=8, step=3),
    example("slice", IMAGE, axis=-1, start=0, stop=4),
    example("select", IMAGE, axis=0, index=-1),
    example("pick", IMAGE, axis=0, entries=(2, 0, 0)),
    example("pick", IMAGE, axis=0, entries=(-1, 1, -1, 0)),
    example("pick", IMAGE, axis=-1, entries=(-1, 3)),
    example("expand", (8, 1, 1), size=IMAGE),
    Example("expand", ((1, 1, 7), IMAGE), {"size": IMAGE}, shared=frozenset({0})),
    example("tile", IMAGE, repeats=(1, 2, 3)),
    *(example("pad", IMAGE, padding=(1, 2, 0, 3), mode=mode) for mode in PAD_MODES),
    example("pad", LINE, padding=(-2, 4), value=1.0),
    example("roll", IMAGE, shifts=(2, -1), axes=(1, -1)),
    example("flip", IMAGE, axes=(0, -1)),
    example("pixel_shuffle", IMAGE, factor=2),
    example("pixel_unshuffle", (3, 8, 6), factor=2),
)

WITH_WEIGHTS: tuple[Example, ...] = (
    example("conv1d", LINE, out_channels=6, kernel_size=3, stride=2, padding="same", bias=True),
    example("conv2d", IMAGE, out_channels=6),
    example("conv2d", IMAGE, out_channels=6, kernel_size=3, padding="same", dilation=2, bias=True),
    example("conv2d", IMAGE, out_channels=12, kernel_size=(3, 5), stride=(2, 1), padding=(1, 0), groups=4),
    example("conv_transpose1d", LINE, out_channels=6, kernel_size=4, stride=3),
    example("conv_transpose2d", IMAGE, out_channels=6, stride=2),
    example(
        "conv_transpose2d",
        IMAGE,
        out_channels=6,
        kernel_size=3,
        stride=2,
        padding=1,
        output_padding=1,
        groups=2,
        bias=True,
    ),
    example("linear", (10,), out_features=7),
    example("linear", TOKENS, out_features=7, bias=False),
    example("prelu", IMAGE),
    example("prelu", IMAGE, slopes=8),
    example("batch_norm", IMAGE),
    example("batch_norm", LINE),
    example("batch_norm", (10,), affine=False, momentum=None),
    Example("batch_norm", (IMAGE,), {"track_running_stats": False}, mixes_batch=True),
    example("instance_norm", IMAGE),
    example("instance_norm", LINE, affine=True),
    example("layer_norm", TOKENS),
    example("layer_norm", IMAGE, axes=3, bias=False),
    example("layer_norm", IMAGE, axes=2, affine=False),
    example("rms_norm", TOKENS),
    example("rms_norm", IMAGE, axes=2, eps=1e-6, affine=False),
    example("group_norm", IMAGE, groups=4),
)

PRODUCTS: tuple[Example, ...] = (
    example("matmul", (5, 12), (12, 4)),
    example("matmul", (2, 5, 12), (1, 12, 4)),
    example("einsum", (5, 12), (12, 4), equation="bnk,bkm->bnm"),
    example("einsum", (2, 5, 3), (2, 7, 3), equation="bhnd,bhmd->bhnm"),
    example("scaled_dot_product_attention", (2, 5, 4), (2, 7, 4), (2, 7, 6)),
    example("scaled_dot_product_attention", (2, 5, 4), (2, 7, 4), (2, 7, 6), (1, 5, 7), scale=0.5),
    example("scaled_dot_product_attention", (5, 4), (5, 4), (5, 4), causal=True),
)

TENSORS: tuple[Example, ...] = (
    example("parameter", size=(1, 5, 4)),
    example("buffer", size=(1, 5, 4)),
    example("buffer", size=(1, 5), dtype="int64"),
    example("constant", size=(1, 2, 3), values=(1.0, 2.5, float("inf"), 0.0, -1.0, 4.0)),
    Example("batch_of_one", ((6,),), {"size": (3, 1, 2)}, shared=frozenset({0})),
    Example("embedding", ((5, 2),), {"rows": 7, "features": 3}, whole={0: 7}),
    Example("functional_embedding", ((5,), (7, 3)), whole={0: 7}, shared=frozenset({1})),
    Example("index_select", (IMAGE, (4,)), {"axis": 1}, whole={1: 9}, shared=frozenset({1})),
    Example("functional_linear", (TOKENS, (7, 12)), shared=frozenset({1})),
    Example("functional_linear", (TOKENS, (7, 12), (7,)), shared=frozenset({1, 2})),
    Example("functional_conv1d", (LINE, (6, 8, 3), (6,)), {"padding": 1}, shared=frozenset({1, 2})),
    Example("functional_conv2d", (IMAGE, (6, 8, 3, 3)), {"padding": 1}, shared=frozenset({1})),
    Example("functional_conv2d", (IMAGE, (8, 2, 3, 1), (8,)), {"stride": 2, "groups": 4}, shared=frozenset({1, 2})),
)

BLOCKS: tuple[Example, ...] = (
    example("conv_bn_act", IMAGE, out_channels=6, kernel_size=5, stride=2, groups=2, activation="silu"),
    example("conv_bn_act", IMAGE, out_channels=6, activation=None),
    example("squeeze_excite", IMAGE, reduced=4),
    example("inverted_residual", IMAGE, out_channels=8, kernel_size=5, expansion=3, se_ratio=0.25),
    example("inverted_residual", IMAGE, out_channels=16, stride=2, expansion=1, activation="hardswish"),
    example("mbconv", IMAGE, out_channels=8, kernel_size=5),
    example("mbconv", IMAGE, out_channels=16, stride=2, expansion=1, se_ratio=0.0),
    example("classifier", IMAGE, classes=10, dropout=0.2),
    example("pooled_classifier", IMAGE, classes=10, hidden=16, dropout=0.2),
    example("relu_conv_bn", IMAGE, out_channels=6, stride=2),
    example(
        "nasbench201_cell",
        IMAGE,
        operations=("skip_connect", "none", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3", "skip_connect"),
    ),
    example("nasbench201_cell", IMAGE, operations=("none",) * 6),
    example("nasbench201_reduction", IMAGE, out_channels=16),
)

EXAMPLES = WITHOUT_WEIGHTS + MOVES + WITH_WEIGHTS + PRODUCTS + TENSORS + BLOCKS

# What means nothing by itself, and the test that has it in its place.
IN_PLACE = {
    "input": "test_inputs_pass_through",
    "alias": "test_network.py",
    "again": "test_supernet.py",
    "graph_step": "test_nasbench_graph.py",  # of sketches, which are read and not run
    "item": "test_trace.py",
    "other": "test_trace.py",
    "unused": "test_network.py",
}


def test_every_operator_has_an_example() -> None:
    """Operators of search_spaces; what tests and users register is theirs to check."""
    ours = {name for name, operator in operators.items() if operator.__module__.startswith("search_spaces.")}
    elsewhere = MULTIPLICATION_FREE + RECURRENT + RESIDUAL + SHUFFLED + OF_GRAPHS
    missing = sorted(ours - set(IN_PLACE) - {case.operator for case in EXAMPLES + elsewhere})
    assert not missing, f"add an example of {', '.join(missing)} to EXAMPLES in {__file__}"


class TestOperators(OperatorContract):
    examples = EXAMPLES


def test_inputs_pass_through() -> None:
    builder = GraphBuilder((3, 5, 4), (7,))
    image, vector = builder.inputs
    graph = builder.build(vector, image)
    tensors = torch.randn(2, 3, 5, 4), torch.randn(2, 7)
    swapped = Network(graph)(*tensors)
    assert swapped[0] is tensors[1]
    assert swapped[1] is tensors[0]
    assert graph.cost == Cost()
    with pytest.raises(GraphError, match="2 inputs, 1 tensors"):
        Network(graph)(tensors[0])


# ---- mistakes are told where they are made ----------------------------------------------------------------

REFUSED = (
    ("conv2d", [(8, 9, 7)], {"out_channels": 6, "groups": 4}, "cannot be split into 4 groups"),
    ("conv2d", [(8, 2, 2)], {"out_channels": 6, "kernel_size": 5}, "does not fit into 2x2 pixels"),
    ("conv2d", [(8, 9)], {"out_channels": 6}, "needs an input of 3 axes"),
    ("conv2d", [(8, 9, 7)], {"out_channels": 6, "padding": "valid"}, "'same' is allowed"),
    ("conv2d", [(8, 9, 7)], {}, "out_channels"),
    ("conv2d", [(8, 9, 7)], {"out_channels": 6, "kernel_size": (1, 2, 3)}, "a number or a pair"),
    ("conv2d", [(8, 9, 7)], {"out_channels": 6, "stride": 0}, "does not take inputs"),
    ("conv2d", [(8, 9, 7), (8, 9, 7)], {"out_channels": 6}, "does not take inputs"),
    ("conv2d", [(8, 9, 7)], {"out_channels": 6, "kernelsize": 3}, "did you mean 'kernel_size'"),
    ("conv2d", [(8, 9, 7)], {"out_channels": {6}}, "of type set"),
    ("activation", [(8, 9, 7)], {"kind": "rellu"}, "did you mean 'relu'"),
    ("activation", [], {}, "does not take inputs"),
    ("add", [(8, 9, 7), (8, 9, 6)], {}, "do not broadcast"),
    ("concat", [(8, 9, 7), (8, 9, 6)], {"axis": 0}, "the other axes differ"),
    ("max_pool2d", [(8, 2, 2)], {"kernel_size": 3}, "does not fit"),
    ("mean", [(8,)], {}, "mean over axis -2"),
    ("input", [], {"size": (3, 0, 4)}, "positive numbers"),
    ("conv3d", [(8, 9, 7)], {}, "did you mean 'conv2d'"),
)


@pytest.mark.parametrize(("operator", "shapes", "attributes", "message"), REFUSED)
def test_what_does_not_fit_is_refused(operator: str, shapes: list[Shape], attributes: dict, message: str) -> None:
    builder = GraphBuilder(*shapes)
    with pytest.raises(GraphError, match=f"node 'here'.*{message}"):
        builder.add(operator, *builder.inputs, name="here", **attributes)


# ---- figures worked by hand -------------------------------------------------------------------------------


def test_cost_of_a_convolution_by_hand() -> None:
    """4 x 3 x 3 x 3 = 108 weights and 4 biases on 6 x 6 pixels, four bytes a number."""
    cost = example("conv2d", (3, 6, 6), out_channels=4, kernel_size=3, padding=1, bias=True).graph().cost
    assert cost == Cost(params=112, macs=108 * 36, adds=4 * 36, bytes_read=4 * (3 * 36 + 112), bytes_written=4 * 4 * 36)
    assert cost.bytes_moved == 4 * (108 + 112 + 144)


def test_costs_add_up_and_remember_what_was_not_counted() -> None:
    total = Cost(params=1, macs=2, adds=3, shifts=4, bytes_read=5, bytes_written=6) + Cost(params=10, counted=False)
    assert total == Cost(11, 2, 3, 4, 5, 6, counted=False)


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 8), (8.8, 8), (11.9, 16), (12, 16), (16 * 0.75, 16), (40 * 0.5, 24), (18, 24), (33, 32)]
)
def test_make_divisible(value: float, expected: int) -> None:
    assert make_divisible(value) == expected
    assert make_divisible(value) >= 0.9 * value
