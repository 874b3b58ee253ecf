"""The commented YAML that `nas-engine init` writes.

The file is `templates/search.yaml` with names filled in; it states every default, so it is its own reference. What
is written is first read back as a configuration.
"""

from __future__ import annotations

import inspect
import json
import shlex
from pathlib import Path
from string import Template

import yaml

from search_spaces import spaces
from search_spaces.errors import ConfigError
from search_spaces.spaces import import_file

from .config import name_from, parse_config
from .data.load import resolve
from .files import write_text
from .shapes import OF_DATA

_TEMPLATE = Path(__file__).parent / "templates" / "search.yaml"


def write_starter(path: Path, data: str = "digits", space: str = "nasbench201", *, force: bool = False) -> None:
    """Write a configuration for these data and this space.

    Raises:
        ConfigError: the file is there already and `force` is not given.
        DataError: an unknown kind or name of data; the data themselves are not read.
        SpaceError: an unknown space.
    """
    if path.exists() and not force:
        raise ConfigError(f"{str(path)!r} is there already; choose another name, or replace it with --force")
    resolve(data)
    text = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        file=shlex.quote(str(path)),
        name=_scalar(name_from(path)),
        data=_scalar(data),
        space=_scalar(space),
        parameters=_parameters(space),
    )
    parse_config(text, str(path))
    write_text(path, text)


def _parameters(space: str) -> str:
    """The space's own keys with their defaults, each as a comment."""
    if ".py:" in space:
        path, _, space = space.rpartition(":")
        import_file(Path(path))
    signature = inspect.signature(spaces[space])
    own = [p for p in signature.parameters.values() if p.name not in OF_DATA and p.default is not p.empty]
    return "".join(f"  # {p.name}: {json.dumps(p.default, default=str)}\n" for p in own)


def _scalar(text: str) -> str:
    """A string as a YAML scalar on one line, quoted where it must be."""
    return yaml.safe_dump(text, width=10_000).removesuffix("\n").removesuffix("...").rstrip()
