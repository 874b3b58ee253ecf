"""Calling the command line inside tests."""

from __future__ import annotations

import re

from typer.testing import CliRunner, Result

from nas_engine import cli


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments), prog_name="nas-engine")


def good(*arguments: str) -> str:
    """Standard output of a call that works and has nothing to complain of."""
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    assert "error" not in result.stderr
    return result.stdout


def bad(code: int, message: str, *arguments: str) -> None:
    """A call that fails with one line, which may follow progress."""
    result = call(*arguments)
    assert result.exit_code == code, result.output
    *progress, last = result.stderr.splitlines()
    assert re.search(message, last), result.stderr
    assert all(re.match("[>!✓] |  ", line) for line in progress), result.stderr
    assert result.stdout == ""
