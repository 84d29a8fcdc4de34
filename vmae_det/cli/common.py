"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det import model_zoo
from vmae_det.cli.arguments import decimal, positive, processes, whole
from vmae_det.config import CfgNode, check_config, get_cfg
from vmae_det.config.cfg_node import flatten
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
    parser.add_argument(
        "--num-gpus", type=processes, default=1, help="processes on this machine (on the CPU too)"
    )
    parser.add_argument("--num-machines", type=positive, default=1)
    parser.add_argument(
        "--machine-rank", type=whole("[0, 999999]"), default=0, help="this machine's number, from 0"
    )
    parser.add_argument("--dist-url", default="auto", help="HOST:PORT of machine 0, with several machines")
    parser.add_argument(
        "--max-restarts",
        type=whole("[0, 10000]"),
        default=0,
        metavar="N",
        help="start all processes again, from the newest checkpoint, when one is lost; so many times at most",
    )
    parser.add_argument(
        "--timeout",
        type=decimal("(0, 10000000]"),
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
    """`KEY VALUE` pairs at the end, which `split_overrides` takes off; argparse has `--opts` for its help."""
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config keys to override, last of all; --opts itself may be left out",
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


def load_label_map(args: argparse.Namespace) -> dict[str, list] | None:
    """The fields of the LabelMap of --label-map, else of the one that travels with --weights, if any."""
    from vmae_det.data.classes import ModelClasses
    from vmae_det.formats.label_map import LabelMap
    from vmae_det.inference.predictor import label_map_of
    from vmae_det.inference.scorers import read_stored_metadata

    stored = ModelClasses.from_checkpoint(read_stored_metadata(args.weights).get("label_map"), args.weights)
    if not args.label_map:
        return stored and stored.to_checkpoint()
    given = label_map_of(args.weights, LabelMap.from_file(args.label_map))
    return ModelClasses(given, str(args.label_map)).to_checkpoint()


# What weights decide: their network, and the pixels that it takes.
_OF_WEIGHTS = (
    *("MODEL.META_ARCHITECTURE", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"),
    *(f"MODEL.BACKBONE.{key}" for key in ("NAME", "EMBED_DIM", "DEPTH", "NUM_HEADS", "MLP_RATIO")),
    *(f"MODEL.BACKBONE.{key}" for key in ("PATCH_SIZE", "TUBELET_SIZE", "POSITIONS")),
    *(f"MODEL.DECODER.{key}" for key in ("EMBED_DIM", "DEPTH", "NUM_HEADS")),
    *(f"MODEL.RECONSTRUCTION.{key}" for key in ("NORMALIZE", "NUM_FRAMES", "SAMPLING_RATE")),
    *("MODEL.CLASSIFIER.NUM_CLASSES", "MODEL.ROI_HEAD.NAME", "MODEL.ROI_HEAD.NUM_CLASSES"),
    *(f"MODEL.ROI_HEAD.{key}" for key in ("RESOLUTION", "SAMPLING_RATIO", "ALIGNED")),
    *(f"INPUT.{key}" for key in ("NUM_FRAMES", "CROP_SIZE", "TEST_SHORT_SIDE", "CONVENTION")),
)
_OF_A_RUN = ("OUTPUT_DIR", "WANDB.")  # not taken over from the run that weights are of


def load_config(config_file: str, opts: list[str]) -> CfgNode:
    """Defaults, then what MODEL.WEIGHTS decides, then the file, then the overrides; checked and frozen.

    The config that travels with the weights decides everything where there is no file, else what describes
    their network and its pixels.
    """
    cfg = _merge(get_cfg(), config_file, opts)
    if cfg.MODEL.WEIGHTS:
        from vmae_det.inference.predictor import find_config

        stored = find_config(cfg.MODEL.WEIGHTS)
        if stored is not None:
            base = get_cfg()
            for key, value in flatten(stored):
                if key in _OF_WEIGHTS or not (config_file or key.startswith(_OF_A_RUN)):
                    base.merge_from_list([key, value])
            cfg = _merge(base, config_file, opts)
    check_config(cfg)
    cfg.freeze()
    return cfg


def _merge(cfg: CfgNode, config_file: str, opts: list[str]) -> CfgNode:
    if config_file:
        path = Path(config_file)
        if not path.exists() or path.is_dir():
            try:
                path = model_zoo.get_config_file(config_file)
            except ConfigError:
                problem = f"{config_file} is neither a file nor a config of the model zoo"
                hint = did_you_mean(config_file, model_zoo.config_names())
                raise ConfigError(f"--config-file: {problem}{hint}") from None
        cfg.merge_from_file(path)
    cfg.merge_from_list(opts)
    return cfg
