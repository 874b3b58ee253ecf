"""Ctrl-C: the first press asks the work to end cleanly, the second leaves at once.

Work asks `stop()` between its pieces, which are all saved as they end, so that both ways lose at most one piece.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

EXIT_CODE = 130  # 128 + SIGINT, as shells report it
_MESSAGE = "\nStopping after the piece of work under way; press Ctrl-C again to leave at once.\n"
_SHOW_CURSOR = "\x1b[?25h"


def never() -> bool:
    """Asks no work to stop."""
    return False


class Interrupt:
    """A question that Ctrl-C answers: `stop()` is False until SIGINT came.

    A context manager that handles SIGINT while it is entered; in threads other than the main one, where Python
    takes no signal handlers, only `set` answers.

    >>> stop = Interrupt()
    >>> stop()
    False
    >>> stop.set()
    >>> stop()
    True
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None
        self._installed = False

    def __call__(self) -> bool:
        return self._asked

    def set(self) -> None:
        """Ask for the end, as the first Ctrl-C does."""
        self._asked = True

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before or signal.SIG_DFL)
            self._installed = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._asked:
            if sys.stderr.isatty():
                _write(_SHOW_CURSOR)  # a live line hides it and gets no chance to show it again
            os._exit(EXIT_CODE)
        self._asked = True
        _write(_MESSAGE)


def _write(text: str) -> None:
    """Print from a signal handler, where Python's buffered streams may be in the midst of a write."""
    try:
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())
    except (OSError, ValueError):
        return
