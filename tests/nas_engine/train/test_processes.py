"""The supernet's stage by two processes: killed and resumed, what goes wrong in a helper, `torchrun`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from nas_engine.config import Config, make_config
from nas_engine.context import Context
from nas_engine.files import read_json
from nas_engine.interrupt import Interrupt
from nas_engine.pipeline import inputs
from nas_engine.stages import supernet
from nas_engine.train.parallel import joined
from nas_engine.train.processes import Helpers, gathered, main
from search_spaces.errors import ConfigError, EngineError
from tests.small import SMALL

pytestmark = pytest.mark.timeout(600)
TWO = {"epochs": 4, "processes": 2, "strategy": "fair"}


def small(results: Path, name: str = "run", **supernet: Any) -> Config:
    return make_config({**SMALL, "supernet": {**TWO, **supernet}, "results": str(results), "name": name})


def helpers() -> list[psutil.Process]:
    """The processes that help this one."""
    return [p for p in psutil.Process().children(recursive=True) if "--helper" in p.cmdline()]


def trained(config: Config, at: int = 99, act: Callable[[Interrupt], None] = Interrupt.set) -> bytes:
    """The weights that the stage leaves; after epoch `at` something happens."""
    stop = Interrupt()

    def progress(event: str, details: dict[str, Any]) -> None:
        if details.get("done") == at:
            act(stop)

    supernet(Context(config, progress, stop))
    weights = config.directory / "supernet" / "weights.safetensors"
    return weights.read_bytes() if weights.exists() else b""


def test_one_process_needs_no_helpers(tmp_path: Path) -> None:
    with gathered(Context(small(tmp_path, processes=1))) as team:
        assert team is not None
        assert team.size == 1
        assert helpers() == []


def test_weights_that_are_not_trained_need_no_helpers(tmp_path: Path) -> None:
    with gathered(Context(small(tmp_path, epochs=0))) as team:
        assert team is not None
        assert team.size == 1


def test_asked_to_end_before_helpers_are_there(tmp_path: Path) -> None:
    stop = Interrupt()
    stop.set()
    with gathered(Context(small(tmp_path), stop=stop)) as team:
        assert team is None
        assert len(helpers()) == 1
    assert helpers() == []


def test_what_goes_wrong_in_a_helper_is_told(tmp_path: Path) -> None:
    config = small(tmp_path).model_copy(update={"space": make_config({"space": {"name": "nosuch"}}).space})
    with Helpers(config, 2) as started, pytest.raises(EngineError) as told:
        started.join(lambda: False)
    assert str(told.value).startswith("process 1 of the 2 that train the shared weights: unknown space 'nosuch'")
    assert told.value.exit_code == ConfigError.exit_code
    assert not started.folder.exists()
    assert joined() is None


def test_a_run_may_go_on_with_another_number_of_processes(tmp_path: Path) -> None:
    one, two = (Context(small(tmp_path, processes=n)) for n in (1, 2))
    assert inputs(one, "supernet") == inputs(two, "supernet")


def test_outside_torchrun_the_module_says_what_it_is_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    path = tmp_path / "search.yaml"
    path.write_text("name: run\n")
    assert main([str(path)]) == 2
    assert "torchrun --nproc-per-node 2 -m nas_engine.train" in capsys.readouterr().err
    assert main([str(tmp_path / "none.yaml")]) == 2
    with pytest.raises(SystemExit):
        main([])


@pytest.mark.slow
def test_killed_anywhere_the_training_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    whole = trained(small(tmp_path, "whole"))
    assert helpers() == []
    with pytest.raises(EngineError, match="was killed by SIGKILL.*the same command goes on"):
        trained(small(tmp_path, "killed"), 2, lambda _: helpers()[0].kill())
    assert not (tmp_path / "killed" / "supernet" / "weights.safetensors").exists()
    assert joined() is None
    assert trained(small(tmp_path, "killed")) == whole
    assert trained(small(tmp_path, "stopped"), 2) == b""
    assert helpers() == []
    assert trained(small(tmp_path, "stopped")) == whole
    assert trained(small(tmp_path, "alone", processes=1)) != b""


@pytest.mark.slow
def test_helpers_end_with_the_process_that_they_help(tmp_path: Path) -> None:
    program = (
        "import sys, yaml\n"
        "from nas_engine.config import make_config\n"
        "from nas_engine.context import Context\n"
        "from nas_engine.stages import supernet\n"
        "config = make_config(yaml.safe_load(sys.argv[1]))\n"
        "supernet(Context(config, lambda event, details: print(details, flush=True)))\n"
    )
    asked = small(tmp_path, epochs=50)
    command = [sys.executable, "-c", program, asked.to_yaml()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "supernet epoch" in line, line + process.stdout.read()
    helping = psutil.Process(process.pid).children(recursive=True)
    assert len(helping) == 1
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(helping, timeout=20)
    assert alive == []


@pytest.mark.slow
def test_torchrun_on_two_machines(tmp_path: Path) -> None:
    """Two agents with a process each, as two machines have them; then there is nothing left to do."""
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "supernet": {"epochs": 2}, "results": str(tmp_path)}))
    done = tmp_path / SMALL["name"] / "supernet" / "done.json"
    for _ in range(2):
        said = _torchrun(path, tmp_path)
        assert "by 2 processes" in read_json(done)["text"], said


def _torchrun(config: Path, folder: Path) -> list[str]:
    port = str(_free_port())
    root = str(Path(__file__).resolve().parents[3])
    environment = {**os.environ, "PYTHONPATH": root, "NAS_ENGINE_CACHE": str(folder / "cache")}
    environment |= {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    where = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port]
    command = [sys.executable, "-m", "torch.distributed.run", *where]
    agents = [
        subprocess.Popen(
            [*command, "--node-rank", str(node), "-m", "nas_engine.train", str(config)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(2)
    ]
    said = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    return said


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
