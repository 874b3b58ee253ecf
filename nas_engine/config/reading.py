"""From a YAML file and overrides to a configuration; what is wrong is said in one line that names the key."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from search_spaces.errors import ConfigError, did_you_mean

from .base import section_of
from .sections import Config

S = TypeVar("S", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML that reads `1e-3` as a number, as YAML 1.2 does, and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                mark = node.value[i][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_config(path: str | Path | None, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file, apply `a.b=value` overrides, validate.

    Raises:
        ConfigError: one line that names the key, what came, and what is allowed.
    """
    if path is None:
        return parse_config("name: run", "defaults", overrides)
    return parse_config(text_of(path, f"write one with: nas-engine init {path}"), path, overrides)


def text_of(path: str | Path, otherwise: str) -> str:
    """The text of a file.

    Args:
        otherwise: what to do where there is none, for the message.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"no file {str(path)!r}; {otherwise}") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"cannot read {str(path)!r}: {e}") from None


def parse_config(text: str, path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """The configuration in the text of a YAML file; `path` gives the run's name where the text does not."""
    return make_config(mapping_of(text, path, overrides))


def mapping_of(text: str, path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """What the text of a YAML file holds, with a `name` from its path where it has none, and overrides applied."""
    try:
        loaded = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (yaml.YAMLError, RecursionError) as e:
        raise ConfigError(f"{str(path)!r} is not YAML: {_yaml_problem(e)}") from None
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigError(f"{str(path)!r} holds {type(loaded).__name__}; a mapping of sections is expected")
    data: dict[str, Any] = {"name": name_from(path), **(loaded or {})}
    for override in overrides:
        override_in(data, override)
    return data


def name_from(path: str | Path) -> str:
    """The name of a run whose configuration names none: that of its file, as far as it can be one.

    >>> name_from("my searches/first try.yaml")
    'first-try'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).stem).strip("-._") or "run"


def make_config(data: Mapping[str, Any] | Config) -> Config:
    """Validate a mapping; a `Config` passes through."""
    if isinstance(data, Config):
        return data
    try:
        return Config.model_validate(dict(data))
    except ValidationError as e:
        raise ConfigError(in_words(e, Config)) from None


def override_in(data: dict[str, Any], text: str) -> None:
    """Set the value that `a.b=value` names in nested mappings.

    Raises:
        ConfigError: another form, or a value where a section should be.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} is not of the form a.b=value")
    *folders, last = key.strip().split(".")
    for folder in folders:
        inner = data.setdefault(folder, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {text!r}: {folder!r} is a value, not a section")
        data = inner
    try:
        data[last] = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError:
        data[last] = value


def validated(model: type[S], data: Mapping[str, Any], overrides: Iterable[str] = ()) -> S:
    """A section of its own from a mapping, `a.b=value` overrides applied; what is None is left out.

    Raises:
        ConfigError: one line that names what is wrong.
    """
    merged: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in data.items() if v is not None}
    for text in overrides:
        override_in(merged, text)
    try:
        return model.model_validate(merged)
    except ValidationError as e:
        raise ConfigError(in_words(e, model)) from None


def _yaml_problem(error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"line {mark.line + 1}: {problem}" if mark and problem else " ".join(str(error).split())


def in_words(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with a mapping for a model, in one line that names the keys."""
    parts = []
    for item in error.errors():
        where = ".".join(str(p) for p in item["loc"])
        if item["type"] == "extra_forbidden":
            near = did_you_mean(str(item["loc"][-1]), _keys_beside(item["loc"], model))
            parts.append(f"unknown key {where!r}: {near}")
        else:
            text = re.sub(r"a valid dictionary or instance of \w+", "a section of keys", item["msg"])
            text = text.removeprefix("Value error, ").replace("a valid tuple", "a list")
            came = "" if item["type"] == "value_error" else f", got {reprlib.repr(item['input'])}"
            parts.append(f"{where}: {text}{came}" if where else text)
    return "; ".join(parts)


def _keys_beside(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    for part in location[:-1]:
        if isinstance(part, int):  # a place in a list of sections
            continue
        inner = section_of(model, part)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)
