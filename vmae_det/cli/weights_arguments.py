"""Arguments of commands that apply trained weights: the config and label map of `--weights`."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.cli.config_arguments import add_overrides, load_config
from vmae_det.config import CfgNode, check_config

# Options of person detectors that a person head has too.
_PERSON_HEAD_KEYS = {
    "PERSON_DETECTOR.SCORE": "MODEL.PERSON_HEAD.SCORE_THRESHOLD",
    "PERSON_DETECTOR.NMS_IOU": "MODEL.PERSON_HEAD.NMS",
    "PERSON_DETECTOR.MAX_PEOPLE": "MODEL.PERSON_HEAD.MAX_PERSONS",
}


def add_weights_arguments(parser: argparse.ArgumentParser, label_map: bool = True) -> None:
    """Add `--config-file` and `--label-map`, for weights without them, and `KEY VALUE` overrides."""
    parser.add_argument(
        "--config-file", metavar="FILE", default="", help="config, for weights that do not contain one"
    )
    if label_map:
        parser.add_argument(
            "--label-map",
            type=Path,
            metavar="FILE",
            help="label map, or name of a built-in one, for weights that do not contain one",
        )
    add_overrides(parser)


def add_precision_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--precision`."""
    parser.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16", "fp16"],
        default="auto",
        help="precision of the model. auto: that of SOLVER.AMP on a GPU; on a CPU bf16 if it has "
        "instructions for it, else fp32 (default: %(default)s)",
    )


def load_inference_config(args: argparse.Namespace) -> CfgNode:
    """Return the config of `--weights` with the precision of `--precision`, which is logged.

    Raises:
        ConfigError, WeightsError: see `load_weights_config`.
        UserError: see `set_precision`.
    """
    from vmae_det.inference.precision import set_precision

    cfg = load_weights_config(args)
    set_precision(cfg, args.precision, amp_is_set="SOLVER.AMP" in args.opts[::2])
    return cfg


def load_weights_config(args: argparse.Namespace) -> CfgNode:
    """Return the config of `--weights`: that of `--config-file`, else the one stored with the weights.

    Raises:
        ConfigError: a key or value is invalid.
        WeightsError: the weights cannot be read, or there is no config.
    """
    from vmae_det.inference.predictor import find_config, read_config

    if args.config_file:
        opts = [*person_head_overrides(args.opts), *args.opts, "MODEL.WEIGHTS", args.weights]
        return load_config(args.config_file, opts, find_config)
    cfg = read_config(args.weights)
    cfg.merge_from_list([*person_head_overrides(args.opts), *args.opts])
    check_config(cfg)
    return cfg


def person_head_overrides(opts: list[str]) -> list[str]:
    """Return the overrides of a person head that follow from those of PERSON_DETECTOR."""
    return [
        text
        for key, value in zip(opts[::2], opts[1::2])
        if key in _PERSON_HEAD_KEYS
        for text in (_PERSON_HEAD_KEYS[key], value)
    ]


def load_label_map(args: argparse.Namespace) -> dict[str, list] | None:
    """Return the fields of the label map: that of `--label-map`, else the one stored with the weights.

    Returns:
        `ids`, `names` and `kinds`; None if there is no label map.
    """
    from vmae_det.data.classes import ModelClasses
    from vmae_det.formats.label_map import LabelMap
    from vmae_det.inference.predictor import label_map_of
    from vmae_det.inference.scorers import read_stored_metadata

    stored = ModelClasses.from_checkpoint(read_stored_metadata(args.weights).get("label_map"), args.weights)
    if not args.label_map:
        return stored and stored.to_checkpoint()
    given = label_map_of(args.weights, LabelMap.from_file(args.label_map))
    return ModelClasses(given, str(args.label_map)).to_checkpoint()
