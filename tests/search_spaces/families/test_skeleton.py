"""Tables of rows: how they become graphs, are scaled, lose strides, and drop branches."""

from __future__ import annotations

import pytest
import torch

from search_spaces import GraphError, Network, SpaceError
from search_spaces.families import Row, Skeleton, skeleton
from search_spaces.scaling import Rounding, Scaling
from search_spaces.scaling.image import behind_resize


def table(**settings: object) -> Skeleton:
    rows = (
        Row("stem", "conv_bn_act", 8, stride=2),
        Row("stage0", "inverted_residual", 16, repeats=2, stride=2, attributes={"expansion": 2}),
        Row("stage1", "inverted_residual", 24, repeats=1, attributes={"kernel_size": 5}, first={"expansion": 1}),
        Row("head", "conv_bn_act", 64, attributes={"kernel_size": 1}, scaled="up"),
        Row("classifier", "classifier"),
    )
    return Skeleton("tiny", rows, resolution=32, classes=7, **settings)  # type: ignore[arg-type]


def test_rows_become_nodes() -> None:
    graph = table().graph()
    shapes = {node.name: node.shape for node in graph}
    assert shapes["stem"] == (8, 16, 16)
    assert shapes["stage0.0"] == shapes["stage0.1"] == (16, 8, 8)
    assert shapes["stage1.0"] == (24, 8, 8)
    assert shapes["classifier"] == (7,)
    assert graph["stage0.0"].attributes["stride"] == 2
    assert graph["stage0.1"].attributes["stride"] == 1
    assert graph["stage1.0"].attributes["expansion"] == 1


def test_scaling_touches_what_the_rows_say() -> None:
    grown = table().scaled(Scaling(depth=1.5, width=2.0, resolution=1.25))
    assert [row.width for row in grown.rows] == [16, 32, 48, 128, None]
    assert [row.repeats for row in grown.rows] == [0, 3, 2, 0, 0]
    assert grown.resolution == 40
    narrow = table().scaled(Scaling(width=0.5), Rounding(divisor=4))
    assert [row.width for row in narrow.rows] == [4, 8, 12, 64, None]
    assert table().scaled(Scaling()) == table()


def test_stages_of_several_rows_are_scaled_as_one() -> None:
    joined = table(stages=(("stage0", "stage1"),)).scaled(Scaling(depth=1.3))
    assert sum(row.repeats for row in joined.rows) == 4  # ceil(1.3 * 3)


def test_strides_are_lowered_from_the_input_on() -> None:
    assert [row.stride for row in table().at_stride(2).rows] == [1, 2, 1, 1, 1]
    assert [row.stride for row in table().at_stride(1).rows] == [1, 1, 1, 1, 1]
    assert table().at_stride(8) == table()
    assert table().at_stride(2).graph((1, 9, 9), 3)["stage1.0"].shape == (24, 5, 5)


def test_stochastic_depth_rises_and_costs_nothing() -> None:
    """Blocks 0, 1 and 2 of 3: rates 0, a third, two thirds of the last one's, where there is a residual branch."""
    plain, dropping = table().graph(), table(drop_path=0.3).graph()
    rates = [n.attributes["drop_path"] for n in dropping if "drop_path" in n.attributes]
    assert rates == [0.0, 0.1, 0.2]
    assert dropping.cost.macs == plain.cost.macs
    assert dropping.cost.params == plain.cost.params
    assert [n.signature.evaluated for n in dropping] == [n.signature.evaluated for n in plain]
    network = Network(dropping)
    x = torch.randn(64, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.eval()(x), network(x))
        trained = network.train()
        torch.manual_seed(0)
        one = trained.get_submodule("stage0.1.drop")(torch.ones(20_000, 1))
    assert one.mean() == pytest.approx(1, abs=0.02)
    assert (one == 0).float().mean() == pytest.approx(0.1, abs=0.01)


def test_images_of_another_size_are_resized_by_the_network() -> None:
    graph = behind_resize(table().graph(), (3, 20, 28))
    assert graph.inputs[0].shape == (3, 20, 28)
    assert graph["resize"].shape == (3, 32, 32)
    assert graph["classifier"].shape == (7,)
    assert behind_resize(table().graph(), (3, 32, 32)) == table().graph()
    with pytest.raises(GraphError, match="cannot be resized"):
        behind_resize(table().graph(), (1, 20, 28))


def test_mistakes_are_told() -> None:
    with pytest.raises(SpaceError, match="no family has a member"):
        skeleton("efficientnet_b99")
