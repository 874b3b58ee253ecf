"""`nas-engine compress` as people call it."""

import json
from pathlib import Path

import pytest

from nas_engine.compress.asking import asked, directory
from nas_engine.compress.request import make_request
from search_spaces.errors import ConfigError
from tests.nas_engine.commands import bad, good
from tests.nas_engine.compress.conftest import Made

pytestmark = pytest.mark.usefixtures("quick_settings")
QUICK = ("--set", "device.measure_seconds=0.3", "--set", "formats=[]", "--set", "threads=1", "--set", "images=128")


def line(trained: Made, out: Path, *more: str) -> tuple[str, ...]:
    given = ("--weights", trained.weights, "--data", "digits", "--target", "macs=0.5x", "--out", str(out))
    return ("compress", trained.model, *given, *QUICK, *more)


def test_the_page_shows_before_and_after(trained: Made, tmp_path: Path) -> None:
    page = good(*line(trained, tmp_path / "out", "--finetune", "1", "--criterion", "magnitude"))
    for words in ("accuracy, test", "after the cut", "MACs", "latency, torch, batch 16", "points", "measured in turns"):
        assert words in page
    assert f"bundle:  {tmp_path / 'out' / 'bundle'}" in page
    assert "widths (multiples of" in page


def test_the_page_says_what_cannot_be_cut(tmp_path: Path) -> None:
    (tmp_path / "normed.py").write_text(NORMED)
    given = ("--data", "digits", "--target", "params=0.8x", "--criterion", "random", "--out", str(tmp_path / "out"))
    page = " ".join(good("compress", f"{tmp_path / 'normed.py'}:Normed", *given, *QUICK).split())
    assert "cannot be cut: the 8 channels of first: 'norm' normalises over channels" in page
    assert "last" not in page.partition("cannot be cut")[2].partition("choices:")[0]  # as every network's outputs stay


NORMED = """
from torch import nn


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 12, 3)
        self.last = nn.Linear(12, 10)

    def forward(self, x):
        return self.last(self.second(self.norm(self.first(x))).mean((2, 3)))
"""


def test_json_is_one_document(trained: Made, tmp_path: Path) -> None:
    report = json.loads(good(*line(trained, tmp_path / "out", "--schedule", "one_shot", "--json")))
    assert report["targets"] == ["macs=0.5x"]
    assert set(report["accuracy"]) == {"before", "after"}


def test_bad_input_is_one_line(trained: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = trained.model.partition(":")[0]
    bad(2, "did you mean 'taylor'", *line(trained, out, "--criterion", "tailor"))
    bad(2, "give --target", "compress", trained.model, "--data", "digits")
    bad(2, "give --data", "compress", trained.model, "--target", "macs=0.5x")
    bad(3, "unknown", "compress", trained.model, "--data", "digit", "--target", "macs=0.5x", "--out", str(out))
    bad(1, "nets.py:.*torch.where", "compress", f"{file}:Undecided", *line(trained, out)[2:4], *line(trained, out)[4:])
    bad(4, "cannot be reached: the lowest macs", *line(trained, out, "--target", "macs=0.001x"))


def test_lists_of_what_can_be_named() -> None:
    assert "taylor" in good("list", "criteria")
    assert "geometric" in good("list", "schedules")
    assert "resnet56" in good("list", "models")
    assert "uniform" in good("list", "allocations")


def test_a_directory_of_its_own() -> None:
    given = asked("nets/mine.py:make net", data="digits", targets=["macs=0.5x", "params=1e5"], criterion="chip")
    expected = "results/compressed/make-net-chip-macs=0.5x-params=100000"
    assert directory(make_request(given), None) == Path(expected)
    with pytest.raises(ConfigError, match="give --data"):
        asked("resnet20", targets=["macs=0.5x"])
