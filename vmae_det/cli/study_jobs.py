"""Submits the runs of a study as jobs of a SLURM cluster: `vmae-det study --submit`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from vmae_det.cli.submit import SubmittedRun, job_parameters, make_executor, submit_job
from vmae_det.studies.grid import Grid, Run
from vmae_det.studies.run_process import train_and_mark
from vmae_det.studies.run_store import RunStore
from vmae_det.utils.errors import UserError, one_line
from vmae_det.utils.watchdog import TIMEOUT

_LOCK_PATIENCE = 2.0  # seconds


@dataclass(frozen=True, kw_only=True)
class SubmittedStudyRun(SubmittedRun):
    """A run of a study as a job. It starts from the weights of its parent, which is finished by then.

    Args:
        run: the run.
        root: folder of all runs.
    """

    run: Run
    root: Path

    def __call__(self) -> None:
        """Train, unless the run is finished; exit the process if the run fails."""
        store = RunStore(self.root)
        store.folder(self.run).mkdir(parents=True, exist_ok=True)
        with store.lock(self.run, _LOCK_PATIENCE) as is_mine:
            if not is_mine:
                sys.exit(f"{self.run.name}: another process works on it")
            if not store.is_finished(self.run):
                store.prepare(self.run)
                super().__call__()


def submit_study(args: argparse.Namespace, grid: Grid, store: RunStore, folder: Path) -> None:
    """Submit a job for each run that is due and has none in the queue.

    On SLURM, a job starts when that of its parent has succeeded.

    Args:
        args: with the options of `add_job_arguments`, and `num_gpus`.
        folder: for the scripts and outputs of the jobs.
    """
    executor = make_executor(args, folder)
    queue = _queued_jobs() if args.cluster == "slurm" else frozenset()
    jobs: dict[Run, str] = {}
    submitted = waiting = 0
    for run in grid.runs():
        if store.is_finished(run):
            continue
        if (job := store.job(run)) in queue:
            jobs[run] = job
            continue
        if store.is_locked(run):
            continue
        options = {}
        if run.parent and not store.is_finished(run.parent):
            if args.cluster == "local" or run.parent not in jobs:
                waiting += 1
                continue
            options = {"dependency": f"afterok:{jobs[run.parent]}", "kill_on_invalid_dep": "yes"}
        executor.update_parameters(**job_parameters(args, 1, run.name, run.cfg.MODEL.DEVICE, **options))
        submitted_run = SubmittedStudyRun(
            store.config(run),
            resume=True,
            processes=args.num_gpus,
            max_restarts=args.max_restarts,
            timeout=TIMEOUT,
            requeue_before=args.requeue_before,
            main=train_and_mark,
            run=run,
            root=store.root,
        )
        jobs[run] = submit_job(executor, submitted_run).job_id
        store.write_job(run, jobs[run])
        submitted += 1
        print(f"job {jobs[run]}: {run.name}")
    print(f"{submitted} job{'s' * (submitted != 1)}; their output is in {folder}")
    if submitted < len(jobs):
        print(f"runs that have a job in the queue already: {len(jobs) - submitted}")
    if waiting:
        print(f"{waiting} runs start from others: repeat the command when those are finished")
    print("vmae-det study NAME --report-only writes the report of the runs that are finished")


def _queued_jobs() -> frozenset[str]:
    """Return the ids of the jobs that wait or run on the cluster.

    Raises:
        UserError: squeue fails.
    """
    try:
        result = subprocess.run(
            ["squeue", "--noheader", "--format=%A"], capture_output=True, text=True, check=True, timeout=120
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        raise UserError(f"squeue: {one_line(reason)}; it tells which runs are in the queue already") from None
    return frozenset(result.stdout.split())
