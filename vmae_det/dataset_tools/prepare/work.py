"""Work over many videos that can be stopped and resumed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vmae_det.dataset_tools.process_map import WorkerDied, run_apart
from vmae_det.utils.errors import UserError
from vmae_det.video.probe import probe_video

PROBE_SECONDS = 60  # that reading a header may take


class Journal:
    """What was found out about files, kept line by line, so that a stopped run goes on where it was.

    A file's entry holds as long as its size and time of change stay.

    Args:
        path: the journal's file.
        folder: where the files lie; names are relative to it.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path, folder
        self._entries: dict[str, tuple[list[int], str]] = {}
        for line in _lines_of(path):
            with contextlib.suppress(
                ValueError, TypeError, RecursionError
            ):  # the last line of a run that was killed
                name, stamp, problem = json.loads(line)
                self._entries[name] = (stamp, problem)

    def problem(self, name: str) -> str | None:
        """The file's problem, '' for a sound file, None where it is unknown or the file has changed."""
        stamp, problem = self._entries.get(name, (None, None))
        return problem if stamp is not None and stamp == self._stamp(name) else None

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[str, str], None]]:
        """A function to note a file's problem with."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            if file.tell():
                file.write("\n")  # ends the line of a run that was killed

            def note(name: str, problem: str) -> None:
                stamp = self._stamp(name)
                self._entries[name] = (stamp, problem)
                file.write(json.dumps([name, stamp, problem]) + "\n")
                file.flush()

            yield note

    def _stamp(self, name: str) -> list[int] | None:
        try:
            status = (self.folder / name).stat()
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns]


def _lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def work_through(
    journal: Journal,
    names: Iterable[str],
    function: Callable[[str], str | UserError],
    description: str,
    *,
    workers: int | None = None,
    seconds: float = PROBE_SECONDS,
    is_done: Callable[[str], bool] = lambda name: True,
) -> dict[str, str]:
    """Problems of the files `names` by name, '' for sound ones: those that the journal knows, and those that
    `function` finds, in parallel processes with a progress bar.

    Args:
        function: picklable; gives a file's problem or ''. A UserError that it returns ends the work.
        seconds: how long one file may take.
        is_done: whether what `function` makes of a sound file is there.
    """
    names = list(dict.fromkeys(names))
    known = {name: journal.problem(name) for name in names}
    left = [name for name, problem in known.items() if problem is None or not (problem or is_done(name))]
    count = workers or min(os.cpu_count() or 1, 16)
    with (
        journal.open() as note,
        contextlib.closing(run_apart(function, left, count, seconds, description)) as answers,
    ):
        for name, answer in answers:
            if isinstance(answer, UserError):
                raise answer
            known[name] = str(answer)
            if not isinstance(answer, WorkerDied):  # which may not happen again
                note(name, answer)
    return known


def header_problem(name: str, folder: Path) -> str:
    """What is wrong with a video by its header, or ''."""
    return probe_video(str(folder / name), decode="none").problem
