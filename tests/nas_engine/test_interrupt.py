"""Ctrl-C: the first asks, the second leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from nas_engine.interrupt import EXIT_CODE, Interrupt


def test_answers_no_until_asked() -> None:
    stop = Interrupt()
    assert not stop()
    stop.set()
    assert stop()


def test_first_signal_asks_and_the_handler_is_given_back(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 5
        while not stop() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stop()
    assert signal.getsignal(signal.SIGINT) is before
    assert "Ctrl-C again" in capfd.readouterr().err


def test_works_in_other_threads() -> None:
    answers = []

    def enter() -> None:
        with Interrupt() as stop:
            answers.append(stop())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert answers == [False]


@pytest.mark.timeout(60)
def test_second_signal_leaves_at_once() -> None:
    program = (
        "import time\n"
        "from nas_engine.interrupt import Interrupt\n"
        "with Interrupt() as stop:\n"
        "    print('ready', flush=True)\n"
        "    while not stop(): time.sleep(0.01)\n"
        "    print('asked', flush=True)\n"
        "    time.sleep(50)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == EXIT_CODE
