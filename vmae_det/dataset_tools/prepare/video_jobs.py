"""Run a job on many videos in parallel, with a journal so that an interrupted run can be resumed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vmae_det.dataset_tools.isolated_map import WorkerFailure, isolated_map
from vmae_det.utils.cpu import count_cores
from vmae_det.utils.errors import UserError
from vmae_det.video.probe import probe_video

HEADER_TIMEOUT = 60  # seconds to read the header of one video


class Journal:
    """Append-only file with the result of each processed file.

    An entry is valid as long as the file's size and modification time do not change.

    Args:
        path: the journal.
        folder: folder of the files; their names are relative to it.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path, folder
        self._entries: dict[str, tuple[list[int], str]] = {}
        for line in _read_lines(path):
            with contextlib.suppress(ValueError, TypeError, RecursionError):  # the last line of a killed run
                name, stamp, problem = json.loads(line)
                self._entries[name] = (stamp, problem)

    def problem(self, name: str) -> str | None:
        """Return the file's problem, '' for none; None if it is not recorded or the file has changed."""
        stamp, problem = self._entries.get(name, (None, None))
        return problem if stamp is not None and stamp == self._stamp(name) else None

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[str, str], None]]:
        """Open the journal for writing; yield a function that records a file's problem."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            if file.tell():
                file.write("\n")  # terminates the incomplete line of a killed run

            def record(name: str, problem: str) -> None:
                stamp = self._stamp(name)
                self._entries[name] = (stamp, problem)
                file.write(json.dumps([name, stamp, problem]) + "\n")
                file.flush()

            yield record

    def _stamp(self, name: str) -> list[int] | None:
        try:
            status = (self.folder / name).stat()
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns]


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def run_video_jobs(
    journal: Journal,
    names: Iterable[str],
    job: Callable[[str], str | UserError],
    description: str,
    *,
    workers: int | None = None,
    timeout: float = HEADER_TIMEOUT,
    is_done: Callable[[str], bool] = lambda name: True,
) -> dict[str, str]:
    """Run a job on the files that the journal does not contain yet, in parallel, with a progress bar.

    Args:
        journal: results of earlier runs; new results are appended.
        names: files, relative to the journal's folder.
        job: picklable; returns a file's problem, or '' for none. A UserError that it returns stops the run.
        description: text of the progress bar.
        workers: number of processes. None: one for each CPU, at most 16.
        timeout: seconds for one file.
        is_done: whether the output of a file without problem exists.

    Returns:
        File name to problem, '' for none.
    """
    names = list(dict.fromkeys(names))
    problems = {name: journal.problem(name) for name in names}
    pending = [
        name for name, problem in problems.items() if problem is None or not (problem or is_done(name))
    ]
    count = workers or min(count_cores(), 16)
    with (
        journal.open() as record,
        contextlib.closing(isolated_map(job, pending, count, timeout, description)) as results,
    ):
        for name, result in results:
            if isinstance(result, UserError):
                raise result
            problems[name] = str(result)
            if not isinstance(result, WorkerFailure):  # a failure may not happen again
                record(name, result)
    return problems


def header_problem(name: str, folder: Path) -> str:
    """Return the problem of a video's header, or ''."""
    return probe_video(str(folder / name), decode="none").problem
