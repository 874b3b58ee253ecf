"""What all tests share: one thread for repeatable sums, the shared data where it is, property-test settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is first imported, also by processes that tests start
os.environ["MKL_NUM_THREADS"] = "1"

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from nas_engine import Run

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("repeatable")
pytest.register_assert_rewrite("nas_engine.testing")


def pytest_sessionstart() -> None:
    """A plugin may have imported torch before the environment was set."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared/data is not beside the repository")
    return SHARED.resolve()


@pytest.fixture(scope="session")
def shared_file(shared_data: Path) -> Callable[[str], Path]:
    """A function from a path inside the shared data to the file; skips where that file is absent."""

    def find(name: str) -> Path:
        path = shared_data / name
        if not path.exists():
            pytest.skip(f"../shared/data has no {name}")
        return path

    return find


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of the whole flow on digits; its latency measurements are kept out of the user's cache."""
    from nas_engine.config import make_config
    from nas_engine.pipeline import run_pipeline
    from tests.small import SMALL

    os.environ["NAS_ENGINE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    return run_pipeline(make_config({**SMALL, "results": str(tmp_path_factory.mktemp("results"))}))
