"""`vmae-det convert-tubes`: convert ACT and MultiSports pickles to the tube CSV that `evaluate` reads."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.cli.arguments import output_file, positive_int, refuse_overwriting
from vmae_det.formats.tube_csv import write_tubes
from vmae_det.formats.tube_pickles import read_detected_tubes, read_ground_truth_tubes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the pickles and the CSV."""
    parser.description += (
        ".\nSOURCE is ground truth (JHMDB-GT.pkl, UCF101v2-GT.pkl, multisports_GT.pkl), detections in\n"
        "frames or tubes, or a folder of VIDEO_tubes.pkl files written by ACT.py."
    )
    parser.add_argument("source", metavar="SOURCE", type=Path, help="a pickle, or a folder of ACT pickles")
    parser.add_argument(
        "--output", metavar="FILE", type=output_file, required=True, help="write tubes to this CSV"
    )
    parser.add_argument(
        "--ground-truth",
        metavar="FILE",
        type=Path,
        help="ground-truth pickle with the labels and videos of the detections in SOURCE",
    )
    parser.add_argument(
        "--split",
        type=positive_int,
        default=1,
        metavar="N",
        help="convert the test videos of split N (default: 1)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the CSV and print how many tubes it contains."""
    refuse_overwriting(args.output, args.source, args.ground_truth)
    if args.ground_truth is None:
        kind, tubes = "ground_truth", read_ground_truth_tubes(args.source, args.split)
    else:
        kind, tubes = "detections", read_detected_tubes(args.source, args.ground_truth, args.split)
    write_tubes(args.output, tubes, kind)
    boxes, videos = len(tubes.tube), len(set(tubes.video))
    print(f"{args.output}: {len(tubes)} tubes with {boxes} boxes in {videos} videos")
    return 0
