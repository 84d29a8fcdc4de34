"""`vmae-det train`: pre-training, fine-tuning or detection training; the config selects the task."""

from __future__ import annotations

import argparse
from pkgutil import resolve_name

from vmae_det.cli.arguments import integer_in, num_processes, number_in, positive_int
from vmae_det.cli.config_arguments import add_config_arguments, load_config
from vmae_det.cli.train_data import add_data_arguments, check_data_arguments, config_for_data
from vmae_det.config import CfgNode
from vmae_det.utils.errors import UserError
from vmae_det.utils.watchdog import TIMEOUT

# Function of a config that returns extra hooks. Named, not imported: training does not depend on drawing.
_PICTURE_HOOKS = "vmae_det.visualization.training_hook:picture_hooks"
# Functions that evaluate weights or exported models and read their config, which training does not depend on.
_EVALUATE = "vmae_det.inference.evaluation:evaluate"
_FIND_CONFIG = "vmae_det.inference.predictor:find_config"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of detectron2's train_net."""
    add_resume_argument(parser)
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS instead of training")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="profile a few steps; write a Perfetto trace and a table to OUTPUT_DIR/profile",
    )
    add_launch_arguments(parser)
    add_data_arguments(parser)
    add_config_arguments(parser)


def add_resume_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--resume`."""
    parser.add_argument(
        "--resume", action="store_true", help="resume from the latest checkpoint in OUTPUT_DIR"
    )


def add_timeout_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--timeout`."""
    parser.add_argument(
        "--timeout",
        type=number_in("(0, 10000000]"),
        default=TIMEOUT,
        metavar="SECONDS",
        help="stop the run if it makes no progress for this long (default: %(default)g)",
    )


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the number of processes and machines."""
    parser.add_argument(
        "--num-gpus",
        type=num_processes,
        default=1,
        metavar="N",
        help="number of processes on this machine, one per GPU or all on the CPU (default: 1)",
    )
    parser.add_argument(
        "--num-machines", type=positive_int, default=1, metavar="N", help="number of machines (default: 1)"
    )
    parser.add_argument(
        "--machine-rank",
        type=integer_in("[0, 999999]"),
        default=0,
        metavar="N",
        help="rank of this machine, from 0 (default: 0)",
    )
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="HOST:PORT",
        help="address of machine 0; required with several machines",
    )
    parser.add_argument(
        "--max-restarts",
        type=integer_in("[0, 10000]"),
        default=0,
        metavar="N",
        help="if a process is lost, restart all from the latest checkpoint, at most N times (default: 0)",
    )
    add_timeout_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Check the config, then train or evaluate in the requested number of processes."""
    if args.profile and args.eval_only:
        raise UserError("--profile: profiles training steps, so it cannot be combined with --eval-only")
    if args.resume and args.eval_only:
        raise UserError(
            "--resume: resumes training, so it cannot be combined with --eval-only; set MODEL.WEIGHTS"
        )
    if getattr(args, "data", None) is not None:
        check_data_arguments(args)
    cfg = config_for_data(args) if getattr(args, "data", "") else _load_config(args)
    if cfg is None:
        return 0
    from vmae_det.engine.launch import check_processes, launch

    check_processes(args.num_gpus, cfg.MODEL.DEVICE)
    return launch(
        train_or_evaluate,
        (cfg, args.resume, args.eval_only, args.profile),
        num_processes=args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        max_restarts=args.max_restarts,
        timeout=args.timeout,
        restart_args=(cfg, True, args.eval_only),
    )


def _load_config(args: argparse.Namespace) -> CfgNode:
    if not args.eval_only:
        return load_config(args.config_file, args.opts)
    return load_config(args.config_file, args.opts, resolve_name(_FIND_CONFIG))


def train_or_evaluate(
    cfg: CfgNode, resume: bool = False, eval_only: bool = False, profile: bool = False
) -> dict[str, float]:
    """Run training or evaluation in one process.

    Args:
        resume: start from the latest checkpoint in OUTPUT_DIR, if there is one.
        eval_only: evaluate MODEL.WEIGHTS.
        profile: profile a few steps.

    Returns:
        Metrics by name.
    """
    if eval_only:
        return resolve_name(_EVALUATE)(cfg)
    from vmae_det.engine.profiling import Profiling
    from vmae_det.engine.train import run_training

    hooks = resolve_name(_PICTURE_HOOKS)(cfg)
    if profile:
        hooks.append(Profiling(cfg.OUTPUT_DIR))  # last, so that the profile includes the other hooks
    return run_training(cfg, resume, hooks)
