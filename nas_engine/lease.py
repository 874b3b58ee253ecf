"""One driver a run under a URI, as far as object stores allow: a lease that its holder renews and others watch.

No clocks are compared: whoever finds a lease watches for a while whether it is renewed. A holder whose lease was taken
over all the same, after its network was gone for long, finds that out before it writes again.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import threading
import time
from collections.abc import Callable
from typing import Any

from search_spaces.errors import RunError

from .remote import LEASE
from .store import Store

RENEWAL_SECONDS = 5.0
PATIENCE_SECONDS = 20.0  # without a renewal, after which a holder counts as dead


def _silent(text: str) -> None:
    """Tells nobody."""


class Lease:
    """Holds a run at its URI for this process.

    Args:
        store: the run.
        copy: identity of the working copy. A lease of the same copy is one that a killed process left: a copy is
            held by one living process at a time.
    """

    def __init__(self, store: Store, copy: str) -> None:
        self._store = store
        self._own: dict[str, Any] = {"copy": copy, "host": platform.node(), "process": os.getpid()}
        self._ended = threading.Event()
        self._taken_by: dict[str, Any] | None = None
        self._thread = threading.Thread(target=self._renew, daemon=True, name="nas-engine-lease")

    def acquire(self, note: Callable[[str], None] = _silent) -> None:
        """Take the lease, after waiting whether another holder lives.

        Raises:
            RunError: another process holds it.
        """
        found = self._read()
        if found is not None and not self._is_own(found):
            place = self._store.uri
            note(f"{place} was last held by {_words(found)}; waiting {PATIENCE_SECONDS:g} s whether it is alive")
            self._watch(found)
        self._write(0)
        self._thread.start()

    def _watch(self, found: dict[str, Any]) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            time.sleep(min(1.0, RENEWAL_SECONDS))
            now = self._read()
            if now is None:
                return
            if now != found:
                raise RunError(
                    f"run {self._store.uri} is in use by {_words(now)}; wait for it, end it, or choose another name "
                    "(--set name=NEW)"
                )

    def check(self) -> None:
        """Make sure that the run is still this process's.

        Raises:
            RunError: another process has taken it over.
        """
        if self._taken_by is not None:
            place = self._store.uri
            raise RunError(
                f"run {place} was taken over by {_words(self._taken_by)}, as this process did not renew its hold for "
                f"{PATIENCE_SECONDS:g} s; follow it there with: nas-engine status {shlex.quote(place)}"
            )

    def release(self) -> None:
        """Give the lease back."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._taken_by is None:
            self._store.delete(LEASE)

    def _renew(self) -> None:
        count = 0
        while not self._ended.wait(RENEWAL_SECONDS):
            try:
                found = self._read()
                if found is not None and not self._is_own(found):
                    self._taken_by = found
                    return
                count += 1
                self._write(count)
            except (RunError, OSError):  # the network is gone; what has to be written says so
                continue

    def _is_own(self, lease: dict[str, Any]) -> bool:
        return lease.get("copy") == self._own["copy"]

    def _read(self) -> dict[str, Any] | None:
        content = self._store.read(LEASE)
        try:
            lease = json.loads(content) if content else None
        except ValueError:
            return None
        return lease if isinstance(lease, dict) else None

    def _write(self, renewal: int) -> None:
        self._store.write(LEASE, json.dumps({**self._own, "renewal": renewal}).encode())


def _words(lease: dict[str, Any]) -> str:
    return f"process {lease.get('process')} on {lease.get('host')}"
