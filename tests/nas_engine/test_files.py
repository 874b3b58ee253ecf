"""Files that survive a kill: atomic replacement, and records with a torn last line."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nas_engine.files import Record, read_json, read_torch, replacing, write_json, write_lines, write_text, write_torch
from search_spaces.errors import RunError


def test_json_round_trip_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.json"
    write_json(path, {"x": [1, 2.5, None], "ü": "é"})
    assert read_json(path) == {"x": [1, 2.5, None], "ü": "é"}
    assert [p.name for p in path.parent.iterdir()] == ["c.json"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_are_as_readable_as_the_user_makes_them(tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("x")
    write_text(tmp_path / "ours.txt", "x")
    assert stat.S_IMODE((tmp_path / "ours.txt").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"cannot write .*file/x\.json"):
        write_json(tmp_path / "file" / "x.json", {})
    with pytest.raises(RunError, match="cannot write"):
        Record(tmp_path / "file" / "x.jsonl").append({})


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device; free space"):
        Record(tmp_path / "r.jsonl").append({"x": 1})
    with pytest.raises(RunError, match="No space left on device; free space"):
        write_json(tmp_path / "a.json", {})
    assert not (tmp_path / "a.json").exists()


def test_missing_and_damaged_json_say_which_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no file .*gone\.json"):
        read_json(tmp_path / "gone.json")
    (tmp_path / "torn.json").write_text('{"x": ')
    with pytest.raises(RunError, match=r"torn\.json is damaged"):
        read_json(tmp_path / "torn.json")


def test_torch_files_execute_nothing(tmp_path: Path) -> None:
    import torch

    write_torch(tmp_path / "a.pt", {"w": torch.arange(3), "epoch": 2})
    state = read_torch(tmp_path / "a.pt")
    assert state["epoch"] == 2
    assert torch.equal(state["w"], torch.arange(3))
    torch.save({"path": Path("x")}, tmp_path / "object.pt")  # pickled objects are not read
    with pytest.raises(RunError, match=r"object\.pt is damaged"):
        read_torch(tmp_path / "object.pt")
    with pytest.raises(FileNotFoundError):
        read_torch(tmp_path / "gone.pt")


def test_record_appends_and_reads(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "r.jsonl"
    record = Record(path)
    assert record.rows == []
    for i in range(3):
        record.append({"i": i})
    assert record.rows == Record(path).rows == [{"i": 0}, {"i": 1}, {"i": 2}]
    write_lines(path, [{"i": 9}])
    assert Record(path).rows == [{"i": 9}]


def test_a_torn_line_is_neither_read_nor_kept_once_a_row_is_added(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"i":0}\n{"i":1')
    record = Record(path)
    assert record.rows == [{"i": 0}]
    assert path.read_text().endswith('{"i":1'), "reading must change nothing: another process may be writing"
    record.append({"i": 2})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"i": 0}, {"i": 2}]
    path.write_text('{"i"')
    Record(path).append({"i": 3})
    assert path.read_text() == '{"i":3}\n'


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"i":0}\n\x00\x00\n{"i":2}\n')
    with pytest.raises(RunError, match=r"r\.jsonl, line 2 is damaged"):
        Record(tmp_path / "r.jsonl")


def test_rows_are_on_the_disk_when_the_process_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal\n"
        "from nas_engine.files import Record\n"
        f"record = Record(pathlib.Path({str(tmp_path / 'r.jsonl')!r}))\n"
        "for i in range(5): record.append({'i': i})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=False, cwd=os.getcwd())
    assert Record(tmp_path / "r.jsonl").rows == [{"i": i} for i in range(5)]
