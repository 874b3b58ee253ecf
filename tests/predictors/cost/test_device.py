"""Device profiles: their identity, their checks, and the cache directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from predictors.cost import DeviceProfile, cache_directory
from search_spaces.errors import ConfigError


def test_detect_describes_this_machine() -> None:
    profile = DeviceProfile.detect(threads=2, batch=4)
    assert profile.processor
    assert profile.cores >= 1
    assert profile.runtime_version.split("+")[0] == torch.__version__.split("+")[0]
    assert (profile.threads, profile.batch, profile.device, profile.accelerator) == (2, 4, "cpu", "")
    profile.require_here()


def test_the_id_is_stable_and_tells_profiles_apart() -> None:
    profile = DeviceProfile("Some CPU avx2", 4, 1, "torch", "2.11.0")
    assert profile.id == DeviceProfile.from_dict(profile.to_dict()).id == "dd0232719643c469"
    others = [
        replace(profile, processor="Some CPU avx512f"),
        replace(profile, threads=2),
        replace(profile, batch=8),
        replace(profile, runtime="onnxruntime"),
        replace(profile, runtime_version="2.12.0"),
        replace(profile, channels_last=True),
    ]
    assert len({profile.id, *(other.id for other in others)}) == 7


def test_a_profile_of_another_machine_is_refused() -> None:
    elsewhere = replace(DeviceProfile.detect(), processor="Some CPU", cores=96)
    with pytest.raises(ConfigError, match="processor 'Some CPU' against"):
        elsewhere.require_here()


def test_options_that_cannot_be_are_told() -> None:
    with pytest.raises(ConfigError, match="unknown runtime 'onnx': did you mean 'onnxruntime'"):
        DeviceProfile.detect(runtime="onnx")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        DeviceProfile.detect(device="gpu")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="threads and batch"):
        DeviceProfile.detect(threads=0)
    with pytest.raises(ConfigError, match="measured on the cpu in its own layout"):
        DeviceProfile.detect(runtime="onnxruntime", channels_last=True)
    with pytest.raises(ConfigError, match="not a device profile"):
        DeviceProfile.from_dict({"cpu": "x"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match="torch finds no GPU"):
        DeviceProfile.detect(device="cuda")


def test_the_cache_directory_can_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NAS_ENGINE_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("NAS_ENGINE_CACHE")
    assert cache_directory().name == "nas-engine"
