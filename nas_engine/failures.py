"""How the command line fails: one line that says what to do, and a documented exit code.

Errors that the user, the input or the machine causes say so; anything else is a defect of ours and is called one,
with the way to its traceback.
"""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from search_spaces.errors import EngineError

EXIT_CODES = {
    0: "done",
    1: "an error not named below, such as a full disk",
    2: "the configuration or the arguments",
    3: "the data",
    4: "bounds that no network meets",
    5: "the run directory: locked, damaged, or begun with other settings",
    6: "an exported form that does not reproduce its network",
    70: "a defect of nas-engine",
    130: "interrupted with Ctrl-C; the same command goes on",
}
DEFECT, INTERRUPTED = 70, 130
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MACHINE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENAMETOOLONG, errno.ENOTDIR)


@contextmanager
def reported(debug: bool = False) -> Iterator[None]:
    """Turn an exception of the block into a line on standard error and `typer.Exit`."""
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        _say("interrupted", debug)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as e:
        code, text = explain(e)
        _say(text, debug)
        raise typer.Exit(code) from None


def explain(error: Exception) -> tuple[int, str]:
    """Exit code and line of an exception."""
    words = " ".join(str(error).split())
    name = type(error).__name__
    if isinstance(error, EngineError):
        return error.exit_code, words if error.exit_code == INTERRUPTED else f"error: {words}"
    if isinstance(error, OSError) and error.errno in _FULL:
        place = f" at {error.filename}" if error.filename else ""
        return 1, f"error: the disk is full{place}; free space and give the same command again, it goes on"
    if isinstance(error, OSError) and error.errno in _MACHINE:
        return 1, f"error: {words}; mend this or choose another place"
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":  # torch's, which is not imported for this
        return 1, f"error: out of memory ({words[:120]}); lower the batch sizes or the number of workers"
    return DEFECT, (
        f"error: a defect of nas-engine ({name}: {words[:200]}); see where with: nas-engine --debug VERB ..., "
        "and please report it"
    )


def _say(text: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(text, file=sys.stderr)
