"""`vmae-det detect-persons`: boxes of the people in the keyframes of videos."""

from __future__ import annotations

import argparse

from vmae_det.cli.arguments import every, moment, output_file, processes, refuse_unused
from vmae_det.cli.common import add_overrides, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The videos and their keyframes, the detector, and where the boxes go."""
    parser.epilog = (
        "The output is a CSV as SlowFast's, for `person_boxes` of a dataset file and for `detect --boxes`. A "
        "run that was stopped goes on where it was when it is started again. docs/person_detectors.md says "
        "which detectors there are."
    )
    videos = parser.add_mutually_exclusive_group(required=True)
    # With a default, argparse lets a positional argument be one of several.
    videos.add_argument(
        "videos", nargs="*", default=[], metavar="VIDEO", help="video files, and folders of them or of frames"
    )
    videos.add_argument(
        "--dataset",
        metavar="NAME",
        help="instead: the keyframes that a detection dataset annotates; its file, or name in the catalog",
    )
    parser.add_argument(
        "--output", type=output_file, required=True, metavar="FILE", help="a CSV of person boxes"
    )
    parser.add_argument(
        "--every", type=every, default=1.0, metavar="S", help="seconds between keyframes (%(default)s)"
    )
    parser.add_argument(
        "--video-start",
        type=moment,
        default=0.0,
        metavar="S",
        help="second of the boxes' clock at which the files start (%(default)s)",
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="with a PERSON_DETECTOR group")
    parser.add_argument(
        "--num-gpus", type=processes, default=1, help="processes that share the videos (on the CPU too)"
    )
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Find the people and write their boxes; gives the exit status."""
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

    check_processes(args.num_gpus)
    if args.output.suffix.lower() in NON_CSV_SUFFIXES:
        raise ConfigError(
            f"--output: {args.output}: boxes are written as CSV; expected a name such as boxes.csv"
        )
    if args.output.exists() and not parts_folder(args.output).exists():
        raise ConfigError(f"--output: {args.output} exists already; remove it, or name another file")
    # Frames are read by a thread: all cores are the detector's.
    cfg = load_config(args.config_file, [*args.opts, "DATALOADER.NUM_WORKERS", "0"])
    if args.dataset:
        refuse_unused(args, "--dataset has keyframes and a clock of its own", every=1.0, video_start=0.0)
        videos = videos_from_dataset(get_dataset(args.dataset, cfg.DATASETS.ROOT))
    else:
        videos = videos_from_paths(args.videos, args.video_start, args.every)
    status = launch(detect_persons, (cfg, videos, args.output), num_processes=min(args.num_gpus, len(videos)))
    if status == 0:
        print(args.output)
    return status
