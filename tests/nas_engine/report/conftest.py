"""Synthetic runs, made once for all tests of the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nas_engine.run import Run
from tests.nas_engine.synthetic import build_run


@pytest.fixture(scope="session", params=["nasbench201", "mobile"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose stages have all ended, in each space. Tests that change files make their own."""
    return build_run(tmp_path_factory.mktemp("results"), request.param)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """Builds a run in a directory of the test."""
    return lambda space="nasbench201", **options: build_run(tmp_path / "results", space, **options)
