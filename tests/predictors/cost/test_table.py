"""The operator table on disk: kept, merged, checked; and times freed from the state of the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from predictors.cost import DeviceProfile, OperatorTable
from predictors.cost.table import empty_graph, reference_graphs, unit_key
from predictors.cost.units import unit_graph
from search_spaces import Graph, Signature
from search_spaces.errors import DataError
from tests.predictors.cost.synthetic import SyntheticDevice, additive_ms

PROFILE = DeviceProfile("Some CPU", 4, 1, "torch", "2.11.0")


def block(channels: int = 8) -> Signature:
    return Signature.named("inverted_residual", {"out_channels": channels}, ((channels, 8, 8),))


def batch(*channels: int) -> dict[str, tuple[str, Graph]]:
    return {unit_key(block(c)): (repr(block(c)), unit_graph(block(c))) for c in channels}


def test_measurements_outlive_the_table(tmp_path: Path) -> None:
    table = OperatorTable.of(PROFILE, tmp_path)
    table.measure(batch(8, 16), SyntheticDevice(), 0.1)
    table.save()
    again = OperatorTable.of(PROFILE, tmp_path)
    assert sorted(again) == sorted(table)
    assert len(again) == 2
    key = unit_key(block())
    assert again[key] == table[key]
    assert again.latency_ms(key) == pytest.approx(additive_ms(unit_graph(block())), rel=1e-6)
    assert "inverted_residual" in key
    assert again[key].what.startswith("InvertedResidual")


def test_two_tables_of_one_device_do_not_lose_each_others_measurements(tmp_path: Path) -> None:
    one, two = OperatorTable.of(PROFILE, tmp_path), OperatorTable.of(PROFILE, tmp_path)
    one.measure(batch(8), SyntheticDevice(), 0.1)
    two.measure(batch(16), SyntheticDevice(), 0.1)
    one.save()
    two.save()
    assert unit_key(block(8)) in two  # what the other process wrote is known after saving
    assert len(OperatorTable.of(PROFILE, tmp_path)) == 2


SAVE_MANY = """
import sys
from pathlib import Path
from predictors.cost import OperatorTable
from tests.predictors.cost.synthetic import SyntheticDevice
from tests.predictors.cost.test_table import PROFILE, batch
table = OperatorTable.of(PROFILE, Path(sys.argv[1]))
for i in range(10):
    table.measure(batch(8 * int(sys.argv[2]) + 80 * i), SyntheticDevice(), 0.1)
    table.save()
"""


def test_processes_that_save_at_once_lose_nothing(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    started = [
        subprocess.Popen([sys.executable, "-c", SAVE_MANY, str(tmp_path), str(i + 1)], cwd=root) for i in range(3)
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0, 0]
    assert len(OperatorTable.of(PROFILE, tmp_path)) == 30
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_busy_machine_is_told_from_a_slow_operator(tmp_path: Path) -> None:
    table = OperatorTable.of(PROFILE, tmp_path)
    device = SyntheticDevice(slowdown=lambda number: 1.5 if number % 2 else 1.0)
    for channels in range(8, 88, 8):
        table.measure(batch(channels), device, 0.1)
    for channels in range(8, 88, 8):
        true = additive_ms(unit_graph(block(channels)))
        assert table.latency_ms(unit_key(block(channels))) == pytest.approx(true, rel=1e-6)
    busy = table[unit_key(block(16))]
    assert busy.low_ms == pytest.approx(1.5 * additive_ms(unit_graph(block(16))), rel=1e-6)


def test_references_span_short_and_long_calls() -> None:
    times = [additive_ms(graph) for graph in reference_graphs()]
    assert times == sorted(times)
    assert times[-1] > 50 * times[0]
    assert additive_ms(empty_graph()) == 0.002  # nothing runs


def test_a_key_changes_with_what_a_block_means(monkeypatch: pytest.MonkeyPatch) -> None:
    before = unit_key(block())
    changed = Signature.named("inverted_residual", {"out_channels": 8, "expansion": 6}, ((8, 8, 8),))
    assert unit_key(changed) != before
    assert unit_key(Signature(block().operator, block().inputs)) == before  # by meaning, not by object


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 2, "profile": {}, "entries": {}}'])
def test_a_damaged_table_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "latency" / f"{PROFILE.id}.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(DataError, match="operator table .* delete it"):
        OperatorTable.of(PROFILE, tmp_path)
