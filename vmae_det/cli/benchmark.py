"""`vmae-det benchmark`: how fast the toolkit is on this machine, on data that it makes itself."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from vmae_det.benchmarks.ava_files import DETECTION_ROWS
from vmae_det.utils.files import write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure."""
    topics = parser.add_subparsers(dest="topic", metavar="TOPIC", required=True)
    summary = "read and score files of the size of AVA's validation set"
    frame_map = topics.add_parser("frame-map", help=summary, description=summary)
    frame_map.add_argument(
        "--rows",
        type=_rows,
        default=DETECTION_ROWS,
        help="detections; keyframes and ground truth in proportion (%(default)s)",
    )
    frame_map.add_argument(
        "--repeats", type=_repeats, default=3, help="runs of each measurement (%(default)s)"
    )
    frame_map.add_argument("--json", metavar="FILE", help="write the measurements there, too")


def run(args: argparse.Namespace) -> int:
    """Print a line for each size and protocol; gives the exit status."""
    from vmae_det.benchmarks.frame_map import measure_frame_map

    results = measure_frame_map(args.rows, args.repeats)
    print(
        f"median of {args.repeats}, each a fresh process; total has start and imports, CPU is user + system"
    )
    titles = ("read", "score", "total", "CPU", "peak")
    print(f"{'rows':>9}  {'CSV':>6}  {'protocol':9}  " + "  ".join(f"{title:>7}" for title in titles))
    for entry in results:
        seconds = "  ".join(f"{entry[name]:5.2f} s" for name in ("read_s", "score_s", "total_s", "cpu_s"))
        size, peak = f"{entry['csv_mb']:3.0f} MB", f"{entry['peak_mb'] / 1000:.2f} GB"
        print(f"{entry['rows']:9d}  {size:>6}  {entry['protocol']:9}  {seconds}  {peak}")
    print(f"{os.cpu_count()} CPU cores, load average {os.getloadavg()[0]:.1f} at the end")
    if args.json:
        with write_whole(Path(args.json)) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def _rows(text: str) -> int:
    if (rows := int(text)) < 320:
        raise argparse.ArgumentTypeError("must be 320 or more: a quarter is then a person box with 80 scores")
    return rows


def _repeats(text: str) -> int:
    if (repeats := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return repeats
