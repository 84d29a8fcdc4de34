"""`vmae-det shard`: pack the videos of a dataset into tar shards."""

from __future__ import annotations

import argparse
import re

from vmae_det.cli.arguments import output_folder
from vmae_det.config.ranges import format_value
from vmae_det.data.catalog import get_dataset
from vmae_det.dataset_tools.shard_writer import write_shards

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the dataset, and the folder and size of the shards."""
    parser.epilog = "Run the command again to resume an interrupted run."
    parser.add_argument(
        "dataset", metavar="DATASET", help="dataset file (.yaml), name in the catalog, or folder of videos"
    )
    parser.add_argument(
        "--output",
        type=output_folder,
        required=True,
        metavar="FOLDER",
        help="write the shards to this folder",
    )
    parser.add_argument(
        "--size",
        type=_bytes,
        default=_bytes("1GB"),
        metavar="SIZE",
        help="largest size of a shard, such as 500MB (default: 1GB)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the shards and print how to refer to them; return the exit status."""
    paths = write_shards(get_dataset(args.dataset), args.output, args.size)
    last = paths[-1].stem.rpartition("-")[2]
    print(f"{len(paths)} shards; set `videos` of a dataset file to {args.output}, or to")
    print(f"{args.output}/videos-{{{'0' * len(last)}..{last}}}.tar")
    return 0


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([KMG]B)?", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[(match[2] or "").upper()]) if match else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"expected a size such as 500MB or 1GB, got {format_value(text)}")
    return size
