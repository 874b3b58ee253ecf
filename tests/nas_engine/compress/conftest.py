"""A small trained network in a file of its own, as users bring theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

NETS = '''
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    """A stem, two residual blocks, a head."""

    def __init__(self, input_shape=(1, 8, 8), classes=10):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(input_shape[0], 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.a1, self.na1 = nn.Conv2d(16, 20, 3, padding=1, bias=False), nn.BatchNorm2d(20)
        self.a2, self.na2 = nn.Conv2d(20, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.b1, self.nb1 = nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.b2, self.nb2 = nn.Conv2d(32, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.na2(self.a2(F.relu(self.na1(self.a1(x))))))
        x = F.relu(x + self.nb2(self.b2(F.relu(self.nb1(self.b1(x))))))
        return self.head(x.mean((2, 3)))


class Undecided(Net):
    def forward(self, x):
        if x.mean() > 0:
            x = -x
        return super().forward(x)


class Wrapped(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.inner, self.flip = Net(classes=classes), Flip()

    def forward(self, x):
        return self.inner(self.flip(x))


class Flip(nn.Module):
    def forward(self, x):
        return -x if x.mean() > 0 else x


def narrow(classes=10):
    return nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(36, classes))
'''


@dataclass(frozen=True)
class Made:
    """Paths of a model and its weights, and the sections of a request for a quick compression of it."""

    model: str
    weights: str

    def request(self, **more: Any) -> dict[str, Any]:
        quick = {"device": {"measure_seconds": 0.3}, "formats": [], "threads": 1, "images": 256}
        return {
            "model": self.model,
            "weights": self.weights,
            "data": {"source": "digits"},
            "targets": ["macs=0.5x"],
            **quick,
            **more,
        }


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Made:
    from nas_engine.config import Optimizer
    from nas_engine.data import load_data
    from nas_engine.train import NetworkProgram, train
    from search_spaces.models import load_model

    folder = tmp_path_factory.mktemp("model")
    (folder / "nets.py").write_text(NETS)
    model, weights = f"{folder}/nets.py:Net", folder / "net.safetensors"
    torch.manual_seed(0)
    module = load_model(model, input_shape=(1, 8, 8))
    for _ in train(NetworkProgram(module), load_data("digits"), Optimizer(), epochs=4, seed=0):
        pass
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, weights)
    return Made(model, str(weights))


@pytest.fixture
def quick_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency of single images under torch alone, as exports to ONNX take seconds."""
    from nas_engine.compress import verdict

    monkeypatch.setattr(verdict, "SETTINGS", verdict.SETTINGS[:2])
