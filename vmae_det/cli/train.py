"""`vmae-det train`: pre-training, fine-tuning and detection training, told apart by the config."""

from __future__ import annotations

import argparse

from vmae_det.cli.common import add_config_arguments, add_launch_arguments, load_config
from vmae_det.config import CfgNode
from vmae_det.utils.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of detectron2's train_net."""
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint in OUTPUT_DIR"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, do not train")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="leave a trace of a few steps for Perfetto, and a table, in OUTPUT_DIR/profile",
    )
    add_launch_arguments(parser)
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check the config, then train or evaluate in as many processes as asked for."""
    if args.profile and args.eval_only:
        raise UserError("--profile: looks at steps of training, of which --eval-only has none")
    if args.resume and args.eval_only:
        raise UserError("--resume: goes on with a training, which --eval-only is not; set MODEL.WEIGHTS")
    cfg = load_config(args.config_file, args.opts)
    from vmae_det.engine.launch import check_processes, launch

    check_processes(args.num_gpus)
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


def train_or_evaluate(
    cfg: CfgNode, resume: bool = False, eval_only: bool = False, profile: bool = False
) -> dict[str, float]:
    """What each process runs; gives the metrics."""
    from vmae_det.engine.profiling import Profiling
    from vmae_det.engine.setup import run_evaluation, run_training
    from vmae_det.visualization.training import picture_hooks

    if eval_only:
        return run_evaluation(cfg)
    # Profiled last, so that what other hooks do after a step is part of it.
    hooks = [*picture_hooks(cfg), *([Profiling(cfg.OUTPUT_DIR)] if profile else [])]
    return run_training(cfg, resume, hooks)
