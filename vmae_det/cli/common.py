"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det import model_zoo
from vmae_det.config import CfgNode, check_config, get_cfg
from vmae_det.utils.errors import ConfigError, did_you_mean
from vmae_det.utils.watchdog import TIMEOUT


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """A config and overrides."""
    parser.add_argument(
        "--config-file", metavar="FILE", default="", help="a YAML file, or a name of the model zoo"
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config keys to override, after all other arguments, e.g. SOLVER.EPOCHS 5",
    )


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """How many processes, on how many machines."""
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine (on the CPU too)")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="this machine's number, from 0")
    parser.add_argument("--dist-url", default="auto", help="HOST:PORT of machine 0, with several machines")
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="N",
        help="start all processes again, from the newest checkpoint, when one is lost; so many times at most",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT,
        metavar="SECONDS",
        help="end a run that makes no progress for so long (default: %(default)g)",
    )


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """What weights that hold no config or label map need, and overrides, for a command with --weights."""
    parser.add_argument("--config-file", metavar="FILE", default="", help="for weights that hold no config")
    parser.add_argument("--label-map", type=Path, metavar="FILE", help="for weights that hold no label map")
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """`--opts`, for commands whose other arguments take several values."""
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config keys to override, last of all",
    )


def load_weights_config(args: argparse.Namespace) -> CfgNode:
    """The config of --weights: that of --config-file, else the one that travels with them; checked."""
    from vmae_det.inference.predictor import read_config

    if args.config_file:
        return load_config(args.config_file, [*args.opts, "MODEL.WEIGHTS", args.weights])
    cfg = read_config(args.weights)
    cfg.merge_from_list(args.opts)
    check_config(cfg)
    return cfg


def load_config(config_file: str, opts: list[str]) -> CfgNode:
    """Defaults, then the file, then the overrides, checked and frozen."""
    cfg = get_cfg()
    if config_file:
        path = Path(config_file)
        if not path.is_file():
            names = model_zoo.config_names()
            if config_file not in names:
                raise ConfigError(
                    f"--config-file: {config_file} is neither a file nor a config of the model zoo"
                    f"{did_you_mean(config_file, names)}"
                )
            path = model_zoo.get_config_file(config_file)
        cfg.merge_from_file(path)
    cfg.merge_from_list(opts)
    check_config(cfg)
    cfg.freeze()
    return cfg
