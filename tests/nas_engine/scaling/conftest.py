"""A small network of a user's, and requests that take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nas_engine.scaling.request import Request, make_request

NETS = '''
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    """A stem, two equal residual blocks, a head."""

    def __init__(self, input_shape=(3, 16, 16), classes=10):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(input_shape[0], 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.a1, self.na1 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.a2, self.na2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.b1, self.nb1 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.b2, self.nb2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.na2(self.a2(F.relu(self.na1(self.a1(x))))))
        x = F.relu(x + self.nb2(self.b2(F.relu(self.nb1(self.b1(x))))))
        return self.head(x.mean((2, 3)))


def plain(input_shape=(3, 16, 16), classes=10):
    """Nothing to repeat."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, classes),
    )


def pair(classes=10):
    return nn.Conv2d(3, classes, 3)
'''
QUICK: dict[str, Any] = {"grid": 3, "formats": [], "device": {"measure_seconds": 0.3}}


@pytest.fixture(scope="session")
def nets(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of networks."""
    path = tmp_path_factory.mktemp("scaled") / "nets.py"
    path.write_text(NETS)
    return str(path)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements of these tests, kept from one to the next and out of the user's."""
    monkeypatch.setenv("NAS_ENGINE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def quick(model: str, **more: Any) -> Request:
    return make_request({"model": model, **QUICK, **more})


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    """What must be the same however often a scaling was stopped."""
    rows = [{k: v for k, v in row.items() if k != "measured"} for row in report["members"]]
    return {"members": rows, **{key: report[key] for key in ("impossible", "rules", "to", "phi", "latency")}}


def named(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
