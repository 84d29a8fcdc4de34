"""`vmae-det study NAME`: run a grid of experiments with several seeds, and compare their results."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vmae_det.cli.arguments import num_processes, output_folder, positive_int, refuse_unused
from vmae_det.cli.config_arguments import add_overrides
from vmae_det.cli.submit import add_job_arguments
from vmae_det.utils.errors import UserError

if TYPE_CHECKING:
    from vmae_det.studies.grid import Grid, Run
    from vmae_det.studies.run_process import Resources
    from vmae_det.studies.run_store import RunStore

RUNS, JOBS = "runs", "jobs"  # folders of all runs and of their jobs in the output folder


def seeds(text: str) -> list[int]:
    """Argument type: a number of seeds (3), or a list of seeds (4,5,6)."""
    from vmae_det.studies.study_file import parse_seeds

    try:
        numbers = [int(part) for part in text.split(",") if len(part) <= 20]
        return list(parse_seeds(numbers if "," in text else numbers[0]))
    except (ValueError, IndexError):
        raise argparse.ArgumentTypeError(
            f"expected a number of seeds such as 3, or different seeds such as 4,5,6, got {text[:40]!r}"
        ) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the study, how to run it, and overrides."""
    parser.add_argument(
        "study",
        nargs="?",
        default="",
        metavar="NAME",
        help="name of a study of the model zoo, or a study file (.yaml); without it, list the studies",
    )
    parser.add_argument("--list", action="store_true", help="list the studies of the model zoo")
    parser.add_argument(
        "--output",
        type=output_folder,
        default=Path("output/studies"),
        metavar="FOLDER",
        help="write runs to FOLDER/runs, and the report to FOLDER/NAME (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        metavar="N",
        help="number of runs at the same time (default: one per GPU, or one per CPU core)",
    )
    parser.add_argument(
        "--num-gpus",
        type=num_processes,
        default=1,
        metavar="N",
        help="number of processes of each run, one per GPU or all on the CPU (default: 1)",
    )
    parser.add_argument(
        "--seeds",
        type=seeds,
        metavar="N",
        help="number of seeds, or a list such as 4,5,6 (default: as in the file)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print cells and runs, and what is done already"
    )
    parser.add_argument(
        "--report-only", action="store_true", help="write the report of the runs that are finished"
    )
    parser.add_argument(
        "--datasets",
        default="",
        metavar="FOLDER",
        help="folder of the catalog's datasets (default: $VMAE_DET_DATASETS, else ./datasets)",
    )
    parser.add_argument(
        "--submit", action="store_true", help="submit each run as a job to a SLURM cluster; requires --time"
    )
    add_job_arguments(parser.add_argument_group("jobs of --submit"))
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Run the study; the exit status is 1 if a run failed."""
    if args.list or not args.study:
        if args.study:
            raise UserError("--list: lists the studies of the model zoo, so it takes no NAME")
        _print_studies()
        return 0
    _check_options(args)
    from vmae_det.studies.study_file import find_study, read_study

    study = read_study(find_study(args.study))
    from vmae_det.studies.grid import build_grid
    from vmae_det.studies.run_store import RunStore

    grid = build_grid(study, args.seeds or (), args.opts, args.datasets)
    store = RunStore(args.output / RUNS)
    if args.dry_run:
        _print_grid(grid, store)
        return 0
    folder = args.output / study.name
    if args.report_only:
        return _report(grid, store, folder)
    if args.submit:
        from vmae_det.cli.study_jobs import submit_study

        submit_study(args, grid, store, args.output.absolute() / JOBS)
        return 0
    return _run_and_report(args, grid, store, folder)


def _check_options(args: argparse.Namespace) -> None:
    """Raise UserError for options that contradict each other, or that would have no effect."""
    modes = [option for option in ("dry_run", "report_only", "submit") if getattr(args, option)]
    names = [f"--{mode.replace('_', '-')}" for mode in modes]
    if len(names) > 1:
        raise UserError(f"{names[0]}: cannot be combined with {names[1]}")
    if names:
        refuse_unused(args, f"has no effect with {names[0]}", workers=None)
    if not args.submit:
        parser = argparse.ArgumentParser()
        add_job_arguments(parser)
        refuse_unused(args, "has no effect without --submit", **vars(parser.parse_args([])))
    elif args.time is None:
        raise UserError("--submit: requires --time, the time limit of each job in minutes")


def _run_and_report(args: argparse.Namespace, grid: Grid, store: RunStore, folder: Path) -> int:
    from vmae_det.studies.report import write_tables
    from vmae_det.studies.results import StudyResults
    from vmae_det.studies.scheduler import Scheduler

    slots = _slots(args, grid, store)
    scheduler = Scheduler(
        grid.runs(), store, slots, lambda run: write_tables(StudyResults(grid, store), folder)
    )
    number = len(grid.runs())
    print(
        f"{grid.study.title}: {len(grid.cells)} cells, {len(grid.seeds)} seeds, {number} runs, "
        f"{number - scheduler.total} of them finished; {len(slots)} at the same time",
        flush=True,
    )
    try:
        outcome = scheduler.run()
    except KeyboardInterrupt:
        _report(grid, store, folder)
        print("interrupted; run the command again to resume")
        raise
    _report(grid, store, folder)
    for failed, error in outcome.failed.items():
        print(f"failed: {failed.name}: {error}")
    for skipped in outcome.skipped:
        print(f"skipped: {skipped.name}, because a run that it starts from failed")
    return 1 if outcome.failed else 0


def _report(grid: Grid, store: RunStore, folder: Path) -> int:
    from vmae_det.studies.report import PAGE, write_report
    from vmae_det.studies.results import StudyResults

    print()
    print(write_report(StudyResults(grid, store), store, folder))
    print(f"report: {folder / PAGE}")
    return 0


def _slots(args: argparse.Namespace, grid: Grid, store: RunStore) -> list[Resources]:
    """Return the resources of the runs that run at the same time."""
    import torch

    from vmae_det.engine.launch import check_processes
    from vmae_det.studies.scheduler import make_slots, visible_gpus
    from vmae_det.utils.cpu import count_cores

    runs = grid.runs()
    devices = {run.cfg.MODEL.DEVICE for run in runs}
    for device in devices:
        check_processes(args.num_gpus, device)
    gpus = visible_gpus(torch.cuda.device_count()) if devices != {"cpu"} else []
    cores = count_cores()
    if os.environ.get("OMP_NUM_THREADS", "").isdecimal():
        cores = min(cores, max(int(os.environ["OMP_NUM_THREADS"]), 1) * (args.workers or cores))
    due = sum(not store.is_finished(run) for run in runs)
    default = 1 if devices == {"mps"} else (len(gpus) or cores) // args.num_gpus
    return make_slots(args.workers or max(min(default, due), 1), args.num_gpus, gpus, cores)


def _print_studies() -> None:
    from vmae_det import model_zoo
    from vmae_det.studies.grid import build_grid
    from vmae_det.studies.study_file import find_study, read_study, study_names

    names = study_names()
    width = max(map(len, names), default=0)
    for name in names:
        study = read_study(find_study(name))
        grid = build_grid(study)
        print(
            f"{name:<{width}}  {study.title} ({len(grid.cells)} cells, {len(grid.seeds)} seeds, "
            f"{len(grid.runs())} runs)"
        )
    print(f"\ntheir files: {model_zoo.config_folder() / model_zoo.STUDIES}")


def _print_grid(grid: Grid, store: RunStore) -> None:
    from vmae_det.studies.grid import describe

    users: dict[str, int] = {}
    for cell in grid.cells:
        for run in set(cell.runs.values()):
            users[run.name] = users.get(run.name, 0) + 1
    for cell in grid.cells:
        print(describe(cell.levels) + (" (base)" if cell is grid.base else ""))
        for run in cell.runs.values():
            shared = f", shared by {users[run.name]} cells" if users[run.name] > 1 else ""
            parent = f", from {run.parent.name}" if run.parent else ""
            print(f"  {run.name}: {_state(run, store)}{parent}{shared}")
    runs = grid.runs()
    finished = sum(store.is_finished(run) for run in runs)
    print(f"{len(grid.cells)} cells, {len(runs)} runs, {finished} of them finished")


def _state(run: Run, store: RunStore) -> str:
    if store.is_finished(run):
        return "finished"
    if store.is_locked(run):
        return "running"
    return "started" if store.was_started(run) else "due"
