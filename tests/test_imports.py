"""The rules of importing, read from the source and tried in fresh processes.

Packages depend one way only; Ray and Optuna stay in the search; what plain Python can do never waits for torch.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "search_spaces": {"search_spaces"},
    "predictors": {"search_spaces", "predictors"},
    "nas_engine": {"search_spaces", "predictors", "nas_engine"},
}
HEAVY = ("torch", "torchvision", "timm", "torch_geometric", "ray", "optuna")
WITHOUT_TORCH = ("search_spaces/space.py", "search_spaces/graph.py", "predictors/cost/analytic.py")


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every import of a file, wherever it stands; relative ones made absolute."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield node.lineno, ".".join([*base, *(node.module or "").split(".")]).strip(".")


def offences(path: Path, forbidden: set[str]) -> list[str]:
    return [f"{path.relative_to(ROOT)}:{line} imports {n}" for line, n in imports(path) if n.split(".")[0] in forbidden]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_one_way(package: str) -> None:
    forbidden = set(MAY_IMPORT) - MAY_IMPORT[package]
    assert [o for path in sources(package) for o in offences(path, forbidden)] == []


def test_packages_do_not_import_tests_or_benchmarks() -> None:
    found = [o for p in MAY_IMPORT for path in sources(p) for o in offences(path, {"tests", "benchmarks", "examples"})]
    assert found == []


def test_ray_and_optuna_stay_in_the_search() -> None:
    search = ROOT / "nas_engine" / "tuning"
    files = [path for package in MAY_IMPORT for path in sources(package) if not path.is_relative_to(search)]
    assert [o for path in files for o in offences(path, {"ray", "optuna"})] == []


@pytest.mark.parametrize("file", WITHOUT_TORCH)
def test_what_millions_of_rows_need_does_not_import_torch(file: str) -> None:
    if not (ROOT / file).exists():
        pytest.skip(f"no {file}")
    assert offences(ROOT / file, {"torch"}) == []


def test_relative_imports_are_seen() -> None:
    """The reader of imports itself: names inside functions, relative levels, packages."""
    path = ROOT / "search_spaces" / "operators" / "blocks.py"
    names = {name for _, name in imports(path)}
    assert {"search_spaces.operators.base", "search_spaces.graph"} <= names


# ---- in fresh processes -----------------------------------------------------------------------------------


def loaded(statement: str, *suspects: str) -> list[str]:
    """Those of the suspected modules that are loaded after a statement ran in a new process."""
    program = f"import sys; {statement}; print(*(m for m in {suspects!r} if m in sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_the_command_line_starts_light() -> None:
    if not (ROOT / "nas_engine" / "cli.py").exists():
        pytest.skip("no nas_engine/cli.py")
    assert loaded("import nas_engine.cli", *HEAVY, "duckdb", "plotly", "onnx", "onnxruntime", "sklearn") == []


@pytest.mark.parametrize(
    "statement",
    [
        "import search_spaces",
        "import search_spaces as s; space = s.make_space('mobile'); print(space.graph(space.architecture()).cost)",
        "import predictors",
        "import nas_engine",
    ],
)
def test_packages_start_without_torch(statement: str) -> None:
    statement = statement.replace("print(", "repr(")
    assert loaded(statement, *HEAVY) == []


def test_lazy_names_are_found() -> None:
    assert loaded("from search_spaces import Network, Supernet", "torch") == ["torch"]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_public_names_exist(package: str) -> None:
    """Every name that a package and its sub-packages list in `__all__` can be imported."""
    names = [module_name(path) for path in sources(package) if path.name == "__init__.py"]
    loaded(
        f"from importlib import import_module; modules = [import_module(name) for name in {names!r}]; "
        "missing = [(m.__name__, n) for m in modules for n in getattr(m, '__all__', ()) if not hasattr(m, n)]; "
        "assert not missing, missing"
    )
