"""Does the runs of a study, several at the same time, and reports what fails."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import mean

from tqdm import tqdm

from vmae_det.studies.grid import Run
from vmae_det.studies.run_process import BUSY, Resources, start_run
from vmae_det.studies.run_store import CONSOLE, RunStore
from vmae_det.utils.errors import one_line

_POLL = 2.0  # seconds between looks at runs of other studies, and updates of the progress bar
_PATIENCE = 120.0  # seconds in which an interrupted run must have saved
_LOG_TAIL = 20_000  # bytes of the console in which the error is searched


@dataclass
class Outcome:
    """The result of doing runs.

    Attributes:
        failed: the error by run.
        skipped: runs that need the weights of a failed one.
    """

    failed: dict[Run, str] = field(default_factory=dict)
    skipped: list[Run] = field(default_factory=list)


@dataclass
class _Worker:
    process: BaseProcess
    run: Run
    slot: int
    started: float = field(default_factory=time.monotonic)


class Scheduler:
    """Does the runs that are not finished.

    Args:
        runs: in the order in which to start them; a run follows its parent.
        store: the folder of the runs.
        slots: resources of the runs that may run at the same time.
        on_finished: called after each run that finished.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        store: RunStore,
        slots: Sequence[Resources],
        on_finished: Callable[[Run], None] = lambda run: None,
    ) -> None:
        self.store = store
        self.slots = slots
        self.on_finished = on_finished
        self.outcome = Outcome()
        self.due = [run for run in runs if not store.is_finished(run)]
        self.total = len(self.due)
        self.running: list[_Worker] = []
        self.busy_until: dict[Run, float] = {}  # runs of another study: when to look again
        self.paces: dict[str, list[float]] = {}  # seconds per epoch of finished runs by stage
        for run in runs:
            self._add_pace(run)

    def run(self) -> Outcome:
        """Do all runs. On Ctrl-C, let them save, and raise KeyboardInterrupt."""
        layout = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} runs [{elapsed}{postfix}]"
        # disable=None: no bar if the output is not a terminal
        self.bar = tqdm(total=self.total, disable=None, bar_format=layout, leave=False)
        try:
            while self.due or self.running:
                self._start()
                wait([worker.process.sentinel for worker in self.running], timeout=_POLL)
                if not self.running:
                    time.sleep(_POLL / 4)
                for worker in [worker for worker in self.running if not worker.process.is_alive()]:
                    self._collect(worker)
                self._show_remaining()
        except BaseException:
            self._stop()
            raise
        finally:
            self.bar.close()
        return self.outcome

    # ------------------------------------------------------------ starting and stopping

    def _start(self) -> None:
        """Start as many runs as there are free slots."""
        free = [number for number in range(len(self.slots)) if number not in {w.slot for w in self.running}]
        for run in list(self.due):
            if run.parent in self.outcome.failed or run.parent in self.outcome.skipped:
                self.due.remove(run)
                self.outcome.skipped.append(run)
                self._print(run, f"skipped, because {run.parent.name} failed")
                self.bar.update()
            elif free and self._can_start(run):
                self.due.remove(run)
                slot = free.pop(0)
                self.running.append(_Worker(start_run(run, self.store, self.slots[slot]), run, slot))

    def _can_start(self, run: Run) -> bool:
        if run.parent and not self.store.is_finished(run.parent):
            return False
        return time.monotonic() >= self.busy_until.get(run, 0.0)

    def _stop(self) -> None:
        """Let the running processes save and stop."""
        deadline = time.monotonic() + _PATIENCE
        for worker in self.running:
            worker.process.terminate()
        for worker in self.running:
            worker.process.join(max(deadline - time.monotonic(), 0.0))
            worker.process.kill()
            worker.process.join()

    # ------------------------------------------------------------ results

    def _collect(self, worker: _Worker) -> None:
        self.running.remove(worker)
        worker.process.join()
        run, status = worker.run, worker.process.exitcode
        if status == BUSY:
            if run not in self.busy_until:
                self._print(run, "another study works on it; waiting")
            self.busy_until[run] = time.monotonic() + _POLL
            self.due.insert(0, run)
            return
        self.bar.update()
        if status == 0 and self.store.is_finished(run):
            self._add_pace(run)
            self._print(run, "finished" + self._summary(run))
            self.on_finished(run)
            return
        console = self.store.folder(run) / CONSOLE
        self.outcome.failed[run] = f"{last_error(console, status)} ({console})"
        self._print(run, f"failed: {self.outcome.failed[run]}")

    def _add_pace(self, run: Run) -> None:
        seconds = (self.store.results(run) or {}).get("seconds")
        if seconds is not None:
            self.paces.setdefault(run.stage, []).append(seconds / _epochs(run))

    def _summary(self, run: Run) -> str:
        seconds = (self.store.results(run) or {}).get("seconds")
        remaining = self.remaining()
        took = "" if seconds is None else f" in {seconds:.0f} s"
        return took + (f"; about {duration(remaining)} left" if remaining else "")

    def remaining(self) -> float | None:
        """Return the expected seconds of the runs that are due; None if a stage has not run yet."""
        elapsed = {worker.run: time.monotonic() - worker.started for worker in self.running}
        runs = [*self.due, *elapsed]
        if any(run.stage not in self.paces for run in runs):
            return None
        expected = {run: mean(self.paces[run.stage]) * _epochs(run) for run in runs}
        return sum(max(expected[run] - elapsed.get(run, 0.0), 0.0) for run in runs) / len(self.slots)

    def _show_remaining(self) -> None:
        remaining = self.remaining()
        names = ", ".join(worker.run.name for worker in self.running)
        left = f"about {duration(remaining)} left; " if remaining else ""
        self.bar.set_postfix_str(f"{left}{names}")

    def _print(self, run: Run, text: str) -> None:
        done = self.total - len(self.due) - len(self.running)
        tqdm.write(f"[{done}/{self.total}] {run.name}: {text}")


def _epochs(run: Run) -> float:
    """Return the epochs of a run, in passes over all videos."""
    return run.cfg.SOLVER.EPOCHS * run.cfg.DATASETS.TRAIN_FRACTION


def last_error(console: Path, status: int | None) -> str:
    """Return the error of a process that failed, in one line.

    Args:
        console: what it printed.
        status: its exit status.
    """
    if status is not None and status < 0:
        return f"ended by signal {-status}"
    try:
        with console.open("rb") as file:
            file.seek(max(console.stat().st_size - _LOG_TAIL, 0))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    except OSError:
        lines = []
    lines = [line for line in lines if line]
    for line in reversed(lines):
        if match := re.match(r"vmae-det: error: (.*)", line):
            return one_line(match[1])
    return one_line(lines[-1]) if lines else f"exit status {status}"


def duration(seconds: float) -> str:
    """Return a duration in words, such as "2 h 5 min"."""
    minutes = round(seconds / 60)
    if not minutes:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def make_slots(workers: int, processes: int, gpus: Sequence[str], cores: int) -> list[Resources]:
    """Return the resources of the runs that run at the same time.

    Args:
        workers: their number.
        processes: training processes of each.
        gpus: names for CUDA_VISIBLE_DEVICES; empty if the runs use the CPU.
        cores: CPU cores, which the workers share.
    """
    threads = max(cores // (workers * processes), 1)
    if not gpus:
        return [Resources(processes, threads)] * workers
    groups = [gpus[start : start + processes] for start in range(0, len(gpus) - processes + 1, processes)]
    # With more workers than groups of GPUs, several runs share one.
    return [
        Resources(processes, threads, ",".join(groups[number % len(groups)])) for number in range(workers)
    ]


def visible_gpus(count: int) -> list[str]:
    """Return the names of the GPUs of this process for CUDA_VISIBLE_DEVICES."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return (
        [name.strip() for name in names.split(",")][:count]
        if names
        else [str(number) for number in range(count)]
    )
