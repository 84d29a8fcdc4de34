"""`vmae-det benchmark`: time and memory of the program's parts on this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured, and how often."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    summary = "frame-mAP of made-up files of AVA's size, read and scored under both protocols"
    frame_map = parts.add_parser("frame-map", help=summary, description=summary)
    frame_map.add_argument("--rows", type=int, help="detections; as many as of 86,901 persons unless given")
    frame_map.add_argument("--repeats", type=int, default=3, help="runs of which the median is given")
    frame_map.add_argument("--json", metavar="FILE", help="write the figures there, too")


def run(args: argparse.Namespace) -> int:
    """Measure and print a table."""
    from vmae_det.benchmarks.ava_files import DETECTION_ROWS
    from vmae_det.benchmarks.frame_map import as_json, benchmark_frame_map, report
    from vmae_det.utils.errors import UserError
    from vmae_det.utils.files import write_whole

    rows = DETECTION_ROWS if args.rows is None else args.rows
    if rows < 1000 or args.repeats < 1:
        raise UserError(f"--rows must be at least 1000 and --repeats 1, got {rows} and {args.repeats}")
    runs = benchmark_frame_map(rows, args.repeats)
    print(report(runs))
    if args.json:
        with write_whole(Path(args.json)) as temporary:
            temporary.write_text(json.dumps(as_json(runs), indent=1) + "\n", encoding="utf-8")
    return 0
