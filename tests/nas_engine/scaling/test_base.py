"""What is scaled, wherever it comes from."""

from dataclasses import replace
from pathlib import Path

import pytest

from nas_engine.export import Card, export_bundle
from nas_engine.run import Run
from nas_engine.scaling.base import make_base, resolution
from search_spaces import Network
from search_spaces.errors import ConfigError, EngineError, SpaceError
from search_spaces.families import skeleton
from search_spaces.graph import GraphBuilder
from search_spaces.scaling import Compound, Rounding, Scaling, grow
from tests.nas_engine.scaling.conftest import quick
from tests.nas_engine.synthetic import build_run

TWICE = Scaling(width=2.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build_run(tmp_path_factory.mktemp("results"), "mobile")


def test_a_published_network_is_scaled_by_its_table() -> None:
    base = make_base(quick("efficientnet_b0", phi=1))
    assert base.graph == skeleton("efficientnet_b0").graph()
    assert (resolution(base.graph), base.classes) == ((224, 224), 1000)
    scaling = Compound().scaling(2)
    table = skeleton("efficientnet_b0").scaled(scaling)
    assert base.scaled(scaling) == table.graph()
    assert resolution(base.scaled(scaling)) == (table.resolution,) * 2
    assert base.scaled(scaling) is base.scaled(scaling)
    assert base.scaled(Scaling()) is base.graph


def test_a_published_network_for_other_images() -> None:
    base = make_base(quick("mobilenetv2_100", phi=1, input="1x64x64", classes=7))
    assert base.graph.inputs[0].shape == (1, 64, 64)
    assert base.scaled(Scaling(resolution=1.5)).inputs[0].shape == (1, 96, 96)
    assert base.classes == 7
    with pytest.raises(ConfigError, match="square images"):
        make_base(quick("mobilenetv2_100", phi=1, input="1x64x32"))


def test_rounding_as_asked() -> None:
    coarse = make_base(quick("mobilenetv2_100", phi=1, input="3x64x64", rounding={"divisor": 32}))
    table = replace(skeleton("mobilenetv2_100"), resolution=64)
    scaling = Scaling(width=1.3)
    assert coarse.scaled(scaling) == table.scaled(scaling, Rounding(32)).graph()
    assert coarse.scaled(scaling) != make_base(quick("mobilenetv2_100", phi=1, input="3x64x64")).scaled(scaling)


def test_a_network_of_a_user_is_traced_and_grown(nets: str) -> None:
    base = make_base(quick(f"{nets}:Net", phi=1, input="3x16x16"))
    assert base.name == "Net"
    assert base.scaled(TWICE) == grow(base.graph, TWICE)
    assert base.scaled(TWICE).cost.params > 3 * base.graph.cost.params
    assert base.notes == ("depth by 1 stage of 2 layers", "width in all layers")
    assert (
        make_base(quick(f"{nets}:plain", phi=1, input="3x16x16")).notes[0]
        == "no stage of like layers, so its depth stays"
    )


def test_a_library_network_that_is_published_is_scaled_by_its_table() -> None:
    assert make_base(quick("timm:efficientnet_b0", phi=1)).graph == skeleton("efficientnet_b0").graph()
    assert make_base(quick("torchvision:mobilenet_v2", phi=1)).name == "mobilenet_v2"


def test_a_library_network_is_scaled_by_its_builder() -> None:
    base = make_base(quick("torchvision:mnasnet0_5", phi=1, input="3x32x32", classes=10))
    assert "builder" in base.source
    wide = base.scaled(Scaling(width=2.0, resolution=1.5))
    built_so = make_base(quick("torchvision:mnasnet1_0", phi=1, input="3x48x48", classes=10)).graph
    assert (wide.cost.params, wide.cost.macs) == (built_so.cost.params, built_so.cost.macs)
    with pytest.raises(ConfigError, match="rounds by itself"):
        make_base(quick("torchvision:mnasnet0_5", phi=1, rounding={"divisor": 4}))


def test_a_network_of_a_run_is_scaled_as_its_space_does(run: Run) -> None:
    row = run.chosen["networks"][0]
    base = make_base(quick(f"{run.path}:{row['trial']}", phi=1))
    architecture = run.space.decode(row["code"])
    assert base.graph == run.space.graph(architecture)
    assert base.scaled(TWICE) == run.space.scaled(architecture, TWICE)
    assert "Sneaker" in base.class_names
    best = make_base(quick(str(run.path), phi=1))
    assert best.graph == run.space.graph(run.space.decode(run.best()["code"]))
    with pytest.raises(ConfigError, match="leave out --input"):
        make_base(quick(str(run.path), phi=1, input="1x32x32"))
    with pytest.raises(ConfigError, match="rounded as its space does"):
        make_base(quick(str(run.path), phi=1, rounding={"divisor": 4}))
    with pytest.raises(EngineError, match="no trained network of trial 999"):
        make_base(quick(f"{run.path}:999", phi=1))


def test_a_bundle_is_grown(tmp_path: Path) -> None:
    import torch

    g = GraphBuilder((3, 8, 8))
    x = g.add("conv_bn_act", g.input, name="stem", out_channels=16)
    g_head = g.add("classifier", x, name="head", classes=4)
    graph = g.build(g_head)
    export_bundle(Network(graph), tmp_path / "a", samples=torch.randn(2, 3, 8, 8), card=Card("a"), formats=())
    base = make_base(quick(str(tmp_path / "a"), phi=1))
    assert base.graph == graph
    assert base.scaled(TWICE).cost.params > base.graph.cost.params
    with pytest.raises(ConfigError, match="a bundle has its own input"):
        make_base(quick(str(tmp_path / "a"), phi=1, classes=5))
    with pytest.raises(ConfigError, match="is no bundle"):
        make_base(quick(str(tmp_path), phi=1))


def test_what_is_no_network_of_images_is_refused(nets: str) -> None:
    with pytest.raises(SpaceError, match="from one image to classes"):
        make_base(quick(f"{nets}:pair", phi=1))
    with pytest.raises(ConfigError, match="did you mean 'efficientnet_b0'"):
        make_base(quick("efficentnet_b0", phi=1))
