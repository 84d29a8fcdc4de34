"""Run checks in another process, so that a crash or a hang of one is a result and does not stop the others.

A process runs one check after another; it is replaced after a check that failed. On Linux it is forked from a
server that has imported torch, so that a replacement takes milliseconds instead of seconds.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vmae_det.doctor.report import FAILED, OK, SKIPPED, WARNING, Finding
from vmae_det.utils.cpu import load_average
from vmae_det.utils.errors import UserError, one_line

_SPAWN = multiprocessing.get_context("spawn")
CONTEXT = multiprocessing.get_context("forkserver") if sys.platform == "linux" else _SPAWN
_EXIT_TIMEOUT = 2.0  # seconds in which an idle process exits by itself
_START_TIMEOUT = 120.0  # seconds in which a process must start and the server must import torch
# Distributions whose name differs from that of their module.
_DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow", "sklearn": "scikit-learn"}
_BUSY = 1.5  # load average per core above which a check may need much longer than its time
_BUG = "if the installation is complete, this may be a bug: report it with this page"

CHECKS = "Checks"

# Functions that run in the process get this; it tells the parent what is being done.
Stage = Callable[[str], None]


class Problem(Exception):
    """Raised by a check that is not ok.

    Args:
        status: WARNING, FAILED or SKIPPED.
    """

    def __init__(self, status: str, text: str, remedy: str) -> None:
        super().__init__(status, text, remedy)
        self.status, self.text, self.remedy = status, text, remedy


@dataclass(frozen=True)
class Check:
    """A check that runs in another process.

    Attributes:
        name: what is checked.
        function: importable by name; called with a `Stage` and `args`. It returns the text of the result, or
            a list of findings, or raises a `Problem`.
        timeout: seconds.
        expected: seconds that it takes on a small machine, for the progress bar.
        needs: modules without which the check is skipped.
        section: heading in the report. The time limit of the runner applies to those under CHECKS only.
    """

    name: str
    function: Callable[..., str | list[Finding]]
    args: tuple[Any, ...] = ()
    timeout: float = 60.0
    expected: float = 1.0
    needs: tuple[str, ...] = ("torch",)
    section: str = CHECKS


class CheckRunner:
    """Runs checks in a process that is replaced when needed. Use it as a context manager.

    Args:
        time_limit: seconds; a check that is expected to end later is skipped.

    Attributes:
        broken: modules that cannot be imported; checks that need one are skipped.
    """

    def __init__(self, time_limit: float) -> None:
        self.time_limit = time_limit
        self.deadline = time.monotonic() + time_limit
        self.broken: set[str] = set()
        self._worker: _Worker | None = None
        layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        self._bar = tqdm(total=0, bar_format=layout, disable=None, leave=False, file=sys.stderr)

    def __enter__(self) -> CheckRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._stop_worker()

    def announce(self, checks: Sequence[Check]) -> None:
        """Add checks that will run to the progress bar."""
        self._bar.total += sum(check.expected for check in checks)
        self._bar.refresh()

    def run(self, check: Check) -> list[Finding]:
        """Return the findings of a check."""
        self._bar.set_description(check.name[:60])
        missing = [module for module in check.needs if module in self.broken]
        seconds = 0.0
        if missing:
            result: Any = Problem(SKIPPED, f"{missing[0]} cannot be imported", f"see: import {missing[0]}")
        elif check.section == CHECKS and time.monotonic() + check.expected > self.deadline:
            text = f"not started, to end within {self.time_limit:.0f} s"
            result = Problem(SKIPPED, text, "run again with --time-limit 600")
        else:
            if self._worker is None:
                self._worker = _Worker()
                if not self._worker.has_started:
                    self._worker.stop()
                    self._worker = _Worker(_SPAWN)
            result = self._worker.run(check)
            seconds = self._worker.seconds
        findings = _findings(check, result, seconds)
        # A failed check may leave a device or a library in a bad state.
        if any(finding.status == FAILED for finding in findings) or (self._worker and self._worker.is_lost):
            self._stop_worker()
        self._bar.update(check.expected)
        return findings

    def _stop_worker(self) -> None:
        if self._worker:
            self._worker.stop()
            self._worker = None


def _findings(check: Check, result: Any, seconds: float) -> list[Finding]:
    if isinstance(result, list):
        return result
    if isinstance(result, Problem):
        took = 0.0 if result.status == SKIPPED else seconds
        return [Finding(check.section, check.name, result.status, result.text, result.remedy, took)]
    return [Finding(check.section, check.name, OK, result, "", seconds)]


class _Worker:
    """A process that runs one check at a time."""

    def __init__(self, context: Any = CONTEXT) -> None:
        context.set_forkserver_preload(["vmae_det.doctor.preload"])
        self.seconds = 0.0
        self.is_lost = False  # whether it crashed, or still runs a check that took too long
        handle, log = tempfile.mkstemp(prefix="vmae_det_doctor_", suffix=".log")
        os.close(handle)
        self.log = Path(log)
        self.pipe, child_pipe = context.Pipe()
        self.process = context.Process(target=_serve, args=(child_pipe, log))
        # A server that hangs while it imports torch would block `start` forever.
        starting = threading.Thread(target=self._start, daemon=True)
        starting.start()
        starting.join(_START_TIMEOUT)
        child_pipe.close()

    def _start(self) -> None:
        with suppress(OSError, EOFError):  # the server crashed
            self.process.start()

    @property
    def has_started(self) -> bool:
        """Whether there is a process. There is none if torch crashes or blocks the server."""
        return self.process.pid is not None

    def run(self, check: Check) -> Any:
        """Return what the check returned, or the `Problem` that it raised or caused."""
        start = time.monotonic()
        stage = ""
        try:
            if not self.has_started:
                return Problem(FAILED, self._lost("no process can be started"), _BUG)
            self.pipe.send(check)
            while self.pipe.poll(max(check.timeout - (time.monotonic() - start), 0)):
                kind, content = self.pipe.recv()
                if kind == "result":
                    return content
                stage = content
            return too_slow(self._lost(f"no result after {check.timeout:.0f} s", stage))
        except (EOFError, OSError):
            self.process.join(5)
            text = self._lost(f"the process {_describe_exit(self.process.exitcode)}", stage)
            return Problem(FAILED, text, _BUG)
        finally:
            self.seconds = time.monotonic() - start

    def _lost(self, text: str, stage: str = "") -> str:
        """Add the stage and the last line of output to a text."""
        self.is_lost = True
        text += f" ({stage})" if stage else ""
        with suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
            if last := next((line.strip() for line in reversed(lines) if line.strip()), ""):
                text += f"; its last output: {last[:160]}"
        return text

    def stop(self) -> None:
        """Stop the process and the processes that it started."""
        self.pipe.close()
        if self.has_started:
            self.process.join(0 if self.is_lost else _EXIT_TIMEOUT)
            with suppress(OSError, AttributeError):  # Windows has no groups of processes
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
            self.process.join(5)
        self.log.unlink(missing_ok=True)


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "closed its connection"
    if code < 0:
        return f"crashed ({signal.Signals(-code).name})"
    return f"exited with status {code}"


def _serve(pipe: Connection, log: str) -> None:
    """Run the checks that arrive, until the connection is closed. Output goes to a file."""
    if hasattr(os, "setsid"):
        os.setsid()  # so that `stop` also reaches the processes that a check started
    tqdm.set_lock(threading.RLock())  # its default is a semaphore that leaks when the process is killed
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for output in (1, 2):
        os.dup2(descriptor, output)
    try:
        while True:
            check = pipe.recv()
            pipe.send(("result", _guarded(check, lambda stage: pipe.send(("stage", stage)))))
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _guarded(check: Check, stage: Stage) -> Any:
    try:
        return check.function(stage, *check.args)
    except Problem as problem:
        return problem
    except BaseException as error:  # broken packages raise anything, also SystemExit
        return explain(error)


def too_slow(text: str, remedy: str = _BUG) -> Problem:
    """Return the problem of a check that did not end in time. It is a warning on a busy machine."""
    load, cores = load_average(), os.cpu_count() or 1
    if load > _BUSY * cores:
        text += f"; other programs use the CPU (load average {load:.1f}, {cores} cores)"
        return Problem(WARNING, text, "run again when the machine is idle")
    return Problem(FAILED, f"{text}: it hangs, or is very slow", remedy)


def explain(error: BaseException) -> Problem:
    """Return the problem that an exception of a check means."""
    text = f"{type(error).__name__}: {one_line(error)}"
    if isinstance(error, ImportError):
        name = (error.name or "").partition(".")[0]
        if name == "vmae_det":
            return Problem(FAILED, text, _BUG)
        name = _DISTRIBUTIONS.get(name, name)
        remedy = f"pip install --force-reinstall {name}" if name else "install the named package again"
        return Problem(FAILED, text, remedy)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return Problem(FAILED, text, "free disk space, or set TMPDIR to a folder on another disk")
    if isinstance(error, UserError):
        return Problem(FAILED, one_line(error), _BUG)
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return Problem(FAILED, text, "stop other programs that use this memory, then run again")
    return Problem(FAILED, text, _BUG)
