"""`vmae-det submit`: training as a job of a SLURM cluster, which is put back into the queue before its time
is up."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmae_det.cli.arguments import decimal, positive, processes, refuse_unused, whole
from vmae_det.cli.common import add_config_arguments, load_config
from vmae_det.config import CfgNode
from vmae_det.utils.errors import USER_ERROR_STATUS, ConfigError, UserError
from vmae_det.utils.extensions import import_extensions, imported_extensions
from vmae_det.utils.watchdog import TIMEOUT

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_REQUEUES = 10_000  # as often as it takes; submitit's own default is 3
_PORTS = range(20_000, 30_000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the job may take, then the config."""
    parser.add_argument("--nodes", type=positive, default=1)
    parser.add_argument(
        "--num-gpus",
        type=processes,
        default=1,
        help="processes on each node; as many GPUs unless MODEL.DEVICE is cpu",
    )
    parser.add_argument(
        "--time", type=positive, required=True, metavar="MINUTES", help="after which the job must make room"
    )
    parser.add_argument(
        "--requeue-before",
        type=positive,
        default=120,
        metavar="SECONDS",
        help="save and go back into the queue so long before the time is up (default: %(default)d)",
    )
    parser.add_argument("--partition")
    parser.add_argument("--cpus-per-node", type=positive)
    parser.add_argument("--memory", type=positive, metavar="GB", help="on each node")
    parser.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other option of sbatch, such as account=vision; may be given several times",
    )
    parser.add_argument("--name", default="vmae-det", help="of the job")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint in OUTPUT_DIR"
    )
    parser.add_argument(
        "--max-restarts", type=whole("[0, 10000]"), default=3, metavar="N", help="within one job"
    )
    parser.add_argument(
        "--timeout", type=decimal("(0, 10000000]"), default=TIMEOUT, metavar="SECONDS", help="as of train"
    )
    parser.add_argument(
        "--cluster",
        choices=("slurm", "local"),
        default="slurm",
        help="local: in the background on this machine",
    )
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Put the job into the queue, and print its number and where its output is."""
    try:
        import submitit
    except ImportError:
        raise UserError('submit needs the package submitit: pip install "vmae_det[slurm]"') from None
    cfg = load_config(args.config_file, args.opts)
    if args.max_restarts < 1:
        raise ConfigError(f"--max-restarts: must be 1 or more, got {args.max_restarts}")
    if args.requeue_before >= args.time * 60:
        raise ConfigError(
            f"--requeue-before: {args.requeue_before} s leave nothing of --time {args.time} minutes"
        )
    folder = Path(cfg.OUTPUT_DIR).absolute() / "jobs"
    try:
        executor = submitit.AutoExecutor(folder, cluster=args.cluster, slurm_max_num_timeout=_REQUEUES)
    except RuntimeError:
        raise UserError(
            "--cluster: slurm, but there is no srun here; run this where jobs are submitted"
        ) from None
    except OSError as error:
        raise ConfigError(f"OUTPUT_DIR: {folder} cannot be written to: {error.strerror or error}") from None
    executor.update_parameters(**_parameters(args, cfg))
    job_of_run = SubmittedRun(
        cfg, args.resume, args.num_gpus, args.max_restarts, args.timeout, args.requeue_before
    )
    try:
        job = executor.submit(job_of_run)
    except submitit.core.utils.FailedJobError as error:
        raise UserError(f"sbatch: {error}") from None
    print(f"job {job.job_id}; its output: {job.paths.stdout} and {job.paths.stderr.name}")
    return 0


def _parameters(args: argparse.Namespace, cfg: CfgNode) -> dict[str, Any]:
    others = {}
    for option in args.sbatch:
        name, found, value = option.partition("=")
        if not found:
            raise ConfigError(f"--sbatch: expected NAME=VALUE, got {option}")
        others[name.lstrip("-")] = value
    if args.cluster == "local":
        refuse_unused(args, "is an option of SLURM, and --cluster is local", partition=None, sbatch=[])
    wanted = {
        "name": args.name,
        "nodes": args.nodes,
        "tasks_per_node": 1,  # which starts the node's processes
        "timeout_min": args.time,
        "cpus_per_task": args.cpus_per_node,
        "mem_gb": args.memory,
        "gpus_per_node": args.num_gpus if cfg.MODEL.DEVICE != "cpu" else None,
    }
    if args.cluster == "slurm":
        wanted |= {
            "slurm_partition": args.partition,
            "slurm_signal_delay_s": args.requeue_before,
            "slurm_additional_parameters": {"requeue": True, **others},
        }
    return {name: value for name, value in wanted.items() if value is not None}


@dataclass(frozen=True)
class SubmittedRun:
    """What the cluster calls, once on each node. The config is that of the day of submission.

    Args:
        resume: whether checkpoints may be there; the first time they may not.
        processes: on each node.
        requeue_before: seconds to save in when the time is nearly up.
        extensions: modules to import first.
    """

    cfg: CfgNode
    resume: bool
    processes: int
    max_restarts: int
    timeout: float
    requeue_before: int
    extensions: tuple[str, ...] = field(default_factory=imported_extensions)

    def __call__(self) -> None:
        """Train; ends the process with the exit status of the run."""
        import submitit

        from vmae_det.cli.train import train_or_evaluate
        from vmae_det.engine.launch import launch, print_error

        # The signal goes to all processes of the job, and would end this helper of multiprocessing.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        job = submitit.JobEnvironment()
        resume = self.resume or int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0  # after a node failed
        port = _PORTS[int(job.raw_job_id) % len(_PORTS)]
        try:
            import_extensions(self.extensions)
            status = launch(
                train_or_evaluate,
                (self.cfg, resume),
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
        """Called on the signal that the time is nearly up or the place is needed: save, and go on later."""
        from submitit.helpers import DelayedSubmission

        from vmae_det.engine.elastic_agent import stop_processes

        # What SLURM sends when the job goes back into the queue would only disturb the end.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop_processes(patience=0.75 * self.requeue_before)
        return DelayedSubmission(replace(self, resume=True))
