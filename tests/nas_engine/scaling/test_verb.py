"""`nas-engine scale` as people call it."""

import json
from pathlib import Path

from tests.nas_engine.commands import bad, good

QUICK = ("--set", "device.measure_seconds=0.3", "--set", "formats=[]", "--set", "grid=3", "--input", "3x16x16")


def line(nets: str, out: Path, *more: str) -> tuple[str, ...]:
    return ("scale", f"{nets}:Net", "--out", str(out), *QUICK, *more)


def test_the_page_shows_every_rule(nets: str, tmp_path: Path) -> None:
    page = good(*line(nets, tmp_path / "out", "--phi", "1", "--rule", "dwr", "--alpha", "1.3"))
    for words in ("base", "dwr phi 1", "compound phi 1", "depth phi 1", "MACs", "predicted", "measured", "took"):
        assert words in page
    assert f"dwr phi 1: {tmp_path / 'out' / 'members' / 'dwr-phi-1'}" in page
    assert f"page: {tmp_path / 'out' / 'scaling.html'}" in page
    assert (tmp_path / "out" / "scaling.html").exists()


def test_json_is_one_document(nets: str, tmp_path: Path) -> None:
    report = json.loads(good(*line(nets, tmp_path / "out", "--to", "macs=2x", "--classes", "3", "--json")))
    assert report["to"] == ["macs=2x"]
    assert report["classes"] == 3
    assert report["members"][1]["rule"] == "compound"


def test_bad_input_is_one_line(nets: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bad(2, "give either --to", *line(nets, out))
    bad(2, "did you mean 'width'", *line(nets, out, "--phi", "1", "--rule", "widht"))
    bad(2, "such as 3x224x224", "scale", f"{nets}:Net", "--phi", "1", "--input", "224")
    bad(2, "did you mean 'macs'", *line(nets, out, "--to", "mac=2x"))
    bad(2, "did you mean 'efficientnet_b0'", "scale", "eficientnet_b0", "--phi", "1")
    assert not out.exists()
    bad(4, "cannot be reached", *line(nets, out, "--to", "macs=10"))
