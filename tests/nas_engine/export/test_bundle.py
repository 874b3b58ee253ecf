"""Bundles end to end: every form loads again and agrees, or there is no bundle."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas_engine.data import Normaliser
from nas_engine.export import (
    BundleReport,
    Card,
    Exporter,
    export_bundle,
    exporters,
    load_bundle,
    register_exporter,
)
from search_spaces import Architecture, Graph, GraphBuilder, Network
from search_spaces.errors import ExportError
from search_spaces.trace import trace
from tests.nas_engine.export.networks import card, cell_member, digits, made, mobile_member

FILES = {
    "architecture.json", "card.md", "model.onnx", "model.pt2", "model.py", "verification.json", "weights.safetensors",
}  # fmt: skip

Made = tuple[Network, Architecture, Tensor, BundleReport]


@pytest.fixture(scope="module", params=["mobile", "nasbench201"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A bundle of all forms of a member of each space."""
    network, architecture = mobile_member() if request.param == "mobile" else cell_member()
    samples = digits(network.graph.inputs[0].shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = export_bundle(
            network, tmp_path_factory.mktemp("export") / "net", samples=samples, card=card(), architecture=architecture
        )
    return network, architecture, samples, report


@pytest.fixture
def wrong() -> Iterator[str]:
    """A form that writes a file and gives other logits."""

    @register_exporter("wrong")
    class Wrong(Exporter):
        file = "wrong.bin"
        error: BaseException | None = None

        def write(self, network: Network, samples: tuple[Tensor, ...], card: Card, directory: Path) -> None:
            (directory / self.file).write_bytes(b"wrong")
            if self.error is not None:
                raise self.error

        def run(self, directory: Path, batches: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
            return [torch.full((len(b), 10), 1e6) for (b,) in batches]

    yield "wrong"
    del exporters._entries["wrong"]


def test_all_files_are_there_and_all_forms_agree(bundle: Made) -> None:
    _, _, samples, report = bundle
    assert {p.name for p in report.path.iterdir()} == FILES
    assert set(report.differences) == {"model.py", "torch_export", "onnx"}
    assert max(report.differences.values()) < 1e-5
    assert not report.kept
    told = json.loads((report.path / "verification.json").read_text())
    shape = list(samples.shape)
    assert told["shapes"] == [{"images": shape}, {"images": [1, *shape[1:]]}]
    assert told["rebuilt_from_json"] < 1e-6
    assert told["differences"] == report.differences
    assert set(told["versions"]) == {"torch", "onnx", "onnxruntime", "safetensors"}


def test_nothing_but_the_bundle_is_left(bundle: Made) -> None:
    assert [p.name for p in bundle[3].path.parent.iterdir()] == ["net"]


def test_model_py_runs_alone(bundle: Made, tmp_path: Path) -> None:
    network, _, _, report = bundle
    ended = subprocess.run(
        [sys.executable, "-I", str(report.path / "model.py")], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    parameters = sum(p.numel() for p in network.parameters())
    assert ended.stdout.startswith(f"{parameters:,} parameters, input (1, 1, ")
    assert "output (1, 10)" in ended.stdout
    assert ended.stderr == ""


def test_the_card_tells_how_to_load_each_form(bundle: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    network, _, samples, report = bundle
    monkeypatch.chdir(report.path)
    monkeypatch.syspath_prepend(report.path)
    text = (report.path / "card.md").read_text()
    snippets = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    assert len(snippets) == 3
    wanted = network(samples).detach()
    for snippet in snippets:
        names = {"images": samples}
        exec(snippet, names)
        torch.testing.assert_close(torch.as_tensor(names["logits"]), wanted, rtol=0, atol=1e-4)
    sys.modules.pop("model")
    shutil.rmtree(report.path / "__pycache__", ignore_errors=True)


def test_the_card_states_figures_with_their_n_and_units(bundle: Made) -> None:
    text = (bundle[3].path / "card.md").read_text()
    assert "- test: 90.00 % of 100 images (95 % interval 82.6 % to 94.5 %)" in text
    assert "- validation: 91.00 % of 200 images" in text
    assert "| latency | 1.2 | 1.25 (interquartile range 0.1) | ms |" in text
    assert "processor AMD EPYC, threads 1" in text
    assert "3 epochs, seed 0, from random weights." in text


def test_model_py_preprocesses_as_the_data_package_does(bundle: Made, tmp_path: Path) -> None:
    _, _, _, report = bundle
    names: dict[str, object] = {"__file__": str(report.path / "model.py"), "__name__": "model"}
    exec((report.path / "model.py").read_text(), names)
    raw = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    normaliser = Normaliser((0.3,), (0.4,))
    for images in (raw, raw / 255):
        torch.testing.assert_close(names["preprocess"](images), normaliser(images))  # type: ignore[operator]


def test_no_file_names_a_path_of_this_machine(bundle: Made) -> None:
    source = str(Path(__file__).resolve().parents[3]).encode()
    for path in bundle[3].path.iterdir():
        assert source not in path.read_bytes(), path.name


def test_pt2_needs_nothing_of_this_project(bundle: Made, tmp_path: Path) -> None:
    code = (
        "import sys, torch; sys.modules.update(nas_engine=None, search_spaces=None, predictors=None);"
        "print(tuple(torch.export.load(sys.argv[1]).module()(torch.zeros(3, *map(int, sys.argv[2:]))).shape))"
    )
    shape = [str(n) for n in bundle[0].graph.inputs[0].shape]
    command = [sys.executable, "-I", "-c", code, str(bundle[3].path / "model.pt2"), *shape]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "(3, 10)\n"


def test_a_bundle_loads_as_a_network(bundle: Made) -> None:
    network, architecture, samples, report = bundle
    loaded = load_bundle(report.path)
    assert loaded.graph == network.graph
    torch.testing.assert_close(loaded(samples), network(samples), rtol=0, atol=0)
    described = json.loads((report.path / "architecture.json").read_text())
    assert described["architecture"] == json.loads(architecture.to_json())
    assert described["classes"] == list(map(str, range(10)))


# ---- resume, refusal, failure: without the slow forms -----------------------------------------------------


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Path]:
    """A bundle without forms, only weights and architecture."""
    network, _ = cell_member()
    directory = tmp_path_factory.mktemp("quick") / "net"
    export_bundle(network, directory, samples=digits(8), card=card(), formats=())
    return network, directory


@pytest.fixture
def copied(quick: tuple[Network, Path], tmp_path: Path) -> tuple[Network, Path]:
    shutil.copytree(quick[1], tmp_path / "net")
    return quick[0], tmp_path / "net"


def test_a_complete_bundle_is_kept_and_its_card_renewed(copied: tuple[Network, Path]) -> None:
    network, directory = copied
    before = (directory / "weights.safetensors").stat().st_mtime_ns
    renewed = card(metrics={"test_accuracy": 0.5})
    assert export_bundle(network, directory, samples=digits(8), card=renewed, formats=()).kept
    assert (directory / "weights.safetensors").stat().st_mtime_ns == before
    assert "test: 50.00 %" in (directory / "card.md").read_text()


class Sorting(nn.Module):
    """A part that no operator stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.cummax(x.flatten(1), 1).values)


def test_parts_without_an_operator_go_into_a_program(tmp_path: Path) -> None:
    module = Sorting().eval()
    network = Network(trace(module, digits(8)), source=module)
    network.load_state_dict(module.state_dict())
    export_bundle(network, tmp_path / "net", samples=digits(8), card=card(), formats=["torch_export"])
    told = json.loads((tmp_path / "net" / "verification.json").read_text())
    assert told["rebuilt_from_json"] is None
    assert told["differences"]["torch_export"] < 1e-6
    assert "Not counted: operators other;" in (tmp_path / "net" / "card.md").read_text()
    with pytest.raises(ExportError, match="node 'cummax' is of operator 'other', which has no source"):
        export_bundle(network, tmp_path / "net", samples=digits(8), card=card(), formats=["model.py"])


@pytest.mark.parametrize("name", ["search_spaces", "nas_engine", "safetensors"])
def test_model_py_may_import_nothing_else(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas_engine.export.source.model_source", lambda graph, told: f"import {name}")
    with pytest.raises(ExportError, match=f"does not run by itself: ImportError: model.py imports '{name}'"):
        export_bundle(cell_member()[0], tmp_path / "net", samples=digits(8), card=card(), formats=["model.py"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["damage", "remove", "other weights", "other classes", "verification"])
def test_anything_else_is_written_anew(copied: tuple[Network, Path], harm: str) -> None:
    network, directory = copied
    told = card()
    if harm == "damage":
        (directory / "weights.safetensors").write_bytes(b"0" * 8)
    elif harm == "remove":
        (directory / "architecture.json").unlink()
    elif harm == "verification":
        (directory / "verification.json").write_text("{")
    elif harm == "other weights":
        network, _ = cell_member()
        next(network.parameters()).data.add_(1)
    else:
        told = card(classes=tuple("abcdefghij"))
    assert not export_bundle(network, directory, samples=digits(8), card=told, formats=()).kept
    assert export_bundle(network, directory, samples=digits(8), card=told, formats=()).kept
    torch.testing.assert_close(load_bundle(directory)(digits(8)), network(digits(8)))


def test_a_directory_that_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ExportError, match="is no bundle, so it is not replaced"):
        export_bundle(cell_member()[0], tmp_path / "mine", samples=digits(8), card=card(), formats=())
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_a_form_that_differs_leaves_no_file(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"form 'wrong' differs from the network by 1.*e\+06, allowed is"):
        export_bundle(cell_member()[0], tmp_path / "net", samples=digits(8), card=card(), formats=[wrong])
    assert list(tmp_path.iterdir()) == []


def test_a_form_that_differs_leaves_the_older_bundle(wrong: str, copied: tuple[Network, Path]) -> None:
    network, directory = copied
    before = {p.name: p.read_bytes() for p in directory.iterdir()}
    with pytest.raises(ExportError, match="form 'wrong'"):
        export_bundle(network, directory, samples=digits(8), card=card(), formats=[wrong])
    assert {p.name: p.read_bytes() for p in directory.iterdir()} == before


def test_a_form_that_raises_is_named(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporters[wrong], "error", RuntimeError("no such layer\nand a long trace"))
    with pytest.raises(ExportError, match="form 'wrong' cannot be made: RuntimeError: no such layer; leave") as told:
        export_bundle(cell_member()[0], tmp_path / "net", samples=digits(8), card=card(), formats=[wrong])
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporters[wrong], "error", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(ExportError, match="No space left on device; free space or give another directory") as told:
        export_bundle(cell_member()[0], tmp_path / "net", samples=digits(8), card=card(), formats=[wrong])
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_inputs_are_checked(tmp_path: Path) -> None:
    network, _ = cell_member()
    with pytest.raises(ExportError, match=r"samples of shape \(1, 1, 8, 8\); two or more images"):
        export_bundle(network, tmp_path / "net", samples=digits(8, 1), card=card())
    with pytest.raises(ExportError, match=r"samples of shape \(5, 1, 9, 9\)"):
        export_bundle(network, tmp_path / "net", samples=digits(9), card=card())
    with pytest.raises(ExportError, match="unknown export format 'onx': did you mean 'onnx'"):
        export_bundle(network, tmp_path / "net", samples=digits(8), card=card(), formats=["onx"])
    next(network.parameters()).data.fill_(float("nan"))
    with pytest.raises(ExportError, match="not finite"):
        export_bundle(network, tmp_path / "net", samples=digits(8), card=card())


def test_load_bundle_tells_what_is_wrong(copied: tuple[Network, Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is no bundle"):
        load_bundle(tmp_path / "nothing")
    (copied[1] / "weights.safetensors").write_bytes(b"0" * 20)
    with pytest.raises(ExportError, match="is damaged"):
        load_bundle(copied[1])


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    network, _ = cell_member()
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    export_bundle(network, tmp_path / "net", samples=digits(8), card=card(), formats=())
    assert network.training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_parametrisations_are_computed(tmp_path: Path) -> None:
    network, _ = cell_member()
    torch.nn.utils.parametrize.register_parametrization(network.stem.conv, "weight", Doubled())
    export_bundle(network, tmp_path / "net", samples=digits(8), card=card(), formats=["model.py"])
    assert torch.nn.utils.parametrize.is_parametrized(network.stem.conv)
    torch.testing.assert_close(load_bundle(tmp_path / "net").stem.conv.weight, network.stem.conv.weight)


def test_tensors_of_their_own_are_exported(tmp_path: Path) -> None:
    export_bundle(made(embedded()), tmp_path / "net", samples=digits(8), card=card(), formats=["model.py"])
    assert (
        'self.register_buffer("table", torch.zeros((1, 4, 1, 1), dtype=torch.float32))'
        in (tmp_path / "net" / "model.py").read_text()
    )


def embedded() -> Graph:
    """A position embedding, and a buffer inside a block."""
    g = GraphBuilder((1, 8, 8))
    x = g.add("conv2d", g.input, name="stem", out_channels=4, kernel_size=3, padding=1)
    x = g.add("add", x, g.add("parameter", name="position", size=(1, 4, 8, 8)), name="placed")
    table = g.add("buffer", name="block.table", size=(1, 4, 1, 1))
    y = g.add("activation", g.add("add", x, table, name="block.shift"), name="block.act")
    y = g.add("conv2d", y, name="block.conv", out_channels=4)
    return g.build(g.add("classifier", g.add("add", x, y, name="sum"), name="head", classes=10))


def test_numbers_of_other_types_are_exported(tmp_path: Path) -> None:
    network, _ = cell_member()
    export_bundle(network.half(), tmp_path / "net", samples=digits(8), card=card(), formats=["model.py"])
    assert all(np.isfinite(p.detach().numpy()).all() for p in load_bundle(tmp_path / "net").parameters())
    assert next(network.parameters()).dtype == torch.float16
