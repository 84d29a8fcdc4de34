"""`vmae-det convert-tubes`: pickles of ACT and MultiSports become the CSV of tubes that `evaluate` reads."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.cli.arguments import output_file, positive, refuse_overwriting
from vmae_det.formats.tube_csv import write_tubes
from vmae_det.formats.tube_pickles import read_detected_tubes, read_ground_truth_tubes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The pickles and the CSV."""
    parser.description += (
        ": ground truth (JHMDB-GT.pkl, UCF101v2-GT.pkl, multisports_GT.pkl), detections in frames or tubes, "
        "or a folder of VIDEO_tubes.pkl as ACT.py writes them."
    )
    parser.add_argument("source", metavar="SOURCE", type=Path, help="a pickle, or a folder of ACT's")
    parser.add_argument("--output", metavar="FILE", type=output_file, required=True, help="CSV of tubes")
    parser.add_argument(
        "--ground-truth",
        metavar="FILE",
        type=Path,
        help="pickle of the ground truth, which detections take labels and videos from",
    )
    parser.add_argument(
        "--split", type=positive, default=1, metavar="N", help="whose test videos are meant (default: 1)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the CSV and say what is in it."""
    refuse_overwriting(args.output, args.source, args.ground_truth)
    if args.ground_truth is None:
        kind, tubes = "ground_truth", read_ground_truth_tubes(args.source, args.split)
    else:
        kind, tubes = "detections", read_detected_tubes(args.source, args.ground_truth, args.split)
    write_tubes(args.output, tubes, kind)
    boxes, videos = len(tubes.tube), len(set(tubes.video))
    print(f"{args.output}: {len(tubes)} tubes with {boxes} boxes in {videos} videos")
    return 0
