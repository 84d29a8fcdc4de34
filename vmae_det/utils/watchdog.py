"""Watchdog: end a process that makes no progress, and write the stacks of its threads."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

TIMEOUT = 1800.0  # seconds
HUNG = 70  # exit status of a process that made no progress
# Makes a process write its stacks and continue. Windows has no such signal.
STACK_SIGNAL: int | None = getattr(signal, "SIGUSR1", None)
_STDERR = 2

_running: Watchdog | None = None


def heartbeat() -> None:
    """Reset the timeout of the watchdog. Long loops call this in each iteration."""
    if _running is not None:
        _running.last_heartbeat = time.monotonic()


def write_stacks_to(folder: Path) -> None:
    """Write stacks to `folder`/stacks/rank_R.txt from now on, instead of stderr. The folder must exist."""
    heartbeat()
    if _running is not None:
        _running.open(folder / "stacks" / f"rank_{os.environ.get('RANK', 0)}.txt")


class Watchdog:
    """Context in which this process ends with status HUNG if it has no heartbeat for `seconds`.

    It writes the stacks of all threads first. The timeout restarts after the process was suspended, for
    example by Ctrl-Z.

    Args:
        report: called with a one-line message.
        linger: seconds between the message and the exit, so that processes on other machines time out, too.
    """

    def __init__(self, seconds: float, report: Callable[[str], None], linger: float = 0.0) -> None:
        self.seconds = seconds
        self.report = report
        self.linger = linger
        self.last_heartbeat = time.monotonic()
        self._tick = min(seconds / 10, 1.0)
        self._descriptor = _STDERR
        self._path: Path | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        global _running
        _running = self
        self._listen()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        global _running
        _running = None
        self._stopped.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        if STACK_SIGNAL is not None:
            faulthandler.unregister(STACK_SIGNAL)
        if self._path is not None:
            os.close(self._descriptor)
            with suppress(OSError):  # the folder contains stacks of another process
                if not self._path.stat().st_size:
                    self._path.unlink()
                self._path.parent.rmdir()

    def open(self, path: Path) -> None:
        """Write stacks to a file from now on, overwriting it.

        Raises:
            OSError: the file cannot be opened.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        old, self._descriptor = self._descriptor, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._listen()
        if self._path is not None:
            os.close(old)
        self._path = path

    def _listen(self) -> None:
        """Write stacks to the present file on STACK_SIGNAL."""
        if STACK_SIGNAL is not None:
            faulthandler.register(STACK_SIGNAL, file=self._descriptor, all_threads=True)

    def _watch(self) -> None:
        last_tick = time.monotonic()
        while not self._stopped.wait(self._tick):
            now = time.monotonic()
            if now - last_tick > 5 * self._tick + 5:
                self.last_heartbeat = now
            last_tick = now
            # If native code hangs and holds the GIL, this thread stops, and faulthandler ends the process.
            faulthandler.dump_traceback_later(2 * self.seconds, exit=True, file=self._descriptor)
            if now - self.last_heartbeat > self.seconds:
                self._report_and_exit()

    def _report_and_exit(self) -> None:
        faulthandler.dump_traceback(file=self._descriptor, all_threads=True)
        where = f" in {self._path}" if self._path else " above"
        self.report(
            f"process {os.environ.get('RANK', 0)} made no progress for {self.seconds:g} s; "
            f"its stacks are{where}"
        )
        time.sleep(self.linger)
        os._exit(HUNG)
