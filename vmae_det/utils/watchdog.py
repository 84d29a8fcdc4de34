"""Ends a process that makes no progress, and writes down where its threads stand."""

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
STACK_SIGNAL = signal.SIGUSR1  # has a process write its stacks and go on
_STDERR = 2

_running: Watchdog | None = None


def heartbeat() -> None:
    """Progress was made: the time starts anew. Long loops call this at each turn."""
    if _running is not None:
        _running.fed = time.monotonic()


def write_stacks_to(folder: Path) -> None:
    """Stacks go to `folder`/stacks/rank_R.txt from now on, and no longer to stderr; the folder exists."""
    heartbeat()
    if _running is not None:
        _running.open(folder / "stacks" / f"rank_{os.environ.get('RANK', 0)}.txt")


class Watchdog:
    """While entered, ends this process with status HUNG if it was not fed for `seconds`.

    The stacks of all its threads are written first. A process that was stopped as a whole, such as by
    Ctrl-Z, starts with a full time when it goes on.

    Args:
        report: gets one line that says what happened.
        linger: seconds between that and the end, for processes elsewhere whose time ends a little later.
    """

    def __init__(self, seconds: float, report: Callable[[str], None], linger: float = 0.0) -> None:
        self.seconds = seconds
        self.report = report
        self.linger = linger
        self.fed = time.monotonic()
        self._tick = min(seconds / 10, 1.0)
        self._descriptor = _STDERR
        self._path: Path | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        global _running
        _running = self
        faulthandler.register(STACK_SIGNAL, file=self._descriptor, all_threads=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        global _running
        _running = None
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        faulthandler.unregister(STACK_SIGNAL)
        if self._path is not None:
            os.close(self._descriptor)
            with suppress(OSError):  # another process's stacks keep the folder
                if not self._path.stat().st_size:
                    self._path.unlink()
                self._path.parent.rmdir()

    def open(self, path: Path) -> None:
        """Write stacks there; what an earlier run has left there goes. OSError if that cannot be."""
        path.parent.mkdir(parents=True, exist_ok=True)
        old, self._descriptor = self._descriptor, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        faulthandler.register(STACK_SIGNAL, file=self._descriptor, all_threads=True)
        if self._path is not None:
            os.close(old)
        self._path = path

    def _watch(self) -> None:
        woken = time.monotonic()
        while not self._ended.wait(self._tick):
            now = time.monotonic()
            if now - woken > 5 * self._tick + 5:
                self.fed = now
            woken = now
            # Where native code hangs and lets no thread of Python run, this one does not come here again.
            faulthandler.dump_traceback_later(2 * self.seconds, exit=True, file=self._descriptor)
            if now - self.fed > self.seconds:
                self._end()

    def _end(self) -> None:
        faulthandler.dump_traceback(file=self._descriptor, all_threads=True)
        where = f" in {self._path}" if self._path else " above"
        self.report(
            f"process {os.environ.get('RANK', 0)} made no progress for {self.seconds:g} s; "
            f"where it stands is{where}"
        )
        time.sleep(self.linger)
        os._exit(HUNG)
