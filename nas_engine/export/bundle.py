"""Writing a bundle: all of its forms verified, or none of it there.

Everything is written into a hidden directory beside the bundle and renamed when the last form has passed. A bundle
whose `verification.json` bears the same key and whose files still have their hashes is kept as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.errors import ExportError, GraphError
from search_spaces.graph import Graph

from .base import Exporter, exporters, refused
from .card import Card, card_text
from .inputs import Port
from .original import Original, make_original

if TYPE_CHECKING:
    from torch import Tensor

    from search_spaces import Architecture, Network
    from search_spaces.inputs import GraphInput

TOLERANCE = 1e-4
"""Largest allowed difference of a logit, as a share of the largest logit (or of 1, where that is smaller)."""

FORMATS = ("model.py", "torch_export", "onnx")
WEIGHTS, ARCHITECTURE, CARD, VERIFICATION = "weights.safetensors", "architecture.json", "card.md", "verification.json"


@dataclass(frozen=True)
class BundleReport:
    """A bundle's directory and how far its forms are from the network.

    Attributes:
        path: the directory.
        differences: largest absolute difference of an output number, by form.
        relative: the same as a share of the network's largest output number.
        images: number of images that the forms were compared on; nodes, where they take graphs.
        kept: the bundle was there already and was left as it is.
    """

    path: Path
    differences: dict[str, float]
    relative: dict[str, float]
    images: int
    kept: bool = False


def export_bundle(
    network: Network,
    directory: Path,
    *,
    samples: Tensor | GraphInput,
    card: Card,
    architecture: Architecture | None = None,
    formats: Sequence[str] = FORMATS,
) -> BundleReport:
    """Write a network as a bundle, or keep the complete bundle of these weights that is there already.

    The bundle holds float32 weights, parametrisations computed. The network itself is not changed.

    Args:
        samples: `(N, C, H, W)` real images as the network expects them, N >= 2; every form is run on all of them
            as one batch and on the first alone. Or a real graph, and every form is run on it and on one of half its
            nodes and edges.
        formats: names of `exporters`.

    Raises:
        ExportError: a form does not reproduce the network, or cannot be written; nothing is left behind. Also a
            directory that holds something else.
    """
    chosen = {name: exporters[name]() for name in formats}
    for name, reason in refused(formats, network.graph).items():
        raise ExportError(f"form {name!r} cannot hold this network: {reason}; leave it out of the formats")
    original = make_original(network, samples)
    key = _key(original, architecture, card)
    kept = _complete(directory, key, formats)
    partial = directory.with_name(f".{directory.name}.partial")
    try:
        if kept is not None:
            _write_card(directory, original, card, _read(directory / VERIFICATION))
            return kept
        _refuse_foreign(directory)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(original, partial, card, architecture, chosen, key)
        _swap(partial, directory)
    except OSError as e:
        raise ExportError(
            f"cannot write bundle {directory}: {e.strerror or e}; free space or give another directory"
        ) from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _report(directory, _read(directory / VERIFICATION))


def load_bundle(directory: Path) -> Network:
    """The network of a bundle, in evaluation mode, from `architecture.json` and `weights.safetensors` alone.

    Raises:
        ExportError: the directory holds no bundle, or a damaged one.
        GraphError: the network has parts of operator `other`; load another form.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from search_spaces import Network

    try:
        described = json.loads((directory / ARCHITECTURE).read_text(encoding="utf-8"))
        network = Network(Graph.from_json(json.dumps(described["graph"])))
        network.load_state_dict(load_file(directory / WEIGHTS))
    except OSError as e:
        raise ExportError(f"{directory} is no bundle: {e.strerror}; give a directory that export_bundle wrote") from e
    except (KeyError, ValueError, RuntimeError, SafetensorError) as e:
        raise ExportError(f"bundle {directory} is damaged ({_first_line(e)}); export the network again") from e
    return network.eval()


# ---- writing ---------------------------------------------------------------------------------------------


def _write(
    original: Original,
    directory: Path,
    card: Card,
    architecture: Architecture | None,
    chosen: Mapping[str, Exporter],
    key: str,
) -> None:
    from safetensors.torch import save

    network = original.network
    state = {k: v.detach().clone().contiguous() for k, v in network.state_dict().items()}
    (directory / WEIGHTS).write_bytes(save(state, {"format": "pt"}))
    (directory / ARCHITECTURE).write_text(_described(original, architecture, card), encoding="utf-8")
    rebuilt = _rebuilt(original, directory)
    gaps = {name: _verify(exporter, original, directory, card) for name, exporter in chosen.items()}
    verification = {
        "key": key,
        "weights_sha256": _sha256((directory / WEIGHTS).read_bytes()),
        "images": _cases(original.batches[0]),
        "shapes": [
            {port.name: list(t.shape) for port, t in zip(original.ports, batch, strict=True)}
            for batch in original.batches
        ],
        "tolerance": TOLERANCE,
        "largest_output": original.scale,
        "differences": gaps,
        "relative": {name: gap / original.scale if original.scale else gap for name, gap in gaps.items()},
        "rebuilt_from_json": rebuilt,
        "files": {
            p.name: {"bytes": p.stat().st_size, "sha256": _sha256(p.read_bytes())} for p in sorted(directory.iterdir())
        },
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxruntime", "safetensors")},
    }
    _write_card(directory, original, card, verification)
    (directory / VERIFICATION).write_text(json.dumps(verification, indent=1) + "\n", encoding="utf-8")
    for path in directory.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _verify(exporter: Exporter, original: Original, directory: Path, card: Card) -> float:
    """Write one form, load it again, and give its largest difference; its file is removed where it fails."""
    try:
        with _quiet():
            exporter.write(original.network, original.batches[0], card, directory)
            return _gap(f"form {exporter.name!r}", exporter.run(directory, original.batches), original)
    except BaseException as e:
        (directory / exporter.file).unlink(missing_ok=True)
        if isinstance(e, ExportError | OSError) or not isinstance(e, Exception):
            raise
        raise ExportError(
            f"form {exporter.name!r} cannot be made: {_first_line(e)}; leave it out of the formats, or mend the network"
        ) from e


def _gap(what: str, got: Sequence[Tensor], original: Original) -> float:
    """Largest difference from the original over all batches.

    Raises:
        ExportError: it exceeds the tolerance, or shapes differ.
    """
    worst = 0.0
    for found, wanted in zip(got, original.outputs, strict=True):
        if found.shape != wanted.shape:
            raise ExportError(f"{what} gives shape {tuple(found.shape)} instead of {tuple(wanted.shape)}; not exported")
        gap = float((found.double() - wanted.double()).abs().max())
        allowed = TOLERANCE * max(1.0, original.scale)
        if not gap <= allowed:
            raise ExportError(
                f"{what} differs from the network by {gap:.2e}, allowed is {allowed:.2e}; it is not exported"
            )
        worst = max(worst, gap)
    return worst


def _rebuilt(original: Original, directory: Path) -> float | None:
    """The difference of the network rebuilt from JSON and weights; None where it has parts that JSON cannot hold."""
    import torch

    try:
        network = load_bundle(directory)
    except GraphError:
        if any(n.operator == "other" for n in original.network.graph.simplify().nodes):
            return None
        raise
    with torch.inference_mode():
        return _gap("the network rebuilt from JSON", [network(*b) for b in original.batches], original)


def _cases(batch: Sequence[Tensor]) -> int:
    """Images, or the nodes of a graph, which are what is classified."""
    return len(batch[0]) if len(batch) == 1 else batch[0].shape[1]


def _described(original: Original, architecture: Architecture | None, card: Card) -> str:
    graph = original.network.graph
    described: dict[str, Any] = {
        "id": architecture.id if architecture is not None else graph.id,
        "architecture": json.loads(architecture.to_json()) if architecture is not None else None,
        "inputs": [_port(port) for port in original.ports],
        "output": {"name": "logits", "shape": list(graph[graph.outputs[0]].shape)},
        "classes": [str(c) for c in card.classes],
        "mean": list(card.mean),
        "std": list(card.std),
        "graph": json.loads(graph.to_json()),
    }
    return json.dumps(described, indent=1) + "\n"


def _port(port: Port) -> dict[str, Any]:
    free = {str(axis): name for axis, name in port.free.items()}  # of (batch, *shape)
    return {"name": port.name, "dtype": port.dtype, "shape": list(port.shape), "free": free}


def _write_card(directory: Path, original: Original, card: Card, verification: Mapping[str, Any]) -> None:
    """Write `card.md` unless it reads the same already; figures on it may be newer than the bundle."""
    path = directory / CARD
    forms = {name: exporters[name] for name in verification["differences"]}
    text = card_text(card, original.network.graph, original.ports, forms, verification)
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    temporary = directory / f".{CARD}.tmp"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _swap(partial: Path, directory: Path) -> None:
    """Put the new bundle in the place of an older one, which stays until the new one is there."""
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    try:
        partial.rename(directory)
    except OSError:
        if old.exists():
            old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)


# ---- what is there already -------------------------------------------------------------------------------


def _key(original: Original, architecture: Architecture | None, card: Card) -> str:
    """Hash of all that a bundle is made from, but for the figures on its card."""
    told = [card.name, card.data, list(map(str, card.classes)), list(map(float, (*card.mean, *card.std)))]
    parts = [original.network.graph.to_json(), architecture.to_json() if architecture else "", json.dumps(told)]
    digest = hashlib.sha256("\n".join(parts).encode())
    for name, tensor in sorted(original.network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _complete(directory: Path, key: str, formats: Sequence[str]) -> BundleReport | None:
    """The report of a bundle of this key and these forms whose files are whole."""
    try:
        found = _read(directory / VERIFICATION)
        if found["key"] != key or set(found["differences"]) != set(formats):
            return None
        if any(_sha256((directory / name).read_bytes()) != f["sha256"] for name, f in found["files"].items()):
            return None
        return _report(directory, found, kept=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _report(directory: Path, found: Mapping[str, Any], kept: bool = False) -> BundleReport:
    return BundleReport(directory, dict(found["differences"]), dict(found["relative"]), int(found["images"]), kept)


def _refuse_foreign(directory: Path) -> None:
    """Only an empty directory or a bundle may be replaced."""
    if not directory.exists():
        return
    if not directory.is_dir() or (any(directory.iterdir()) and not (directory / VERIFICATION).exists()):
        raise ExportError(f"{directory} exists and is no bundle, so it is not replaced; give another directory")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _first_line(error: BaseException) -> str:
    """What went wrong first, on one line; exporters wrap it in advice of several lines, some of it coloured."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's and onnx's exporters from warning."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
