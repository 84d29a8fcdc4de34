"""`vmae-det benchmark`: time and memory of the program's parts on this machine."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured, and how often."""
    from vmae_det.cli.common import add_config_arguments

    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    summary = "frame-mAP of made-up files of AVA's size, read and scored under both protocols"
    frame_map = parts.add_parser("frame-map", help=summary, description=summary)
    frame_map.add_argument("--rows", type=int, help="detections; as many as of 86,901 persons unless given")

    summary = "clips a second of the loader by stage, beside what decoding alone allows"
    data = parts.add_parser("data", help=summary, description=summary)
    data.add_argument("--clips", type=int, default=64, help="decoded clips of one turn")
    data.add_argument("--videos", metavar="WxH", help="make videos of that size in place of DATASETS.TRAIN")

    summary = "memory of annotations of AVA's size, with one loader process and with many"
    memory = parts.add_parser("loader-memory", help=summary, description=summary)
    memory.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8], help="loader processes")

    for part in (frame_map, data):
        part.add_argument("--repeats", type=int, default=3, help="turns of which the median is given")
    for part in (frame_map, data, memory):
        part.add_argument("--json", metavar="FILE", help="write the figures there, too")
    add_config_arguments(data)


def run(args: argparse.Namespace) -> int:
    """Measure and print a table."""
    from vmae_det.utils.errors import UserError
    from vmae_det.utils.files import write_whole

    if args.part != "loader-memory" and args.repeats < 1:
        raise UserError(f"--repeats must be at least 1, got {args.repeats}")
    parts = {"frame-map": _frame_map, "data": _data, "loader-memory": _loader_memory}
    text, figures = parts[args.part](args)
    print(text)
    if args.json:
        with write_whole(Path(args.json)) as temporary:
            temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def _frame_map(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.ava_files import DETECTION_ROWS
    from vmae_det.benchmarks.frame_map import as_json, benchmark_frame_map, report
    from vmae_det.utils.errors import UserError

    rows = DETECTION_ROWS if args.rows is None else args.rows
    if rows < 1000:
        raise UserError(f"--rows must be at least 1000, got {rows}")
    runs = benchmark_frame_map(rows, args.repeats)
    return report(runs), as_json(runs)


def _loader_memory(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.loader_memory import as_json, benchmark_loader_memory, report
    from vmae_det.utils.errors import UserError

    if min(args.workers) < 1:
        raise UserError(f"--workers must be at least 1, got {min(args.workers)}")
    results = benchmark_loader_memory(tuple(args.workers))
    return report(results), as_json(results)


def _data(args: argparse.Namespace) -> tuple[str, Any]:
    from vmae_det.benchmarks.data import benchmark_data
    from vmae_det.benchmarks.videos import make_videos
    from vmae_det.cli.common import load_config
    from vmae_det.utils.errors import UserError

    if args.clips < 32:
        raise UserError(f"--clips must be at least 32, got {args.clips}")
    with tempfile.TemporaryDirectory() as folder:
        opts = list(args.opts)
        if args.videos:
            width, _, height = args.videos.partition("x")
            if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 64):
                raise UserError(
                    f"--videos takes a size such as 340x256, of 64 pixels or more, got {args.videos}"
                )
            make_videos(Path(folder), int(width), int(height))
            opts += ["DATASETS.TRAIN", (folder,)]
        result = benchmark_data(load_config(args.config_file, opts), args.clips, args.repeats)
    return result.report(), result.to_json()
