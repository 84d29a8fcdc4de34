"""`vmae-det visualize page`: detections of a file and their video as a page for the browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmae_det.cli.arguments import clock, fraction, output_file, refuse_overwriting

SUMMARY = "a video and the actions of an AVA CSV as a page for the browser"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The video, what its people do, and the page."""
    parser.add_argument("--video", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--detections",
        type=Path,
        required=True,
        metavar="FILE",
        help="AVA CSV, may be gzipped; rows of the video's name without suffix are shown",
    )
    parser.add_argument("--label-map", type=Path, required=True, metavar="FILE", help="pbtxt of the actions")
    parser.add_argument("--output", type=output_file, required=True, metavar="PAGE.html")
    parser.add_argument(
        "--video-start",
        type=clock,
        default=0.0,
        metavar="S",
        help="second of the CSV's clock at which the file starts, 900 for AVA's own (%(default)s)",
    )
    parser.add_argument(
        "--threshold", type=fraction, default=0.3, help="lowest score that is shown at first (%(default)s)"
    )


def draw(args: argparse.Namespace) -> list[Path]:
    """Write the page; gives its path."""
    from vmae_det.formats.ava_csv import read_action_csv
    from vmae_det.formats.label_map import LabelMap
    from vmae_det.inference.detections import ActionDetections
    from vmae_det.rendering.page import write_page

    refuse_overwriting(args.output, args.video, args.detections, args.label_map)
    label_map = LabelMap.from_file(args.label_map)
    rows = read_action_csv(args.detections, label_map, kind="detections")
    detections = ActionDetections.from_rows(rows, args.video, label_map, args.video_start)
    return [write_page(detections, args.output, threshold=args.threshold, progress=True)]
