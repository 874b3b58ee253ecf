"""The README's examples run, and its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import nas_engine
from nas_engine import Run
from search_spaces import Supernet, make_space
from search_spaces.errors import EngineError

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLES = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line[line.index("nas-engine") :].split("#")[0]
    for line in (README + TABLES).splitlines()
    if re.match(r"\$ (\w+=\S+ )?nas-engine ", line)
]


def example(words: str) -> str:
    (found,) = [block for block in PYTHON if words in block]
    return found


def test_a_space_of_ones_own_takes_under_25_lines(tmp_path: Path) -> None:
    source = example("class Tiny")
    assert len([line for line in source.splitlines() if line.strip()]) < 25
    (tmp_path / "tiny.py").write_text(source)
    space = make_space(f"{tmp_path}/tiny.py:tiny", {"input_shape": (1, 8, 8), "classes": 3})
    assert space.size == 3**6
    member = space.sample(np.random.default_rng(0))
    net = Supernet(space).eval()
    images = torch.randn(2, 1, 8, 8)
    assert net(images, member).shape == (2, 3)
    torch.testing.assert_close(net.extract(member)(images), net(images, member))


def test_any_torch_network_becomes_a_graph() -> None:
    scope: dict[str, object] = {}
    exec(example("timm.create_model"), scope)
    images = torch.randn(2, 3, 64, 64)
    model, twin = scope["model"], scope["twin"]
    assert isinstance(model, torch.nn.Module)
    assert isinstance(twin, torch.nn.Module)
    with torch.inference_mode():
        torch.testing.assert_close(twin.eval()(images), model(images))


def test_the_python_interface(small_run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nas_engine, "search", lambda config: small_run)
    monkeypatch.setattr(Run, "export", lambda self, trial: tmp_path / str(trial))
    monkeypatch.setattr(Run, "best", _without_bound(Run.best))
    scope: dict[str, object] = {}
    exec(example("import nas_engine"), scope)
    assert scope["run"] is small_run
    assert str(scope["bundle"]).startswith(str(tmp_path))


def _without_bound(best):  # type: ignore[no-untyped-def]
    """The example's bound is for the example's device; on a slow one no network may meet it."""

    def found(self, where=None):  # type: ignore[no-untyped-def]
        try:
            return best(self, where)
        except EngineError:
            return best(self)

    return found


def test_a_bundle_loads_without_the_engine(small_run: Run) -> None:
    bundle = next(p for p in (small_run.path / "export").iterdir() if p.is_dir())
    source = example("from model import load").replace("results/digits/export/ID", str(bundle))
    scope: dict[str, object] = {}
    exec(source, scope)
    network = scope["network"]
    assert isinstance(network, torch.nn.Module)
    assert network(torch.zeros(1, *small_run.space.input_shape)).shape == (1, 10)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist(command: str) -> None:
    from typer.main import get_command

    from nas_engine.cli import app

    _, *rest = shlex.split(command)
    known = get_command(app)
    while hasattr(known, "commands"):
        known = known.commands[rest.pop(0)]
    options = {name for p in known.params for name in p.opts}
    assert {word for word in rest if word.startswith("--")} <= options


def test_examples_are_valid() -> None:
    from nas_engine.gnn import load_request

    for path in sorted((ROOT / "examples").glob("*.yaml")):
        load = load_request if path.stem == "train_gnn" else nas_engine.load_config
        assert load(path).name == path.stem
