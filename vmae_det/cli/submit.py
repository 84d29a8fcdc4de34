"""`vmae-det submit`: submit training as a SLURM job that requeues itself before its time limit.

`vmae-det study --submit` submits its runs with the same options and functions.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmae_det.cli.arguments import integer_in, num_processes, positive_int, refuse_unused
from vmae_det.cli.config_arguments import add_config_arguments, load_config
from vmae_det.cli.train import add_resume_argument, add_timeout_argument, train_or_evaluate
from vmae_det.config import CfgNode
from vmae_det.utils.errors import USER_ERROR_STATUS, ConfigError, UserError
from vmae_det.utils.extensions import import_extensions, imported_extensions

if TYPE_CHECKING:
    from submitit import AutoExecutor, Job
    from submitit.helpers import DelayedSubmission

_MAX_REQUEUES = 10_000  # practically unlimited; the default of submitit is 3
_PORTS = range(20_000, 30_000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the resources of the job, then the config."""
    parser.add_argument(
        "--nodes", type=positive_int, default=1, metavar="N", help="number of nodes (default: 1)"
    )
    parser.add_argument(
        "--num-gpus",
        type=num_processes,
        default=1,
        metavar="N",
        help="number of processes per node, each with a GPU unless MODEL.DEVICE is cpu (default: 1)",
    )
    add_job_arguments(parser, time_required=True)
    parser.add_argument("--name", default="vmae-det", help="name of the job (default: %(default)s)")
    add_resume_argument(parser)
    add_timeout_argument(parser)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    add_config_arguments(parser)


def add_job_arguments(parser: argparse._ActionsContainer, time_required: bool = False) -> None:
    """Add the options of jobs: cluster, time, requeueing, cores, memory, and those of sbatch."""
    parser.add_argument(
        "--time", type=positive_int, required=time_required, metavar="MINUTES", help="time limit of a job"
    )
    parser.add_argument(
        "--requeue-before",
        type=positive_int,
        default=120,
        metavar="SECONDS",
        help="save and requeue a job this long before its time limit (default: %(default)d)",
    )
    parser.add_argument("--partition", metavar="NAME", help="partition of the cluster")
    parser.add_argument(
        "--cpus-per-node", type=positive_int, metavar="N", help="number of CPU cores per node"
    )
    parser.add_argument("--memory", type=positive_int, metavar="GB", help="memory per node")
    parser.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="pass another option to sbatch, such as account=vision; repeatable",
    )
    parser.add_argument(
        "--max-restarts",
        type=integer_in("[0, 10000]"),
        default=3,
        metavar="N",
        help="restart lost processes at most N times per job (default: %(default)s)",
    )
    parser.add_argument(
        "--cluster",
        choices=("slurm", "local"),
        default="slurm",
        help="slurm, or local to run in the background on this machine (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Submit the job; print its id and the paths of its output."""
    if args.data is not None:
        raise UserError(
            "--data: not available in submit, because the settings depend on the GPU of the job; start "
            "`vmae-det train --data` on a GPU node (srun), then submit its run: --config-file "
            "OUTPUT_DIR/config.yaml --resume"
        )
    cfg = load_config(args.config_file, args.opts)
    executor = make_executor(args, Path(cfg.OUTPUT_DIR).absolute() / "jobs")
    executor.update_parameters(**job_parameters(args, args.nodes, args.name, cfg.MODEL.DEVICE))
    submitted_run = SubmittedRun(
        cfg, args.resume, args.num_gpus, args.max_restarts, args.timeout, args.requeue_before
    )
    job = submit_job(executor, submitted_run)
    print(f"job {job.job_id}; output: {job.paths.stdout} and {job.paths.stderr.name}")
    return 0


def make_executor(args: argparse.Namespace, folder: Path) -> AutoExecutor:
    """Return the executor of jobs whose scripts and outputs are in a folder.

    Raises:
        UserError: submitit is not installed, or an option of `add_job_arguments` is invalid.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(
            'submit requires submitit, which is not installed: pip install "vmae_det[slurm]"'
        ) from None
    if args.max_restarts < 1:
        raise ConfigError(f"--max-restarts: must be 1 or more, got {args.max_restarts}")
    if args.requeue_before >= args.time * 60:
        raise ConfigError(
            f"--requeue-before: must be shorter than --time {args.time} minutes, got {args.requeue_before} s"
        )
    try:
        return submitit.AutoExecutor(folder, cluster=args.cluster, slurm_max_num_timeout=_MAX_REQUEUES)
    except RuntimeError:
        raise UserError(
            "--cluster: slurm, but srun is not installed; run this command on a login node of the cluster"
        ) from None
    except OSError as error:
        raise ConfigError(f"OUTPUT_DIR: {folder} cannot be written to: {error.strerror or error}") from None


def submit_job(executor: AutoExecutor, submitted_run: SubmittedRun) -> Job:
    """Submit a run. Raises UserError if sbatch fails."""
    import submitit

    try:
        return executor.submit(submitted_run)
    except submitit.core.utils.FailedJobError as error:
        raise UserError(f"sbatch: {error}") from None


def job_parameters(
    args: argparse.Namespace, nodes: int, name: str, device: str, **options: Any
) -> dict[str, Any]:
    """Return the parameters of a job.

    Args:
        options: further options of sbatch.
    """
    sbatch_options = {}
    for option in args.sbatch:
        key, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(f"--sbatch: expected NAME=VALUE, got {option}")
        sbatch_options[key.lstrip("-")] = value
    if args.cluster == "local":
        refuse_unused(args, "only used with --cluster slurm", partition=None, sbatch=[])
    parameters = {
        "name": name,
        "nodes": nodes,
        "tasks_per_node": 1,  # this task starts the processes of the node
        "timeout_min": args.time,
        "cpus_per_task": args.cpus_per_node,
        "mem_gb": args.memory,
        "gpus_per_node": args.num_gpus if device != "cpu" else None,
    }
    if args.cluster == "slurm":
        parameters |= {
            "slurm_partition": args.partition,
            "slurm_signal_delay_s": args.requeue_before,
            "slurm_additional_parameters": {"requeue": True, **sbatch_options, **options},
        }
    return {name: value for name, value in parameters.items() if value is not None}


@dataclass(frozen=True)
class SubmittedRun:
    """The function that the cluster calls once per node. Stores the config of the time of submission.

    Args:
        cfg: config of the run.
        resume: resume from the latest checkpoint. If False, OUTPUT_DIR must not contain one.
        processes: number of processes per node.
        max_restarts: as of `launch`.
        timeout: as of `launch`, in seconds.
        requeue_before: seconds that are left to save when the job is signaled.
        main: function of the config and of `resume` that each process calls.
        extensions: modules to import first.
    """

    cfg: CfgNode
    resume: bool
    processes: int
    max_restarts: int
    timeout: float
    requeue_before: int
    main: Callable[..., Any] = train_or_evaluate
    extensions: tuple[str, ...] = field(default_factory=imported_extensions)

    def __call__(self) -> None:
        """Train; exit the process if the run fails."""
        import submitit

        from vmae_det.engine.launch import launch, print_error

        # SLURM signals all processes of a job. The signal must not kill multiprocessing's resource tracker.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        job = submitit.JobEnvironment()
        requeued = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0  # after a node failure
        port = _PORTS[int(job.raw_job_id) % len(_PORTS)]
        try:
            import_extensions(self.extensions)
            status = launch(
                self.main,
                (self.cfg, self.resume or requeued),
                num_processes=self.processes,
                num_machines=job.num_nodes,
                machine_rank=job.node,
                dist_url=f"{job.hostnames[0]}:{port}" if job.num_nodes > 1 else "auto",
                max_restarts=self.max_restarts,
                timeout=self.timeout,
                restart_args=(self.cfg, True),
            )
        except UserError as error:
            print_error(error)
            status = USER_ERROR_STATUS
        if status:
            sys.exit(status)

    def checkpoint(self) -> DelayedSubmission:
        """Save and requeue the run. Called by submitit before the time limit and on preemption."""
        from submitit.helpers import DelayedSubmission

        from vmae_det.engine.elastic_agent import stop_processes

        # SLURM also sends SIGTERM when it requeues the job. It would interrupt saving.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop_processes(patience=0.75 * self.requeue_before)
        return DelayedSubmission(replace(self, resume=True))
