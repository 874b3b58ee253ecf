"""What a measurement holds for: processor, threads, runtime and batch, with a stable id, and where tables are kept.

Two machines share measured tables only where everything that sets their speed is equal, so all of it goes into the id.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from search_spaces.errors import ConfigError, did_you_mean

Runtime = Literal["torch", "onnxruntime"]
Device = Literal["cpu", "cuda"]
RUNTIMES = ("torch", "onnxruntime")
DEVICES = ("cpu", "cuda")
_VECTORS = ("avx512f", "avx2", "avx", "asimd", "neon")  # widest first, as /proc/cpuinfo spells them


@dataclass(frozen=True)
class DeviceProfile:
    """A device and how networks run on it. Made by `DeviceProfile.detect`, or read back from JSON.

    Attributes:
        processor: model of the processor, with its widest vector instructions (virtual machines hide the model).
        cores: its physical cores.
        threads: threads one inference uses.
        runtime: what runs the network: `torch` (eager) or `onnxruntime`.
        runtime_version: its version.
        device: `cpu` or `cuda`.
        accelerator: name of the GPU, empty on the CPU.
        batch: examples in one inference; latencies are of the whole batch.
        channels_last: memory layout of images and weights under torch; it is as given, never chosen by speed.
    """

    processor: str
    cores: int
    threads: int = 1
    runtime: Runtime = "torch"
    runtime_version: str = ""
    device: Device = "cpu"
    accelerator: str = ""
    batch: int = 1
    channels_last: bool = False

    def __post_init__(self) -> None:
        for name, value, allowed in (("runtime", self.runtime, RUNTIMES), ("device", self.device, DEVICES)):
            if value not in allowed:
                raise ConfigError(f"unknown {name} {value!r}: {did_you_mean(value, allowed)}")
        if self.threads < 1 or self.batch < 1:
            raise ConfigError(f"threads and batch must be at least 1; got {self.threads} and {self.batch}")
        if self.runtime == "onnxruntime" and (self.device != "cpu" or self.channels_last):
            raise ConfigError(
                "runtime 'onnxruntime' is measured on the cpu in its own layout; take runtime 'torch' for cuda "
                "or channels_last"
            )

    @classmethod
    def detect(
        cls,
        *,
        runtime: Runtime = "torch",
        device: Device = "cpu",
        threads: int = 1,
        batch: int = 1,
        channels_last: bool = False,
    ) -> DeviceProfile:
        """The profile of this machine.

        Raises:
            ConfigError: an unknown runtime or device, a runtime that is not installed, no GPU.
        """
        asked = cls("", 0, threads, runtime, "", device, "", batch, channels_last)  # checks the options first
        return cls(
            processor=_processor(),
            cores=_physical_cores(),
            threads=asked.threads,
            runtime=asked.runtime,
            runtime_version=_version(asked.runtime),
            device=asked.device,
            accelerator=_accelerator() if asked.device == "cuda" else "",
            batch=asked.batch,
            channels_last=asked.channels_last,
        )

    def require_here(self) -> None:
        """Raise `ConfigError` unless this machine and its installed runtime are the ones described."""
        here = DeviceProfile.detect(
            runtime=self.runtime,
            device=self.device,
            threads=self.threads,
            batch=self.batch,
            channels_last=self.channels_last,
        )
        if here != self:
            differing = [f.name for f in fields(self) if getattr(here, f.name) != getattr(self, f.name)]
            told = ", ".join(f"{n} {getattr(self, n)!r} against {getattr(here, n)!r} here" for n in differing)
            raise ConfigError(f"the profile is of another device ({told}); measure there, or use DeviceProfile.detect")

    @property
    def id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the profile's canonical JSON."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DeviceProfile:
        """Inverse of `to_dict`; raises `ConfigError` for anything else."""
        try:
            return cls(**data)
        except TypeError as e:
            raise ConfigError(f"not a device profile ({e}); expected what DeviceProfile.to_dict gives") from None

    def __str__(self) -> str:
        where = self.accelerator or f"{self.processor} ({self.cores} cores)"
        layout = ", channels last" if self.channels_last else ""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{where}, {threads}, {self.runtime} {self.runtime_version}, batch {self.batch}{layout}"


def cache_directory() -> Path:
    """Where measurements are kept between runs: `$NAS_ENGINE_CACHE`, else the user's cache directory."""
    if given := os.environ.get("NAS_ENGINE_CACHE"):
        return Path(given).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("nas-engine", appauthor=False))


@cache
def _processor() -> str:
    text = _cpuinfo()
    name = (
        _field(text, "model name") or _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()
    )
    family, model = _field(text, "cpu family"), _field(text, "model")
    if family and model:
        name += f" family {family} model {model}"
    flags = set((_field(text, "flags") or _field(text, "Features")).split())
    vectors = next((v for v in _VECTORS if v in flags), "")
    return f"{name} {vectors}".strip()


@cache
def _physical_cores() -> int:
    pairs = set()
    for block in _cpuinfo().split("\n\n"):
        package, core = _field(block, "physical id"), _field(block, "core id")
        if core:
            pairs.add((package, core))
    return len(pairs) or int(_sysctl("hw.physicalcpu") or 0) or os.cpu_count() or 1


@cache
def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.*)$", text, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _sysctl(name: str) -> str:
    if platform.system() != "Darwin":
        return ""
    done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _version(runtime: Runtime) -> str:
    for package in (runtime, f"{runtime}-gpu"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    raise ConfigError(f"runtime {runtime!r} is not installed; pip install {runtime}, or choose another of {RUNTIMES}")


def _accelerator() -> str:
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for, but torch finds no GPU; choose device 'cpu'")
    return str(torch.cuda.get_device_name())
