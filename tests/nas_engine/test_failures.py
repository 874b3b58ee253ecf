"""How the command line fails: one line, a documented exit code, a traceback on request."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from nas_engine import starter
from nas_engine.failures import EXIT_CODES, explain
from search_spaces.errors import (
    ConfigError,
    DataError,
    EngineError,
    ExportError,
    RunError,
    SpaceError,
    UnsatisfiableError,
)
from tests.nas_engine.commands import bad, call


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `init` raise."""

    def fail_with(error: BaseException) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(starter, "write_starter", fail)

    return fail_with


def test_a_defect_is_called_one(failing: Callable[[BaseException], None]) -> None:
    failing(ZeroDivisionError("division\nby zero"))
    bad(70, r"a defect of nas-engine \(ZeroDivisionError: division by zero\); .*nas-engine --debug", "init")
    result = call("--debug", "init")
    assert result.exit_code == 70
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (EngineError("two\nlines"), 1, "^error: two lines$"),
        (ConfigError("x"), 2, "^error: x$"),
        (DataError("x"), 3, "^error: x$"),
        (UnsatisfiableError("x"), 4, "^error: x$"),
        (RunError("x"), 5, "^error: x$"),
        (ExportError("x"), 6, "^error: x$"),
        (KeyboardInterrupt(), 130, "^interrupted$"),
        (OSError(errno.ENOSPC, "No space left on device", "a.pt"), 1, "^error: the disk is full at a.pt; free space"),
        (PermissionError(errno.EACCES, "Permission denied", "a.pt"), 1, "Permission denied: 'a.pt'; mend this"),
        (MemoryError(), 1, "out of memory"),
    ],
)
def test_failures(failing: Callable[[BaseException], None], error: BaseException, code: int, message: str) -> None:
    failing(error)
    bad(code, message, "init")


def test_memory_of_an_accelerator_counts_as_memory() -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    code, line = explain(OutOfMemoryError("CUDA out of memory"))
    assert code == 1
    assert "lower the batch sizes" in line


def test_a_closed_pipe_is_no_defect() -> None:
    program = [sys.executable, "-m", "nas_engine.cli", "list", "operators", "--json"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(program, stdout=-1, stderr=-1, env=environment, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "defect" not in process.stderr.read()


def test_every_engine_error_has_a_documented_exit_code() -> None:
    kinds: list[type[EngineError]] = [EngineError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {ConfigError, DataError, SpaceError, UnsatisfiableError, RunError, ExportError} < set(kinds)
    assert {kind.exit_code for kind in kinds} <= set(EXIT_CODES)
