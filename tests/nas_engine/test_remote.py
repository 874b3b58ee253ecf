"""Runs under a URI: files that are whole or not there, working copies, leases, and what fails in one line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import FileSystem, LocalFileSystem, SubTreeFileSystem

from nas_engine import lease, remote, run
from nas_engine import store as store_module
from nas_engine.config import make_config
from nas_engine.lease import Lease
from nas_engine.remote import Mirror, NodeFiles
from nas_engine.run import RunDirectory
from nas_engine.store import Store
from search_spaces.errors import ConfigError, RunError

Write = Callable[..., None]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3 server in this process; gives what follows the question mark of its URIs."""
    moto = pytest.importorskip("moto.server", reason="moto, of the extra `dev`, is not installed")
    given = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        server.start()
        host, port = server.get_host_and_port()
        yield f"scheme=http&endpoint_override={host}:{port}"
        server.stop()


@pytest.fixture(params=["uri", "subtree", "mock", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The same over the file system of a URI, under another one, over one in memory, and over S3."""
    if request.param == "s3":
        query = request.getfixturevalue("s3")
        bucket = f"bucket{abs(hash(str(tmp_path)))}"
        FileSystem.from_uri(f"s3://{bucket}?allow_bucket_creation=true&{query}")[0].create_dir(bucket)
        return Store.open(f"s3://{bucket}/prefix/run?{query}")
    if request.param == "uri":
        return Store.open(f"file://{tmp_path}/bucket/run")
    if request.param == "subtree":
        return Store(SubTreeFileSystem(str(tmp_path), LocalFileSystem()), "bucket/run", "sub://bucket/run")
    from pyarrow._fs import _MockFileSystem

    return Store(_MockFileSystem(), "bucket/run", "mock://bucket/run")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of the working copy: `write("search/trials.jsonl", "text", copy="a")`."""

    def put(name: str, text: str, copy: str = "here") -> None:
        path = tmp_path / copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return put


@pytest.fixture
def mirror(store: Store, tmp_path: Path) -> Callable[..., Mirror]:
    def make(copy: str = "here") -> Mirror:
        (tmp_path / copy).mkdir(exist_ok=True)
        return Mirror(store, tmp_path / copy)

    return make


def files(folder: Path) -> dict[str, str]:
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != remote.INDEX)
    return {p.relative_to(folder).as_posix(): p.read_text() for p in found}


# ---- the place itself --------------------------------------------------------------------------------------------


def test_files_come_back_as_they_went(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    assert store.listing() == {}
    assert store.get("x/a", tmp_path / "b") is None
    assert store.read("x/a") is None
    stamp = store.put(tmp_path / "a", "x/a")
    assert stamp[0] == 3
    assert store.listing() == {"x/a": stamp}
    assert store.folders() == ["x"]
    assert store.get("x/a", tmp_path / "deep" / "b") == stamp
    assert (tmp_path / "deep" / "b").read_bytes() == b"one"
    store.write("y", b"two")
    assert store.read("y") == b"two"
    store.delete("y")
    store.delete("y")
    store.delete_folder("x")
    store.delete_folder("x")
    assert store.listing() == {}


def test_names_of_uris() -> None:
    assert store_module.is_uri("s3://bucket/a")
    assert not any(map(store_module.is_uri, ("results", "/data/x", "C:/x", Path("a"))))
    assert store_module.checked("s3://bucket/a/?region=x") == "s3://bucket/a?region=x"
    assert store_module.split("file:///data/one") == ("file:///data", "one")
    assert store_module.split("s3://bucket/one/") == ("s3://bucket", "one")
    config = make_config({"name": "one", "results": "s3://bucket/runs/"})
    assert config.uri == "s3://bucket/runs/one"
    assert config.directory == remote.working_copy("s3://bucket/runs", "one")
    assert make_config(config.model_dump(mode="json")) == config
    assert make_config({"results": "some/where"}).uri is None


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ("s3://key:secret@bucket/runs", "must not hold a password"),
        ("", "results is a directory or a URI"),
        (3, "results is a directory or a URI"),
    ],
)
def test_places_that_are_refused(results: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config({"results": results})


def test_a_bucket_that_is_none(s3: str, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(RunError, match="cannot write s3://none/run.*NO_SUCH_BUCKET.*check that the bucket") as raised:
        Store.open(f"s3://none/run?{s3}").put(tmp_path / "a", "a")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nonsense://bucket/runs", "cannot use nonsense://bucket/runs .*give a URI that pyarrow knows"),
        ("s3:///runs", "cannot use s3:///runs"),
    ],
)
def test_uris_that_cannot_be_used(uri: str, message: str) -> None:
    with pytest.raises(RunError, match=message) as raised:
        Store.open(uri)
    assert "\n" not in str(raised.value)


class Failing:
    """A filesystem that fails a number of times."""

    type_name = "s3"

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.times = error, times
        self.inner = LocalFileSystem()

    def get_file_info(self, what: Any) -> Any:
        self.times -= 1
        if self.times >= 0:
            raise self.error
        return self.inner.get_file_info(what)


def test_a_network_that_fails_for_a_moment_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    (tmp_path / "a").touch()
    error = OSError("When getting information: AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 28")
    filesystem: Any = Failing(error, 0)
    store = Store(filesystem, str(tmp_path), "s3://b/r")
    assert store.stamp("a") is not None
    filesystem.times = 3
    assert store.stamp("a") is not None
    filesystem.times = 99
    with pytest.raises(RunError, match="cannot read s3://b/r .*NETWORK_CONNECTION.*the credentials and the network"):
        store.stamp("a")
    assert filesystem.times == 99 - store_module._ATTEMPTS
    mistyped: Any = Failing(error, 99)
    with pytest.raises(RunError, match="NETWORK_CONNECTION"):
        Store(mistyped, str(tmp_path), "s3://b/r").stamp("a")
    assert mistyped.times == 98
    denied: Any = Failing(OSError("AWS Error ACCESS_DENIED during HeadObject operation: No response body."), 99)
    with pytest.raises(RunError, match="ACCESS_DENIED"):
        Store(denied, str(tmp_path), "s3://b/r").stamp("a")
    assert denied.times == 98, "asking again would not help"


# ---- working copies ----------------------------------------------------------------------------------------------


def test_another_copy_becomes_what_was_published(mirror: Any, write: Write, tmp_path: Path) -> None:
    write("config.yaml", "a")
    write("search/trials.jsonl", "1\n")
    write("search/optuna.journal", "made of the record")
    write("search/.trials.jsonl.1234.tmp", "half")
    write(".lock", "")
    first = mirror()
    first.publish()
    write("search/trials.jsonl", "1\n2\n")
    write("table/parts/0.parquet", "p")
    first.publish()
    (tmp_path / "here" / "table" / "parts" / "0.parquet").unlink()
    write("table/table.parquet", "t")
    first.publish()
    write("stale.json", "of a copy of before", copy="there")
    write("config.yaml", "changed here only", copy="there")
    mirror("there").pull()
    expected = {"config.yaml": "a", "search/trials.jsonl": "1\n2\n", "table/table.parquet": "t"}
    assert files(tmp_path / "there") == expected


def test_only_what_changed_travels(mirror: Any, write: Write, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    put: list[str] = []
    monkeypatch.setattr(store, "put", lambda local, name: put.append(name) or Store.put(store, local, name))
    one = mirror()
    for name in ("search/done.json", "a", "b"):
        write(name, name)
        time.sleep(0.01)
    one.publish()
    assert put == ["a", "b", "search/done.json"], "that a stage is done is told last"
    one.publish()
    write("b", "changed")
    mirror().publish()
    assert put[3:] == ["b"], "also in a later process"
    got: list[str] = []
    monkeypatch.setattr(store, "get", lambda name, local: got.append(name) or Store.get(store, name, local))
    mirror().pull()
    assert got == []


def test_what_may_wait_does_and_the_record_does_not(mirror: Any, write: Write, store: Store) -> None:
    one = mirror()
    write("sample/scores.jsonl", "1\n")
    one.publish(soon=False)
    write("sample/scores.jsonl", "1\n2\n")
    one.publish(soon=False)
    assert store.read("sample/scores.jsonl") == b"1\n"
    write("search/trials.jsonl", "1\n")
    one.publish(soon=False)
    assert store.read("search/trials.jsonl") == b"1\n"
    assert store.read("sample/scores.jsonl") == b"1\n2\n"


def test_checkpoints_of_workers_are_fetched_when_asked_for(
    mirror: Any, write: Write, store: Store, tmp_path: Path
) -> None:
    write("search/inputs.json", "{}")
    one = mirror()
    one.publish()
    write("0.pt", "epoch 1", copy="worker")
    store.put(tmp_path / "worker" / "0.pt", "search/trials/0000.pt")
    one.pull()
    assert not (tmp_path / "here" / "search" / "trials" / "0000.pt").exists()
    assert one.fetch("search/trials/0000.pt").read_text() == "epoch 1"
    write("0.pt", "the second epoch", copy="worker")
    store.put(tmp_path / "worker" / "0.pt", "search/trials/0000.pt")
    assert one.fetch("search/trials/0000.pt").read_text() == "the second epoch"
    one.publish()
    assert store.read("search/trials/0000.pt") == b"the second epoch"
    one.forget("search")
    assert store.listing() == {}


def test_a_stage_that_is_removed_is_removed_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_MIRRORS", {})
    directory = RunDirectory(tmp_path / "copy", f"file://{tmp_path}/bucket/run")
    directory.begin("supernet", {})
    directory.end("supernet", {}, 1.0)
    directory.begin("search", {})
    assert directory.mirror is not None
    checkpoint = tmp_path / "bucket" / "run" / "search" / "trials" / "0000.pt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    directory.remove("supernet")
    assert directory.mirror.store.listing() == {}
    assert not checkpoint.exists()


# ---- one driver at a time ----------------------------------------------------------------------------------------


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(lease, "RENEWAL_SECONDS", 0.05)
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.4)
    return


@pytest.mark.usefixtures("fast")
class TestLease:
    def test_a_holder_that_lives_is_left_alone(self, store: Store) -> None:
        holder = Lease(store, "first")
        holder.acquire()
        try:
            with pytest.raises(RunError, match=r"in use by process \d+ on .*--set name=NEW"):
                Lease(store, "second").acquire()
        finally:
            holder.release()
        assert store.read(remote.LEASE) is None

    def test_a_holder_that_died_is_waited_for_and_replaced(self, store: Store) -> None:
        store.write(remote.LEASE, json.dumps({"copy": "dead", "host": "far", "process": 1, "renewal": 7}).encode())
        told: list[str] = []
        started = time.monotonic()
        holder = Lease(store, "second")
        holder.acquire(told.append)
        holder.release()
        assert time.monotonic() - started >= 0.4
        assert "process 1 on far" in told[0]

    def test_one_of_the_same_copy_is_known_to_be_dead(self, store: Store) -> None:
        store.write(remote.LEASE, json.dumps({"copy": "mine", "host": "here", "process": 1, "renewal": 7}).encode())
        holder = Lease(store, "mine")
        started = time.monotonic()
        holder.acquire()
        holder.release()
        assert time.monotonic() - started < 0.4

    def test_one_that_was_taken_over_is_told(self, store: Store, mirror: Any, write: Write) -> None:
        holder = Lease(store, "first")
        holder.acquire()
        copy = mirror()
        copy.lost = holder.check
        copy.publish()
        other = json.dumps({"copy": "other", "host": "far", "process": 1}).encode()
        for _ in range(100):  # a renewal may be under way
            store.write(remote.LEASE, other)
            time.sleep(0.1)
            if not holder._thread.is_alive():
                break
        write("config.yaml", "late")
        with pytest.raises(RunError, match="was taken over by process 1 on far"):
            copy.publish()
        holder.release()
        assert store.read(remote.LEASE) is not None
        assert store.read("config.yaml") is None

    def test_a_damaged_lease_holds_nobody_up(self, store: Store) -> None:
        store.write(remote.LEASE, b"{")
        holder = Lease(store, "first")
        holder.acquire()
        holder.release()


def test_a_run_is_held_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_MIRRORS", {})
    monkeypatch.setattr(run, "_FETCH_SECONDS", 0.1)
    uri = f"file://{tmp_path}/bucket/run"
    here = RunDirectory(tmp_path / "copy", uri)
    with here.locked():
        assert here.in_use
        assert (tmp_path / "bucket" / "run" / remote.LEASE).exists()
        with (
            pytest.raises(RunError, match="is in use by another process"),
            RunDirectory(tmp_path / "copy", uri).locked(),
        ):
            pass
        (tmp_path / "copy" / "new.json").write_text("{}")
        RunDirectory(tmp_path / "copy", uri).refresh()
        assert (tmp_path / "copy" / "new.json").exists(), "a copy that is worked on is left alone"
        RunDirectory(tmp_path / "copy", uri).publish_beside()
        assert not (tmp_path / "bucket" / "run" / "new.json").exists()
    assert (tmp_path / "bucket" / "run" / "new.json").exists()
    assert not (tmp_path / "bucket" / "run" / remote.LEASE).exists()


# ---- workers on other nodes --------------------------------------------------------------------------------------


def test_a_worker_fetches_and_brings_back(tmp_path: Path) -> None:
    there = tmp_path / "bucket" / "run"
    (there / "predict" / "model").mkdir(parents=True)
    (there / "predict" / "model" / "predictor.json").write_text("{}")
    directory = tmp_path / "only" / "on" / "the" / "driver"
    worker = NodeFiles(directory, f"file://{there}")
    checkpoint = directory / "search" / "trials" / "0000.pt"
    here = worker.fetch(checkpoint)
    assert not here.exists()
    here.write_text("epoch 1")
    worker.push(checkpoint)
    assert (there / "search" / "trials" / "0000.pt").read_text() == "epoch 1"
    assert worker.fetch_folder(directory / "predict" / "model").joinpath("predictor.json").read_text() == "{}"
    other = NodeFiles(directory, f"file://{there}")
    assert other.fetch(checkpoint).read_text() == "epoch 1"
    other.fetch(checkpoint).write_text("epoch 2")
    other.push(checkpoint)
    assert worker.fetch(checkpoint).read_text() == "epoch 2", "a trial that comes back goes on where it is now"
    worker.drop(checkpoint)
    assert not here.exists()
    worker.delete(checkpoint)
    assert not other.fetch(checkpoint).exists()
    assert not directory.exists()


def test_a_directory_that_all_nodes_see_is_used_as_it_is(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path, None)
    path = tmp_path / "search" / "trials" / "0000.pt"
    assert files.fetch(path) == path
    files.push(path)
    assert files.fetch_folder(tmp_path / "predict") == tmp_path / "predict"


def test_the_schemes_of_pyarrow_are_known() -> None:
    """Against a release of pyarrow that loses one that the documentation names."""
    for uri in ("s3://bucket/run?region=us-east-1", "gs://anonymous@bucket/run", "file:///data/run"):
        assert isinstance(FileSystem.from_uri(uri)[0], FileSystem)
