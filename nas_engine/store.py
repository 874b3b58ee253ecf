"""A place under a URI, by whatever file system of pyarrow opens it: names, and files that are whole or not there."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from search_spaces.errors import RunError

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

T = TypeVar("T")
Stamp = tuple[int, int]
"""Size in bytes and time of the last change in nanoseconds."""

_ATTEMPTS = 5
_LONGEST_REASON = 240
_OBJECT_STORES = ("s3", "gcs", "abfs")  # an object is there once it is whole; elsewhere a rename makes it so


# ---- names -------------------------------------------------------------------------------------------------


def is_uri(value: object) -> bool:
    """Whether a place is named by a URI such as `s3://bucket/prefix`."""
    return re.match(r"[a-z][a-z0-9+.-]*://", str(value), re.IGNORECASE) is not None


def checked(uri: str) -> str:
    """A URI without a slash at its end.

    Raises:
        ValueError: it has a password in it, which would be written into the run's configuration.
    """
    if urlsplit(uri).password is not None:
        raise ValueError(
            "a URI is written into the configuration of its run and must not hold a password; give credentials by "
            "environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    path, mark, query = uri.partition("?")
    return (path if path.endswith("://") else path.rstrip("/")) + mark + query


def join(uri: str, name: str) -> str:
    """The URI of something in the folder of a URI; a query stays at the end.

    >>> join("s3://bucket/runs?region=eu-central-1", "first")
    's3://bucket/runs/first?region=eu-central-1'
    """
    path, mark, query = uri.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def split(uri: str) -> tuple[str, str]:
    """The folder of a URI and the name in it.

    >>> split("s3://bucket/runs/first?region=eu-central-1")
    ('s3://bucket/runs?region=eu-central-1', 'first')
    """
    path, mark, query = checked(uri).partition("?")
    folder, _, name = path.rpartition("/")
    return folder + ("/" if folder.endswith(("/", ":")) else "") + mark + query, name


# ---- the place itself --------------------------------------------------------------------------------------


class Store:
    """The files of a run under a URI, by names such as `search/trials.jsonl`. A file there is old or new, never part.

    Args:
        filesystem: of pyarrow.
        root: the run's folder in it.
        uri: for messages.
    """

    def __init__(self, filesystem: FileSystem, root: str, uri: str) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self.uri = uri
        base = filesystem
        while base.type_name == "subtree":
            base = base.base_fs
        self._objects = base.type_name in _OBJECT_STORES
        self._reached = False

    @classmethod
    def open(cls, uri: str) -> Store:
        """The place that a URI names.

        Raises:
            RunError: pyarrow knows no such scheme, or cannot use it.
        """
        from pyarrow import ArrowException
        from pyarrow.fs import FileSystem

        try:
            filesystem, root = FileSystem.from_uri(uri)
            return cls(filesystem, root, uri)
        except (ArrowException, OSError, ValueError) as e:
            raise RunError(
                f"cannot use {uri} ({_reason(e)}); give a URI that pyarrow knows, such as s3://bucket/prefix, "
                "gs://bucket/prefix, hdfs://host/prefix or file:///directory, or a path"
            ) from None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def listing(self) -> dict[str, Stamp]:
        """All files by name."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self._root, recursive=True, allow_not_found=True)
        with self._told("read"):
            found = self._filesystem.get_file_info(selector)
        files = (info for info in found if info.type == FileType.File)
        return {str(PurePosixPath(info.path).relative_to(self._root)): _stamp_of(info) for info in files}

    def folders(self) -> list[str]:
        """Names of the folders right under it."""
        from pyarrow.fs import FileSelector, FileType

        with self._told("read"):
            found = self._filesystem.get_file_info(FileSelector(self._root, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == FileType.Directory)

    def stamp(self, name: str) -> Stamp | None:
        """Size and time of a file, None where there is none."""
        from pyarrow.fs import FileType

        with self._told("read"):
            info = self._retried(lambda: self._filesystem.get_file_info(self._path(name)))
        return _stamp_of(info) if info.type == FileType.File else None

    def put(self, local: Path, name: str) -> Stamp:
        """Copy a file there; it takes the place of an older one at once or not at all."""
        with self._told("write"):
            self._retried(lambda: self._put(local, self._path(name)))
        stamp = self.stamp(name)
        return stamp or (0, 0)

    def _put(self, local: Path, path: str) -> None:
        from pyarrow.fs import LocalFileSystem, copy_files

        target = path if self._objects else f"{path}.{secrets.token_hex(4)}.tmp"
        if not self._objects:
            self._filesystem.create_dir(str(PurePosixPath(path).parent), recursive=True)
        source = LocalFileSystem()
        copy_files(
            str(local), target, source_filesystem=source, destination_filesystem=self._filesystem, use_threads=False
        )
        if not self._objects:
            self._filesystem.move(target, path)

    def get(self, name: str, local: Path) -> Stamp | None:
        """Copy a file from there, atomically; None where there is none (any more)."""
        from pyarrow.fs import LocalFileSystem, copy_files

        stamp = self.stamp(name)
        if stamp is None:
            return None
        local.parent.mkdir(parents=True, exist_ok=True)
        temporary = local.with_name(f".{local.name}.{secrets.token_hex(4)}.tmp")
        target = LocalFileSystem()
        try:
            with self._told("read"):
                self._retried(
                    lambda: copy_files(
                        self._path(name),
                        str(temporary),
                        source_filesystem=self._filesystem,
                        destination_filesystem=target,
                        use_threads=False,
                    )
                )
            temporary.replace(local)
        except FileNotFoundError:
            return None
        finally:
            temporary.unlink(missing_ok=True)
        return stamp

    def read(self, name: str) -> bytes | None:
        """The content of a small file, None where there is none."""
        with self._told("read"):
            try:
                with self._filesystem.open_input_stream(self._path(name)) as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        path = self._path(name)
        with self._told("write"):
            target = path if self._objects else f"{path}.{secrets.token_hex(4)}.tmp"
            if not self._objects:
                self._filesystem.create_dir(self._root, recursive=True)
            with self._filesystem.open_output_stream(target) as file:
                file.write(content)
            if not self._objects:
                self._filesystem.move(target, path)

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        with self._told("write"), suppress(FileNotFoundError):
            if self.stamp(name) is not None:
                self._retried(lambda: self._filesystem.delete_file(self._path(name)))

    def delete_folder(self, name: str) -> None:
        """Remove a folder with all that is in it; one that is not there is no error."""
        with self._told("write"), suppress(FileNotFoundError):
            self._filesystem.delete_dir(self._path(name))

    def _retried(self, action: Callable[[], T]) -> T:
        """An action, repeated where the network fails for a moment; a place never reached is more likely mistyped."""
        attempts = _ATTEMPTS if self._reached else 1
        for attempt in range(attempts):
            try:
                result = action()
            except (FileNotFoundError, PermissionError):
                raise
            except OSError as e:
                if attempt == attempts - 1 or e.errno is not None or _is_final(str(e)):
                    raise
            else:
                self._reached = True
                return result
            time.sleep(0.5 * 2**attempt)
        raise AssertionError("the loop returns or raises")

    @contextmanager
    def _told(self, verb: str) -> Iterator[None]:
        """What goes wrong within the block as one line; a file that is missing stays what it is."""
        from pyarrow import ArrowException

        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, ArrowException) as e:
            raise RunError(
                f"cannot {verb} {self.uri} ({_reason(e)}); check that the bucket or host exists, the credentials and "
                "the network, and start again"
            ) from None


def _is_final(message: str) -> bool:
    """Whether an object store's error comes again however often it is asked."""
    return any(word in message for word in ("NO_SUCH_BUCKET", "ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE"))


def _reason(error: BaseException) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _LONGEST_REASON else words[: _LONGEST_REASON - 3] + "..."


def _stamp_of(info: FileInfo) -> Stamp:
    return int(info.size), int(info.mtime_ns or 0)
