"""`vmae-det detect-persons`: detect people in the keyframes of videos."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vmae_det.cli.arguments import keyframe_interval, num_processes, output_file, refuse_unused, video_time
from vmae_det.cli.config_arguments import add_overrides, load_config
from vmae_det.cli.weights_arguments import person_head_overrides

if TYPE_CHECKING:
    from vmae_det.config import CfgNode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the videos and their keyframes, the detector and the output."""
    parser.epilog = (
        "The output is a CSV in SlowFast's format, for `person_boxes` of a dataset file and for\n"
        "`detect --boxes`. Run the command again to resume an interrupted run. The detectors are\n"
        "described in docs/guides/person_detectors.md."
    )
    videos = parser.add_mutually_exclusive_group(required=True)
    # argparse only accepts a positional argument in an exclusive group if it has a default.
    videos.add_argument(
        "videos", nargs="*", default=[], metavar="VIDEO", help="video files, folders of videos or of frames"
    )
    videos.add_argument(
        "--dataset",
        metavar="NAME",
        help="use the annotated keyframes of this detection dataset (dataset file, or name in the catalog)",
    )
    parser.add_argument(
        "--output", type=output_file, required=True, metavar="FILE", help="write person boxes to this CSV"
    )
    parser.add_argument(
        "--every",
        type=keyframe_interval,
        default=1.0,
        metavar="SECONDS",
        help="time between keyframes (default: %(default)s)",
    )
    parser.add_argument(
        "--video-start",
        type=video_time,
        default=0.0,
        metavar="SECOND",
        help="time on the clock of the boxes at which the video files start (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="weights of an action detector with a person head, to use it as the person detector",
    )
    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="config with the PERSON_DETECTOR keys"
    )
    parser.add_argument(
        "--num-gpus",
        type=num_processes,
        default=1,
        metavar="N",
        help="number of processes that share the videos, one per GPU or all on the CPU (default: 1)",
    )
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Detect people and write their boxes; return the exit status."""
    from vmae_det.data.catalog import get_dataset
    from vmae_det.engine.launch import check_processes, launch
    from vmae_det.formats.person_boxes import NON_CSV_SUFFIXES
    from vmae_det.inference.detect_persons import (
        detect_persons,
        parts_folder,
        videos_from_dataset,
        videos_from_paths,
    )
    from vmae_det.utils.errors import ConfigError

    if args.output.suffix.lower() in NON_CSV_SUFFIXES:
        raise ConfigError(
            f"--output: {args.output}: boxes are written as CSV; expected a name such as boxes.csv"
        )
    if args.output.exists() and not parts_folder(args.output).exists():
        raise ConfigError(f"--output: {args.output} already exists; remove it or choose another file")
    # One thread reads the frames; all cores are left to the detector.
    cfg = _load_config(args, ["DATALOADER.NUM_WORKERS", "0"])
    check_processes(args.num_gpus, cfg.MODEL.DEVICE)
    if args.dataset:
        reason = "not used with --dataset, which has its own keyframe times and clock"
        refuse_unused(args, reason, every=1.0, video_start=0.0)
        videos = videos_from_dataset(get_dataset(args.dataset, cfg.DATASETS.ROOT))
    else:
        videos = videos_from_paths(args.videos, args.video_start, args.every)
    status = launch(detect_persons, (cfg, videos, args.output), num_processes=min(args.num_gpus, len(videos)))
    if status == 0:
        print(args.output)
    return status


def _load_config(args: argparse.Namespace, opts: list[str]) -> CfgNode:
    """Return the config of the detector; `opts` come after those of the command line."""
    from vmae_det.config.checks import detects_with_person_head
    from vmae_det.inference.predictor import find_config, read_config
    from vmae_det.utils.errors import ConfigError

    if not args.weights:
        return load_config(args.config_file, [*args.opts, *opts], find_config)
    if not args.config_file:
        read_config(args.weights)  # raises an error if there is no config
    opts = [*person_head_overrides(args.opts), *args.opts, "MODEL.WEIGHTS", args.weights, *opts]
    cfg = load_config(args.config_file, opts, find_config)
    if not cfg.MODEL.PERSON_HEAD.NAME:
        raise ConfigError(
            f"--weights: {args.weights} has no person head; train one (docs/guides/one_stage.md), or use a "
            "person detector without --weights (docs/guides/person_detectors.md)"
        )
    if not detects_with_person_head(cfg):
        raise ConfigError(
            "--weights: not used with PERSON_DETECTOR.NAME and WEIGHTS, which select another person detector"
        )
    return cfg
