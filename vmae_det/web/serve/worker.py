"""Runs jobs one after another: each in a process of its own, which uses the model of this one."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from vmae_det.utils.extensions import imported_extensions
from vmae_det.web.serve import decoder
from vmae_det.web.serve.decoder import VideoTask
from vmae_det.web.serve.jobs import Job, JobTable
from vmae_det.web.serve.messages import MessageError, receive, send
from vmae_det.web.serve.model import ServedModel

logger = logging.getLogger(__name__)

# On Linux, a process is forked from one that has imported torch, which takes milliseconds.
_METHOD = "forkserver" if sys.platform == "linux" else "spawn"
_EXIT_TIMEOUT = 5.0  # seconds for a process that has sent its last message
_STOP_TIMEOUT = 0.5  # seconds for a call of the model when the server stops


@dataclass(frozen=True)
class Limits:
    """Limits of a job.

    Attributes:
        max_seconds: length of a video.
        max_memory: bytes that its process may allocate.
        timeout: seconds that it may take to be received, and to be processed.
    """

    max_seconds: float = 3600.0
    max_memory: int = 4 * 2**30
    timeout: float = 3600.0


class Worker:
    """The thread that runs the jobs of a table.

    Attributes:
        decoder_memory: peak resident memory of the largest decoder, in bytes.
    """

    def __init__(self, table: JobTable, model: ServedModel, limits: Limits) -> None:
        self.table, self.model, self.limits = table, model, limits
        self.decoder_memory = 0
        self._context: Any = multiprocessing.get_context(_METHOD)
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether jobs are run."""
        return self._thread.is_alive()

    @property
    def failure(self) -> str | None:
        """Why no video can be processed; None if all is well."""
        return self.model.failure if self.is_alive else "no jobs are run; restart the server"

    def start(self) -> None:
        """Start the thread."""
        if not decoder.limits_memory():
            logger.warning("--max-memory is not used: this system has no such limit")
        if _METHOD == "forkserver":
            self._context.set_forkserver_preload([decoder.__name__])
            with _interrupts_blocked():
                forkserver.ensure_running()  # it imports torch while the server waits for a video
        self._thread.start()

    def stop(self) -> None:
        """Stop the running job, and end the thread, unless the model is in a call for longer."""
        self.table.close()
        self._thread.join(_STOP_TIMEOUT)

    def _run(self) -> None:
        while (job := self.table.next()) is not None:
            try:
                outcome = self._process(job)
            except Exception:  # such as no memory for another process
                logger.exception("job %s", job.id)
                outcome = {"error": f"{job.name}: failed; the server's terminal shows the reason"}
            self.table.finish(
                job, outcome.get("error"), outcome.get("seconds"), outcome.get("warnings") or ()
            )
            end = job.error or job.state
            logger.info("%s", end if end.startswith(job.name) else f"{job.name}: {end}")

    def _process(self, job: Job) -> dict[str, Any]:
        """Return what the process of a job reports at its end: `error`, or `seconds` and `warnings`."""
        results = self.table.results_folder(job)
        results.mkdir()
        connection, child = self._context.Pipe()
        process = self._context.Process(target=decoder.run, args=(child, self._task(job)), daemon=True)
        timed_out = threading.Event()

        def stop_late() -> None:
            timed_out.set()
            process.kill()

        timer = threading.Timer(self.limits.timeout, stop_late)
        with connection:
            process.start()
            child.close()
            timer.start()
            self.table.on_cancel(job, process.kill)
            try:
                outcome = self._serve(connection, job)
                process.join(_EXIT_TIMEOUT)
            finally:
                self.table.on_cancel(job, None)
                timer.cancel()
                process.kill()
                process.join()
        if outcome is None and timed_out.is_set():
            outcome = {"error": f"{job.name}: not processed within {self.limits.timeout:g} s (--timeout)"}
        if outcome is None:
            outcome = {"error": f"{job.name}: the decoder {_describe_exit(process.exitcode)}"}
        memory = outcome.get("memory")
        if isinstance(memory, int):
            self.decoder_memory = max(self.decoder_memory, memory)
        return outcome

    def _serve(self, connection: Connection, job: Job) -> dict[str, Any] | None:
        """Answer the calls of a process until its last message; None if there was none."""
        with suppress(EOFError, OSError, MessageError):
            while True:
                message = receive(connection)
                if message.kind in ("done", "failed"):
                    return dict(message.content)
                if message.kind == "progress":
                    job.progress = float(message.content)
                else:
                    send(connection, self.model.answer(message))
        return None

    def _task(self, job: Job) -> VideoTask:
        (video,) = self.table.video_folder(job).iterdir()
        return VideoTask(
            self.model.predictor,
            self.model.finds_persons,
            self.model.whole_frame,
            video,
            job.name,
            self.table.results_folder(job),
            job.options["every"],
            job.options["threshold"],
            job.options["smooth"],
            job.options["format"],
            self.limits.max_seconds,
            self.limits.max_memory,
            imported_extensions(),
        )


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Start processes that Ctrl-C in the terminal of the server does not reach. They end with the server."""
    resource_tracker.ensure_running()  # when it starts, it unblocks SIGINT
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            name = signal.Signals(-code).name
            return f"crashed ({name}); the video is damaged, or needs too much memory"
    return "ended without a result; the server's terminal may show the reason"
