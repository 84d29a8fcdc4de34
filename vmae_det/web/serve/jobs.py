"""Jobs: a bounded queue of videos, and the folders of their results, which are deleted after a time."""

from __future__ import annotations

import json
import logging
import math
import re
import secrets
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vmae_det.utils.output_files import make_output_folder, write_json

logger = logging.getLogger(__name__)

RECEIVING, QUEUED, RUNNING = "receiving", "queued", "running"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
STATES = (RECEIVING, QUEUED, RUNNING, DONE, FAILED, CANCELLED)
FINISHED = (DONE, FAILED, CANCELLED)
MAX_FINISHED = 1000  # jobs that are kept; the oldest ones are deleted first
_ID = re.compile(r"[0-9a-f]{24}")
_RECORD = "job.json"
_DEFAULT_SECONDS = 10.0  # that a job takes, before one has finished


class QueueFullError(Exception):
    """The queue is full.

    Attributes:
        retry_after: seconds after which there may be a place.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__("the queue is full")
        self.retry_after = retry_after


@dataclass
class Job:
    """A video to process, and what became of it. Times are in Unix seconds.

    Attributes:
        kind: "detect" or "classify".
        name: name of the file, as sent.
        options: `every`, `threshold` and `format`.
        progress: part of the current state that is done, 0 to 1; None if it is not known.
        error: why it failed, in one sentence.
        warnings: what the user should know of the results.
        bytes: size of the video.
        video_seconds: length of the video.
        results: names and sizes of the result files.
    """

    id: str
    kind: str
    name: str
    options: dict[str, Any]
    state: str = RECEIVING
    progress: float | None = None
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    bytes: int = 0
    video_seconds: float | None = None
    results: dict[str, int] = field(default_factory=dict)


class JobTable:
    """The jobs of a server. Its methods can be called from any thread.

    Args:
        folder: folder of the results. Each job has a folder in it, named by its id.
        capacity: jobs that may wait, including those whose video is being received.
        keep_seconds: time after which a finished job and its results are deleted.

    Attributes:
        ended: number of jobs that ended, by state.
        run_seconds: seconds that jobs ran.
        video_seconds: seconds of video of the jobs that are done.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, capacity: int, keep_seconds: float) -> None:
        self.folder, self.capacity, self.keep_seconds = folder.absolute(), capacity, keep_seconds
        self.ended: Counter[str] = Counter(dict.fromkeys(FINISHED, 0))
        self.run_seconds = self.video_seconds = 0.0
        self.received_bytes = 0
        self._jobs: dict[str, Job] = {}  # in the order of creation
        self._queue: deque[Job] = deque()
        self._stops: dict[str, Callable[[], None]] = {}
        self._changed = threading.Condition(threading.RLock())
        self._closed = False
        make_output_folder(self.folder)
        self._restore()

    # ------------------------------------------------------------ of requests

    def open(self, kind: str, name: str, options: dict[str, Any]) -> Job:
        """Add a job whose video is being received.

        Raises:
            QueueFullError: as many jobs wait as may.
        """
        with self._changed:
            waiting = len(self._queue) + sum(job.state == RECEIVING for job in self._jobs.values())
            if waiting >= self.capacity:
                raise QueueFullError(self._retry_after())
            job = Job(secrets.token_hex(12), kind, name, options, progress=None, created=time.time())
            self._jobs[job.id] = job
        self.video_folder(job).mkdir(parents=True)
        return job

    def submit(self, job: Job, size: int) -> bool:
        """Queue a job whose video is complete. Return False if it was cancelled meanwhile."""
        with self._changed:
            if job.state != RECEIVING:
                return False
            self.received_bytes += size
            job.bytes, job.state, job.progress = size, QUEUED, None
            self._queue.append(job)
            self._changed.notify_all()
            return True

    def discard(self, job: Job) -> None:
        """Forget a job whose video did not arrive."""
        with self._changed:
            self._jobs.pop(job.id, None)
        self._delete_folder(job)

    def get(self, job_id: str) -> Job | None:
        """Return a job; None if there is none with this id."""
        with self._changed:
            return self._jobs.get(job_id)

    def list(self) -> Sequence[Job]:
        """Return all jobs, the newest first."""
        with self._changed:
            return list(self._jobs.values())[::-1]

    def describe(self, job: Job) -> dict[str, Any]:
        """Return a job as JSON."""
        with self._changed:
            position = self._queue.index(job) if job in self._queue else None
            expires = None if job.finished is None else job.finished + self.keep_seconds
            results = [
                {"name": name, "bytes": size, "path": f"/api/jobs/{job.id}/results/{quote(name)}"}
                for name, size in job.results.items()
            ]
            return asdict(job) | {"position": position, "expires": expires, "results": results}

    def cancel(self, job: Job) -> bool:
        """Cancel a job that has not finished. Return False if it has."""
        with self._changed:
            if job.state in FINISHED:
                return False
            if job in self._queue:
                self._queue.remove(job)
            stop = self._stops.get(job.id)
            was_running = job.state == RUNNING
            self._end(job, CANCELLED)
        if stop is not None:
            stop()
        if not was_running:  # else the worker deletes the folder when the process has ended
            self._delete_folder(job)
        return True

    def delete(self, job: Job) -> None:
        """Forget a finished job, and delete its results."""
        with self._changed:
            self._jobs.pop(job.id, None)
        self._delete_folder(job)

    # ------------------------------------------------------------ of the worker

    def next(self) -> Job | None:
        """Wait for a job, and start it; None if the table is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._queue)
            if self._closed:
                return None
            job = self._queue.popleft()
            job.state, job.progress, job.started = RUNNING, 0.0, time.time()
            return job

    def on_cancel(self, job: Job, stop: Callable[[], None] | None) -> None:
        """Set what stops a running job. It is called at once if the job is cancelled already."""
        with self._changed:
            if stop is None:
                self._stops.pop(job.id, None)
                return
            self._stops[job.id] = stop
            is_cancelled = job.state == CANCELLED
        if is_cancelled:
            stop()

    def finish(
        self, job: Job, error: str | None, video_seconds: float | None = None, warnings: Sequence[str] = ()
    ) -> None:
        """Record the end of a running job. A cancelled job stays cancelled.

        Args:
            error: why it failed; None if its results are complete.
        """
        results: dict[str, int] = {}
        try:
            results = {} if error else _visible_files(self.results_folder(job))
        except OSError as gone:
            error = f"{job.name}: its results are gone: {gone.strerror}"
        end = {"error": error, "video_seconds": video_seconds, "warnings": list(warnings), "results": results}
        finished = time.time()
        # First the files, so that they are as the state says when a client sees it.
        if error or job.state == CANCELLED:
            self._delete_folder(job)
        else:
            self._keep_results(replace(job, state=DONE, progress=1.0, finished=finished, **end))
        with self._changed:
            if job.state == RUNNING:
                vars(job).update(end)
                self._end(job, FAILED if error else DONE, finished)
                return
        self._delete_folder(job)

    def fail(self, job: Job, error: str) -> None:
        """Record why the video of a job could not be received."""
        self._delete_folder(job)
        with self._changed:
            if job.state == RECEIVING:
                job.error = error
                self._end(job, FAILED)

    def close(self) -> None:
        """Stop the running job, and start no other."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            running = [job for job in self._jobs.values() if job.state == RUNNING]
        for job in running:
            self.cancel(job)

    # ------------------------------------------------------------ files

    def video_folder(self, job: Job) -> Path:
        """Return the folder of the video of a job."""
        return self.folder / job.id / "video"

    def results_folder(self, job: Job) -> Path:
        """Return the folder of the results of a job."""
        return self.folder / job.id / "results"

    def expire(self) -> None:
        """Delete finished jobs whose time is over, and the oldest ones if there are too many."""
        now = time.time()
        with self._changed:
            finished = sorted(
                (job for job in self._jobs.values() if job.state in FINISHED),
                key=lambda job: job.finished or 0.0,
                reverse=True,
            )
        for number, job in enumerate(finished):
            if number >= MAX_FINISHED or now >= (job.finished or 0.0) + self.keep_seconds:
                self.delete(job)

    def counts(self) -> Counter[str]:
        """Return the number of jobs in each state."""
        with self._changed:
            return Counter(dict.fromkeys(STATES, 0)) + Counter(job.state for job in self._jobs.values())

    def result_bytes(self) -> int:
        """Return the size of all results."""
        with self._changed:
            return sum(sum(job.results.values()) for job in self._jobs.values())

    def _end(self, job: Job, state: str, finished: float | None = None) -> None:
        job.state, job.finished = state, finished or time.time()
        job.progress = 1.0 if state == DONE else None
        self.ended[state] += 1
        if job.started is not None:
            self.run_seconds += job.finished - job.started
        if state == DONE:
            self.video_seconds += job.video_seconds or 0.0

    def _retry_after(self) -> int:
        """Return the mean seconds of a job."""
        count = self.ended[DONE] + self.ended[FAILED]
        return min(max(math.ceil(self.run_seconds / count if count else _DEFAULT_SECONDS), 1), 600)

    def _keep_results(self, job: Job) -> None:
        """Delete the files of a job that are not results, and store what is known of it."""
        shutil.rmtree(self.video_folder(job), ignore_errors=True)
        with suppress(OSError):  # the disk is full: the job is forgotten when the server ends
            for path in self.results_folder(job).glob(".*"):
                path.unlink()
            write_json(self.folder / job.id / _RECORD, asdict(job))

    def _delete_folder(self, job: Job) -> None:
        shutil.rmtree(self.folder / job.id, ignore_errors=True)

    def _restore(self) -> None:
        """Read the finished jobs of an earlier server, and delete the folders of others."""
        restored = []
        for path in self.folder.iterdir():
            if not _ID.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
                continue
            job = _read_record(path)
            if job is None:
                shutil.rmtree(path, ignore_errors=True)
            else:
                restored.append(job)
        self._jobs = {job.id: job for job in sorted(restored, key=lambda job: job.created)}
        self.expire()


def _visible_files(folder: Path) -> dict[str, int]:
    """Return the names and sizes of the files in a folder."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return {path.name: path.stat().st_size for path in files}


def _read_record(folder: Path) -> Job | None:
    """Return the job of a folder; None if it has no complete record."""
    try:
        job = Job(**json.loads((folder / _RECORD).read_text(encoding="utf-8")))
        files = {name: (folder / "results" / name).stat().st_size for name in job.results}
    except (OSError, ValueError, TypeError):
        return None
    is_ours = job.id == folder.name and job.state == DONE and isinstance(job.finished, (int, float))
    return job if is_ours and files == job.results else None
