"""From a name, a file or a directory to a torch module with its weights.

Everything that users call "a model" comes through `load_model`, and every file of weights through `load_weights`,
which names what does not fit instead of loading the part that does. Files are only read.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..errors import ConfigError, SpaceError, did_you_mean
from .classics import models

if TYPE_CHECKING:
    from collections.abc import Iterator

_WRAPPED = ("state_dict", "model_state_dict", "model", "module", "net", "ema")  # keys of training checkpoints
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel, and of torch.compile
_SHOWN = 4  # names that a message lists


def load_model(
    spec: str | Path,
    *,
    input_shape: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    weights: str | Path | None = None,
) -> nn.Module:
    """The module that a text names, in evaluation mode.

    Args:
        spec: `file.py:function` (or a class), a registered name such as `resnet20`, `timm:NAME`, `torchvision:NAME`, a
            bare name of either (torchvision's, where both have it), or the directory of an exported bundle.
        input_shape: of one image; given to functions that have a parameter of this name.
        classes: given to functions as `classes` or `num_classes`.
        weights: a file for `load_weights`; None keeps those that the module comes with (a bundle's own, or random).

    Raises:
        ConfigError: nothing of this name, a file or function that cannot be used, a package that is not installed.
        SpaceError: weights of another architecture, or a damaged bundle.
    """
    text, shape = str(spec), tuple(int(s) for s in input_shape)
    module = _made(text, shape, int(classes))
    if weights is not None:
        load_weights(module, weights, text)
    return module.eval()


def _made(spec: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    file, colon, name = spec.rpartition(":")
    if colon and file.endswith(".py"):
        return _called(spec, _from_file(Path(file), name), shape, classes)
    if colon and file in _LIBRARIES:
        return _LIBRARIES[file](name, shape, classes)
    if spec in models:
        return _called(spec, models[spec], shape, classes)
    if Path(spec).is_dir():
        return _bundle(Path(spec))
    return _bare(spec, shape, classes)


def _bare(spec: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """A library's model whose library is not named; what is no name at all is told how to be written."""
    if spec.endswith(".py"):
        raise ConfigError(f"{spec!r} is a file; add the function that makes the model: {spec}:FUNCTION")
    if "/" in spec or "\\" in spec:
        raise ConfigError(f"there is no directory {spec!r}; give file.py:function, a bundle's directory, or a name")
    known: list[str] = []
    for library, names in (("torchvision", _torchvision_names), ("timm", _timm_names)):
        try:
            found = names()
        except ConfigError:
            continue
        if spec in found:
            return _LIBRARIES[library](spec, shape, classes)
        known += found
    raise ConfigError(
        f"unknown model {spec!r}: {_nearest(spec, known)}; or give file.py:function, or a bundle's directory"
    )


def _nearest(spec: str, known: Iterable[str]) -> str:
    """The nearest registered name, else the nearest of a library's thousands."""
    own = models.names()
    near = difflib.get_close_matches(spec, own, n=1, cutoff=0.7) or difflib.get_close_matches(spec, known, n=1)
    told = f"did you mean {near[0]!r}? " if near else ""
    return f"{told}(registered: {', '.join(own)}; all of timm and torchvision)"


# ---- functions in files ------------------------------------------------------------------------------------


def _from_file(path: Path, name: str) -> Callable[..., Any]:
    """A function or class of a Python file, which is run for it."""
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r}; give file.py:function with the path of a Python file")
    module = _imported(path)
    found = getattr(module, name, None)
    if not callable(found):
        made_here = [
            k for k, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__
        ]
        problem = "no function" if found is None else "something that is no function as"
        raise ConfigError(f"{str(path)!r} has {problem} {name!r}: {did_you_mean(name, made_here)}")
    return found  # type: ignore[no-any-return]


def _imported(path: Path) -> ModuleType:
    """A file as a module of its own; modules beside it can be imported by it."""
    name = f"_model_{path.stem}_{abs(hash(str(path.resolve()))):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{str(path)!r} cannot be imported; give a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _importable(path.resolve().parent):
        try:
            spec.loader.exec_module(module)
        except Exception as e:  # whatever the user's file does
            del sys.modules[name]
            raise ConfigError(f"{str(path)!r} cannot be imported: {_told(e, path)}") from e
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _told(error: Exception, path: Path) -> str:
    """What happened and in which line of the file."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path.resolve()]
    lines = lines or [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


def _called(spec: str, function: Callable[..., Any], shape: tuple[int, ...], classes: int) -> nn.Module:
    """What a function gives, called with those of our arguments that it names."""
    offered = {"input_shape": shape, "classes": classes, "num_classes": classes}
    parameters = inspect.signature(function).parameters.values()
    needed = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in offered
    ]
    if needed:
        raise ConfigError(
            f"model {spec!r} needs {', '.join(needed)}; only {', '.join(offered)} are given: set defaults"
        )
    try:
        made = function(**{p.name: offered[p.name] for p in parameters if p.name in offered})
    except ConfigError:
        raise
    except Exception as e:  # whatever the function does
        raise ConfigError(f"model {spec!r} cannot be made: {type(e).__name__}: {' '.join(str(e).split())}") from e
    if not isinstance(made, nn.Module):
        raise ConfigError(f"model {spec!r} gives {type(made).__name__}; a torch.nn.Module is needed")
    return made


# ---- libraries ---------------------------------------------------------------------------------------------


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ConfigError(f"models of {name} need the package (pip install {name}): {e}") from None


def _torchvision_names() -> list[str]:
    library = _library("torchvision.models")
    return list(library.list_models(module=library))


def _timm_names() -> list[str]:
    return list(_library("timm").list_models())


def _torchvision(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    library = _library("torchvision.models")
    if name not in (known := _torchvision_names()):
        raise ConfigError(f"unknown torchvision model {name!r}: {did_you_mean(name, known)}")
    if shape[0] != 3:
        raise ConfigError(f"models of torchvision take images of 3 channels, the data has {shape[0]}; take timm:NAME")
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    made: nn.Module = library.get_model(name, weights=None, num_classes=classes, **extra)
    return made


def _timm(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    library = _library("timm")
    if not library.is_model(name):
        raise ConfigError(f"unknown timm model {name!r}: {did_you_mean(name, library.list_models())}")
    sized = library.get_pretrained_cfg(name)
    extra = {"img_size": shape[1:]} if sized is not None and sized.fixed_input_size else {}
    try:
        made: nn.Module = library.create_model(name, pretrained=False, num_classes=classes, in_chans=shape[0], **extra)
    except (TypeError, ValueError, AssertionError, RuntimeError) as e:
        words = " ".join(str(e).split())
        raise ConfigError(f"timm cannot make {name!r} for images of {shape}: {words}; resize the images") from e
    return made


_LIBRARIES: dict[str, Callable[[str, tuple[int, ...], int], nn.Module]] = {"timm": _timm, "torchvision": _torchvision}


# ---- bundles -----------------------------------------------------------------------------------------------


def _bundle(directory: Path) -> nn.Module:
    """The network of an exported bundle, with its weights."""
    from ..graph import Graph
    from ..network import Network

    file = directory / "architecture.json"
    if not file.is_file():
        raise ConfigError(f"{str(directory)!r} is no bundle: it has no architecture.json; give a directory of export")
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
        network = Network(Graph.from_json(json.dumps(described["graph"])))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise SpaceError(f"bundle {str(directory)!r} is damaged ({e}); export the network again") from e
    load_weights(network, directory / "weights.safetensors", str(directory))
    return network


# ---- weights -----------------------------------------------------------------------------------------------


def load_weights(module: nn.Module, file: str | Path, name: str = "") -> None:
    """Fill a module from a file: safetensors, or a state dict that torch saved, alone or in a training checkpoint.

    Prefixes of DataParallel and torch.compile are dropped. Counters of batch norms may be missing; all else must fit.

    Args:
        name: what to call the module in messages.

    Raises:
        ConfigError: no such file, or one that holds no weights.
        SpaceError: weights of another architecture; the module is as it was.
    """
    path = Path(file)
    given = _stripped(_read(path))
    state = module.state_dict()
    missing = [k for k in state if k not in given and not k.endswith("num_batches_tracked")]
    unknown = [k for k in given if k not in state and not k.endswith("num_batches_tracked")]
    shapes = [
        f"{k} {tuple(given[k].shape)} instead of {tuple(state[k].shape)}"
        for k in state
        if k in given and given[k].shape != state[k].shape
    ]
    problems = [
        f"{len(names)} {words}: {_listed(names)}"
        for names, words in ((missing, "missing"), (unknown, "not of the model"), (shapes, "of another shape"))
        if names
    ]
    called = name or type(module).__name__
    if problems:
        raise SpaceError(
            f"the weights in {str(path)!r} are not of {called!r}: {'; '.join(problems)}; give the weights of this "
            "architecture, or the model that they belong to"
        )
    broken = [k for k, v in given.items() if v.is_floating_point() and not bool(v.isfinite().all())]
    if broken:
        raise SpaceError(f"the weights in {str(path)!r} hold numbers that are not finite: {_listed(broken)}")
    module.load_state_dict({k: given.get(k, v) for k, v in state.items()})


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _read(path: Path) -> Mapping[str, Any]:
    """The tensors of a file by name."""
    if not path.is_file():
        raise ConfigError(f"there is no file of weights {str(path)!r}; give a .safetensors file, or one of torch.save")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        import torch

        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # of formats of many kinds
        words = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise ConfigError(
            f"{str(path)!r} holds no weights that can be read safely ({words[:160]}); save them as "
            "safetensors, or with torch.save(model.state_dict(), FILE)"
        ) from None
    return _unwrapped(path, found)


def _unwrapped(path: Path, found: Any) -> Mapping[str, Any]:
    """The state dict in what torch loaded: itself, or under a usual key of a checkpoint."""
    candidates = [found]
    if isinstance(found, Mapping):
        candidates += [found[k] for k in _WRAPPED if k in found]
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate:
            tensors = {str(k): v for k, v in candidate.items() if isinstance(v, Tensor)}
            if len(tensors) == len(candidate):
                return tensors
    keys = ", ".join(map(str, list(found)[:6])) if isinstance(found, Mapping) else type(found).__name__
    raise ConfigError(
        f"{str(path)!r} holds no state dict (it has {keys}); save one with torch.save(model.state_dict())"
    )


def _stripped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            if state and all(k.startswith(prefix) for k in state):
                state = {k.removeprefix(prefix): v for k, v in state.items()}
    return dict(state)
